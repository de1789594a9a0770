"""What the accountant does for customers: accounts, keys, limits, prices, linked machines.

A call may carry its caller's idempotency key. Ids and secrets are then derived from it and
the market's pepper, so that a repetition gives the same account or key and the same secret,
which nobody has kept. Acts of administration leave an operation row: who, what and why.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from actors.accounting.core import AccountantCore
from market import keys
from market.accounting.caps import resets_at_s, windows_of
from market.accounting.prices import Price
from market.accounting.registry import unclaimed
from market.accounting.rows import OperationRow
from market.accounting.state_rows import KeyRow, OwnerRow, PriceRow, scopes_text
from market.errors import Conflict, InvalidRequest
from market.messages import KeyLimits, KeyRecord, KeySpend
from market.types import AccountId, KeyId, MachineId, ModelId

ROTATION_S_MAX: Final = 30 * 86_400.0
REASON_CHARS_MAX: Final = 200
ROTATED: Final = "rotated"  # in what a rotated key's secret is derived from: names may change


class CustomerMethods(AccountantCore):
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
        if self._operations.before("claim", machine, (account,)) is None:
            own_promo_nano = await self._store.promo_paid(account, unclaimed(machine))
        if self._operations.before("claim", machine, (account,)) is None:
            now_ns = self._now_ns()
            moved = self._books.claim(machine, account, own_promo_nano, now_ns)
            told = json.dumps({"moved_nano": str(moved), "actor": actor}, sort_keys=True)
            done = self._operations.remember("claim", machine, (account,), told, now_ns)
            self._books.ledger.changes.operations.append(done)
        else:
            moved = self._books.claim(machine, account, 0, self._now_ns())
        await self._written()
        return moved

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

    # ── keys ──────────────────────────────────────────────────────────────────────────

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str] = keys.INFERENCE_SCOPES,
        expires_s: float | None = None,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is shown only once. `expires_s`: Unix time.

        With an idempotency key a repetition gives the same key and secret.
        """
        self._check_alive()
        limits = limits or KeyLimits()
        contents = (account, name, scopes_text(frozenset(scopes)), limits_text(limits))
        call = None if idempotency is None else f"{account}\x1f{idempotency}"
        if call is not None and self._operations.before("create_key", call, contents):
            return self._derived_key(account, name, call)
        record, secret = self._new_key(
            account, name, scopes, expires_s, limits=limits, idempotency=call
        )
        if call is not None:
            done = self._operations.remember(
                "create_key", call, contents, record.key_id, self._now_ns()
            )
            self._books.ledger.changes.operations.append(done)
        await self._written()
        return record, secret

    async def rotate_key(
        self, account: AccountId, key_id: KeyId, grace_s: float, idempotency: str | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key with everything the old one may do; the old one lives on for `grace_s`.

        With an idempotency key a repetition gives the same new key and secret.
        """
        self._check_alive()
        old = self._books.customers.key(account, key_id).row
        call = None if idempotency is None else f"rotate\x1f{account}\x1f{idempotency}"
        contents = (account, key_id, grace_s)
        if call is not None and self._operations.before("rotate_key", call, contents):
            return self._derived_key(account, ROTATED, call)
        if old.revoked_ns is not None:
            raise Conflict("This key is revoked; create a new one.", "key_id", "revoked_api_key")
        if not 0 <= grace_s <= ROTATION_S_MAX:
            raise InvalidRequest(
                f"grace_s must be from 0 to {ROTATION_S_MAX:.0f} seconds.", "grace_s"
            )
        now_ns = self._now_ns()
        limits = self._books.customers.key(account, key_id).record.limits
        secret = keys.new_secret(self._random(f"key {ROTATED}", account, call))
        record = self._enter_key(
            account, old.name, old.scopes.split(), None, secret, limits, key_id
        )
        if call is not None:
            done = self._operations.remember("rotate_key", call, contents, record.key_id, now_ns)
            self._books.ledger.changes.operations.append(done)
        ends_ns = now_ns + int(grace_s * 1e9)
        if old.expires_ns is None or old.expires_ns > ends_ns:
            self._books.change_key(old._replace(expires_ns=ends_ns))
        await self._written()
        return record, secret

    async def change_key(
        self, account: AccountId, key_id: KeyId, name: str | None, limits: KeyLimits | None
    ) -> KeyRecord:
        """Rename a key or give it other caps and models; raises NotFound, InvalidRequest."""
        self._check_alive()
        row = self._books.customers.key(account, key_id).row
        if name is not None:
            row = row._replace(name=name)
        if limits is not None:
            row = _with_limits(row, limits)
        record = self._books.change_key(row)
        await self._written()
        return record

    async def ensure_key(
        self, account: AccountId, name: str, scopes: Iterable[str], secret: str
    ) -> KeyRecord:
        """The key with this secret, entered on first call; for keys the operator keeps."""
        self._check_alive()
        known = self._books.customers.find_key(keys.key_hash(secret, self._pepper))
        if known is not None:
            if known.account != account:
                raise Conflict("This key belongs to another account.", None, "key_taken")
            return known
        record = self._enter_key(account, name, scopes, None, secret, KeyLimits(), None)
        await self._written()
        return record

    async def list_keys(self, account: AccountId) -> list[KeyRecord]:
        """Every key of the account, oldest first, revoked ones included."""
        self._check_alive()
        return self._books.customers.keys_of(account)

    async def key_spend(self, account: AccountId, key_id: KeyId) -> KeySpend:
        """What a capped key has spent in its present windows; zeros for one without caps."""
        self._check_alive()
        meter = self._books.customers.key(account, key_id).meter
        now = windows_of(self._now_ns())
        meter.roll(now)
        day_nano, week_nano, month_nano = meter.used
        ends_s = [resets_at_s(window, now) for window in range(len(now))]
        return KeySpend(day_nano, week_nano, month_nano, meter.reserved[0], *ends_s)

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        """End a key now. Again is no error; someone else's key is NotFound."""
        self._check_alive()
        record = self._books.revoke(account, key_id, self._now_ns())
        await self._written()
        return record

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _random(self, kind: str, scope: str, idempotency: str | None) -> bytes:
        """Random bytes; the same again for the same idempotency key, and only with the pepper."""
        if idempotency is None:
            return secrets.token_bytes(keys.RANDOM_BYTES)
        text = "\x1f".join((kind, scope, idempotency))
        return hmac.digest(self._pepper, text.encode("utf-8", "surrogatepass"), sha256)

    def _derived_key(
        self, account: AccountId, name: str, idempotency: str
    ) -> tuple[KeyRecord, str]:
        secret = keys.new_secret(self._random(f"key {name}", account, idempotency))
        record = self._books.customers.find_key(keys.key_hash(secret, self._pepper))
        assert record is not None
        return record, secret

    def _new_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str],
        expires_s: float | None,
        *,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        secret = keys.new_secret(self._random(f"key {name}", account, idempotency))
        limits = limits or KeyLimits()
        return self._enter_key(account, name, scopes, expires_s, secret, limits, None), secret

    def _enter_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str],
        expires_s: float | None,
        secret: str,
        limits: KeyLimits,
        replaces: KeyId | None,
    ) -> KeyRecord:
        row = KeyRow(
            id=KeyId(keys.new_id("key", secrets.token_bytes(12))),
            owner=account,
            hash=keys.key_hash(secret, self._pepper),
            name=name,
            prefix=keys.shown_prefix(secret),
            scopes=scopes_text(frozenset(scopes)),
            created_ns=self._now_ns(),
            expires_ns=None if expires_s is None else int(expires_s * 1e9),
            revoked_ns=None,
            replaces=replaces,
        )
        return self._books.add_key(_with_limits(row, limits))

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


def limits_text(limits: KeyLimits) -> tuple[object, ...]:
    """A key's limits in an order of their own, to be compared."""
    return (
        scopes_text(limits.models),
        limits.cap_day_nano,
        limits.cap_week_nano,
        limits.cap_month_nano,
    )


def _with_limits(row: KeyRow, limits: KeyLimits) -> KeyRow:
    return row._replace(
        models=scopes_text(limits.models),
        cap_day_nano=limits.cap_day_nano,
        cap_week_nano=limits.cap_week_nano,
        cap_month_nano=limits.cap_month_nano,
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
