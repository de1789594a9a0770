"""An accountant in memory: holds, settles and voids exactly, and goes away when told."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from market.accounting.prices import Price
from market.accounting.pricing import pieces_of
from market.accounting.rows import DeliveryRow
from market.accounting.state_rows import OwnerRow
from market.accounting.statistics import Told, Worked, WorkQuestion
from market.catalogue import Catalogue
from market.errors import (
    Conflict,
    NotFound,
    PaymentRequired,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from market.messages import (
    AccountantOp,
    AccountantReply,
    Admit,
    Admitted,
    Checkpoint,
    Funding,
    KeyLimits,
    KeyRecord,
    RateState,
    ResolveKey,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import (
    AccountId,
    KeyId,
    ModelId,
    RequestId,
)

ADA = AccountId("acct_ada")
MAC_OWNER = AccountId("acct_owner")
TEN_DOLLARS = 10_000_000_000


def hash_key(secret: str) -> bytes | None:
    """The keyed hash of a well-formed test key."""
    return hashlib.sha256(secret.encode()).digest() if secret.startswith("sk-test-") else None


@dataclass
class Account:
    credit_nano: int
    earnings_nano: int = 0
    held_nano: int = 0


@dataclass
class Row:
    """A request as the ledger keeps it; satisfies `UsageView`."""

    request_id: RequestId
    owner: AccountId
    model: ModelId
    key_id: KeyId
    held_nano: int
    prompt_tokens: int
    status: str = "held"
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    provider: str | None = None
    finish_reason: str = ""
    attempts: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    created_ns: int = 0
    finished_ns: int = 0


@dataclass
class Money:
    """What `BalanceView` shows."""

    promo_nano: int
    cash_nano: int
    earnings_nano: int
    held_nano: int
    maturing_nano: int = 0
    owed_nano: int = 0


class Accountant:
    """Holds, settles and voids exactly, in memory; `away` makes it unreachable."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.accounts = {ADA: Account(TEN_DOLLARS), MAC_OWNER: Account(0)}
        self.keys: dict[bytes, KeyRecord] = {}
        self.rows: dict[RequestId, Row] = {}
        self.delivered: dict[RequestId, list[DeliveryRow]] = {}
        self.ops: list[AccountantOp] = []
        self.away = 0
        self.away_for: type | None = None
        self.rate_limited = False
        self.tier = "free"
        self.before: Callable[[AccountantOp], None] = lambda op: None
        self.made = 0

    def add_key(self, secret: str, account: AccountId, *scopes: str) -> KeyRecord:
        self.made += 1
        record = KeyRecord(
            KeyId(f"key_{self.made}"),
            account,
            frozenset(scopes),
            self.tier,
            "test",
            secret[:12],
            1_700_000_000.0,
        )
        digest = hash_key(secret)
        assert digest is not None
        self.keys[digest] = record
        return record

    async def op(self, op: AccountantOp) -> AccountantReply:
        await asyncio.sleep(0)
        self.before(op)
        if self.away and (self.away_for is None or isinstance(op, self.away_for)):
            self.away -= 1
            raise Unavailable("The accountant is away.", None, "accountant_away", 1.0)
        self.ops.append(op)
        if isinstance(op, ResolveKey):
            return self._key(op.key_hash)
        if isinstance(op, Admit):
            return self._admit(op)
        if isinstance(op, Settle):
            return self._settle(op)
        if isinstance(op, Void):
            return self._void(op)
        assert isinstance(op, Checkpoint)
        return None

    def _key(self, key_hash: bytes) -> KeyRecord:
        record = self.keys.get(key_hash)
        if record is None or record.revoked_s is not None:
            raise Unauthenticated("This key is not valid.", None, "invalid_api_key")
        return record

    def _admit(self, op: Admit) -> Admitted:
        record = self._key(op.key_hash)
        if self.rate_limited:
            raise RateLimited("60 requests per minute.", None, "requests", 7.2)
        card = self.catalogue.get(op.model)
        account = self.accounts[record.account]
        fixed = op.prompt_tokens * card.price_in_nano
        free = account.credit_nano - account.held_nano
        affordable = (free - fixed) // (card.price_out_nano * op.n)
        if op.budget_nano is not None and op.budget_nano < free:
            fits = (op.budget_nano - fixed) // (card.price_out_nano * op.n)
            if fits < (op.max_tokens or 1):
                raise PaymentRequired(
                    f"max_tokens of at most {max(0, fits)} fits.", "max_cost_usd", "budget_exceeded"
                )
            affordable = fits
        wanted = min(op.max_tokens_cap, affordable) if op.max_tokens is None else op.max_tokens
        if wanted < 1 or wanted > affordable:
            raise PaymentRequired(
                f"The balance affords {max(0, affordable)} tokens.", "max_tokens", "balance"
            )
        held = fixed + wanted * op.n * card.price_out_nano
        account.held_nano += held
        self.rows[op.request_id] = Row(
            op.request_id,
            record.account,
            op.model,
            record.key_id,
            held,
            op.prompt_tokens,
            created_ns=time.time_ns(),
        )
        return Admitted(
            op.request_id,
            record.account,
            record.key_id,
            wanted,
            Funding(held, 0),
            card.price_in_nano,
            card.price_out_nano,
            RateState(60, 59, 1.0, 200_000, 190_000, 86_400.0),
            card.price_in_nano,
        )

    def _settle(self, op: Settle) -> Settled:
        row = self.rows.get(op.request_id)
        if row is None:
            raise NotFound("No such hold.", None, "no_hold")
        if row.status not in ("held", "settled"):
            raise Conflict("It has ended already.", None, "request_ended")
        card = self.catalogue.get(row.model)
        usage = op.usage
        prices_nano = (card.price_in_nano, card.price_in_nano, card.price_out_nano)
        pieces = pieces_of(usage, prices_nano, op.before, op.ask_pct)
        cost = sum(piece.cost_nano for piece in pieces)
        if row.status == "held":
            assert cost <= row.held_nano
            account = self.accounts[row.owner]
            account.held_nano -= row.held_nano
            account.credit_nano -= cost
            delivered = self.delivered[op.request_id] = []
            for number, (mac, piece) in enumerate(zip((*op.before, op), pieces, strict=True)):
                self.accounts[mac.payee].earnings_nano += piece.cost_nano
                who = (op.request_id, number, mac.payee, mac.machine, mac.provider)
                paid = (piece.cost_nano, 0, piece.cost_nano, 0, 0)
                delivered.append(DeliveryRow(*who, *piece, *paid))
            row.status, row.cost_nano = "settled", cost
            row.completion_tokens = usage.completion_tokens
            row.cached_tokens = usage.cached_tokens
            row.provider, row.finish_reason = op.provider, op.finish_reason
            row.attempts, row.finished_ns = op.attempts, time.time_ns()
        return Settled(op.request_id, row.cost_nano, row.cost_nano, 0, usage, time.time())

    def _void(self, op: Void) -> Voided:
        row = self.rows.get(op.request_id)
        if row is None:
            raise NotFound("No such hold.", None, "no_hold")
        if row.status == "held":
            self.accounts[row.owner].held_nano -= row.held_nano
            row.status, row.finish_reason = "voided", op.reason
        elif row.status != "voided":
            raise Conflict("It has ended already.", None, "request_ended")
        return Voided(op.request_id)

    async def create_account(
        self, name: str, *, idempotency: str | None = None, fingerprint: str = ""
    ) -> tuple[AccountId, KeyRecord, str]:
        account = AccountId(f"acct_{len(self.accounts)}")
        self.accounts[account] = Account(TEN_DOLLARS)
        secret = f"sk-test-management-{account}"
        return account, self.add_key(secret, account, "keys", "billing:read"), secret

    async def account(self, account: AccountId) -> OwnerRow:
        return OwnerRow(account, "", self.tier, 1, "", TEN_DOLLARS)

    async def worked(self, question: WorkQuestion) -> Told[Worked]:
        raise Unavailable("No sums are kept here.", None, "history_unavailable")

    def prices(self) -> dict[ModelId, Price]:
        return {}

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: frozenset[str],
        expires_s: float | None,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        secret = f"sk-test-made-{self.made}"
        made = self.add_key(secret, account, *scopes)
        record = replace(made, name=name, expires_s=expires_s, limits=limits or KeyLimits())
        digest = hash_key(secret)
        assert digest is not None
        self.keys[digest] = record
        return record, secret

    async def list_keys(self, account: AccountId) -> list[KeyRecord]:
        return [record for record in self.keys.values() if record.account == account]

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        for digest, record in self.keys.items():
            if record.key_id == key_id and record.account == account:
                self.keys[digest] = replace(record, revoked_s=time.time())
                return self.keys[digest]
        raise NotFound("No such key.", "key_id", "no_key")

    async def balance(self, account: AccountId) -> Money:
        mine = self.accounts[account]
        return Money(mine.credit_nano - mine.held_nano, 0, mine.earnings_nano, mine.held_nano)

    async def usage(self, account: AccountId, limit: int) -> Sequence[Row]:
        mine = [row for row in self.rows.values() if row.owner == account and row.cost_nano]
        return mine[::-1][:limit]

    async def deliveries(self, account: AccountId, request_id: RequestId) -> list[DeliveryRow]:
        await self.generation(account, request_id)
        return self.delivered.get(request_id, [])

    async def generation(self, account: AccountId, request_id: RequestId) -> Row:
        row = self.rows.get(request_id)
        if row is None or row.owner != account:
            raise NotFound("No such request of this account.", "request_id", "no_request")
        return row
