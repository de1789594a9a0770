"""What the accountant does for customers: accounts, prices, linked machines.

A call may carry its caller's idempotency key. Ids and secrets are then derived from it and
the market's pepper, so that a repetition gives the same account or key and the same secret,
which nobody has kept. Acts of administration leave an operation row: who, what and why.
"""

from __future__ import annotations

import json
from typing import Final

from actors.accounting.keys import KeyMethods
from market import keys
from market.accounting.prices import Price
from market.accounting.registry import unclaimed
from market.accounting.rows import OperationRow
from market.accounting.state_rows import OwnerRow, PriceRow
from market.errors import InvalidRequest
from market.messages import KeyRecord
from market.types import AccountId, MachineId, ModelId

REASON_CHARS_MAX: Final = 200


class CustomerMethods(KeyMethods):
    """Accounts and keys. Each answer is durable when it is given."""

    # ── accounts ──────────────────────────────────────────────────────────────────────

    async def create_account(
        self,
        name: str,
        tier: str = "free",
        promo_nano: int | None = None,
        idempotency: str | None = None,
        fingerprint: str = "",
    ) -> tuple[AccountId, KeyRecord, str]:
        """A new account, its management key and that key's secret.

        `promo_nano` of None is what the market grants to a sign-up from this `fingerprint`.
        With an idempotency key a repetition gives the same three; the key must be as hard
        to guess as a secret, for it stands for one.
        """
        self._check_alive()
        contents = (name, tier, promo_nano)
        if idempotency is not None:
            before = self._operations.before("create_account", idempotency, contents)
            if before is not None:
                record, secret = self._derived_key(AccountId(before), "management", idempotency)
                return AccountId(before), record, secret
        now_ns = self._now_ns()
        granted = self._promos.due(fingerprint, now_ns) if promo_nano is None else promo_nano
        random = self._random("account", "", idempotency)
        owner = OwnerRow(
            AccountId(keys.new_id("acct", random[:12])), name, tier, now_ns, fingerprint
        )
        self._books.create_owner(owner, granted)
        if fingerprint:
            self._promos.granted(fingerprint, granted, now_ns)
        record, secret = self._new_key(
            owner.id, "management", keys.MANAGEMENT_SCOPES, None, idempotency=idempotency
        )
        if idempotency is not None:
            done = self._operations.remember(
                "create_account", idempotency, contents, owner.id, now_ns
            )
            self._books.ledger.changes.operations.append(done)
        await self._written()
        return owner.id, record, secret

    async def ensure_account(
        self, account: AccountId, name: str, tier: str = "free", promo_nano: int | None = None
    ) -> OwnerRow:
        """The account of this id, created on first call; for accounts the operator names."""
        self._check_alive()
        if account not in self._books.customers:
            row = OwnerRow(account, name, tier, self._now_ns())
            promo = self._settings.promo.amount_nano if promo_nano is None else promo_nano
            self._books.create_owner(row, promo)
            await self._written()
        return self._books.customers.get(account).row

    async def account(self, account: AccountId) -> OwnerRow:
        """An account's row: tier, limits, fee, freeze. Raises NotFound."""
        self._check_alive()
        return self._books.customers.get(account).row

    async def change_account(
        self, account: AccountId, fields: dict[str, object], actor: str, reason: str
    ) -> OwnerRow:
        """Change an account's name, tier, fee_bps, limits or freeze; an act of administration.

        Raises InvalidRequest for other fields or values out of range.
        """
        self._check_alive()
        self._check_act(actor, reason)
        row = self._books.customers.get(account).row
        changed = row._replace(**_account_fields(fields))  # type: ignore[arg-type]
        self._books.change_owner(changed)
        self._note("account", account, {"account": account, **fields}, actor, reason)
        await self._written()
        return changed

    async def link_machine(self, machine: MachineId, account: AccountId, actor: str) -> int:
        """A machine earns for this account from now on; moves what it has earned, nano-USD.

        May be repeated: what an interruption has left undone is then done.
        """
        self._check_alive()
        self._check_act(actor, "")
        self._books.link(machine, account, self._now_ns(), actor)
        await self._written()  # from here on nothing more is earned into its own account
        own_promo_nano = 0
        if self._operations.before("claim", f"{machine} {account}", ()) is None:
            own_promo_nano = await self._store.promo_paid(account, unclaimed(machine))
        if self._operations.before("claim", f"{machine} {account}", ()) is None:
            now_ns = self._now_ns()
            moved = self._books.claim(machine, account, own_promo_nano, now_ns)
            told = json.dumps({"moved_nano": str(moved), "actor": actor}, sort_keys=True)
            done = self._operations.remember("claim", f"{machine} {account}", (), told, now_ns)
            self._books.ledger.changes.operations.append(done)
        else:
            moved = self._books.claim(machine, account, 0, self._now_ns())
        await self._written()
        return moved

    async def unlink_machine(self, machine: MachineId, actor: str) -> AccountId:
        """A machine earns into its own unclaimed account again; who it had been linked to."""
        self._check_alive()
        self._check_act(actor, "")
        owner = self._books.unlink(machine)
        self._note("unlink", machine, {"machine": machine, "account": owner}, actor, "unlinked")
        await self._written()
        return owner

    # ── prices ────────────────────────────────────────────────────────────────────────

    async def prices(self) -> dict[ModelId, Price]:
        """What every model on offer costs now, in nano-USD per token."""
        self._check_alive()
        cards = self._settings.catalogue.enabled()
        return {card.id: self._books.prices.now(card) for card in cards}

    async def price_history(self, model: str) -> list[PriceRow]:
        """Every price of a model that was set, oldest first. Raises NotFound."""
        self._check_alive()
        return self._books.prices.history(self._settings.catalogue.get(model).id)

    async def set_price(self, model: str, price: Price, actor: str, reason: str) -> PriceRow:
        """A new price from now on. Requests that hold money already pay what was frozen."""
        self._check_alive()
        self._check_act(actor, reason)
        row = self._books.set_price(model, price, actor=actor, reason=reason, now_ns=self._now_ns())
        await self._written()
        return row

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _check_act(self, actor: str, reason: str) -> None:
        """Refuse an act whose note could not be written, before it has any effect."""
        _text(actor)
        _text(reason)

    def _note(
        self, kind: str, subject: str, act: dict[str, object], actor: str, reason: str
    ) -> None:
        """Write an act of administration into the journal."""
        now_ns = self._now_ns()
        told = json.dumps({**act, "actor": actor, "reason": reason}, sort_keys=True)
        self._books.ledger.changes.operations.append(
            OperationRow(f"{kind}:{subject}:{now_ns}", "", told, now_ns)
        )


def _text(text: str) -> str:
    if len(text) > REASON_CHARS_MAX or not text.isprintable():
        raise InvalidRequest(f"Say it in at most {REASON_CHARS_MAX} printable characters.")
    return text


_BOUNDS: Final = {
    "fee_bps": 10_000,
    "requests_per_min": 10_000_000,
    "tokens_per_day": 2**53,
}


def _account_fields(fields: dict[str, object]) -> dict[str, object]:
    """The fields of an account that may be changed, checked one by one."""
    for name, value in fields.items():
        if name in ("tier", "name", "frozen"):
            if not isinstance(value, str):
                raise InvalidRequest(f"{name} must be text.", name)
            _text(value)
        elif name in _BOUNDS:
            sane = value is None or (
                isinstance(value, int)
                and not isinstance(value, bool)
                and 0 <= value <= _BOUNDS[name]
            )
            if not sane:
                raise InvalidRequest(f"{name} must be from 0 to {_BOUNDS[name]}, or null.", name)
        else:
            raise InvalidRequest(f"An account has no field {name[:40]!r} to change.", name[:40])
    return fields
