"""What gateways and the accountant say to each other; `market.routing.messages` has the rest.

Plain frozen records. Batches are lists of these; a reply is a list of the same length in
the same order, where an element may be a `MarketError` instead of the record. One
gateway keeps one batch in flight to each actor, so a batch is as large as its backlog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.accounting.pricing import pieces_of
from market.types import (
    AccountId,
    KeyId,
    MachineId,
    ModelId,
    ProviderId,
    RequestId,
    Usage,
)

DRAINING = "The market is draining."
"""What a gateway's readiness says while the door is closed; `/readyz` knows it by this."""

# ── accountant ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ResolveKey:
    """Whose key is this? `key_hash` is the keyed hash; the secret never travels."""

    key_hash: bytes


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do at most. Caps are nano-USD per UTC day, ISO week and month.

    `models` are the only ones it may use; empty is all.
    """

    models: frozenset[str] = frozenset()
    cap_day_nano: int | None = None
    cap_week_nano: int | None = None
    cap_month_nano: int | None = None


@dataclass(frozen=True, slots=True)
class KeySpend:
    """What a key has spent in its present windows, and when each of them ends (Unix time)."""

    day_nano: int
    week_nano: int
    month_nano: int
    held_nano: int
    day_ends_s: float
    week_ends_s: float
    month_ends_s: float


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A live API key. `scopes` holds names such as "inference" and "keys".

    `machines` are those linked to the account, where the key was resolved; else empty.
    """

    key_id: KeyId
    account: AccountId
    scopes: frozenset[str]
    tier: str
    name: str = ""
    prefix: str = ""  # the first characters, for lists
    created_s: float = 0.0
    revoked_s: float | None = None
    expires_s: float | None = None
    limits: KeyLimits = KeyLimits()
    replaces: KeyId | None = None
    machines: tuple[MachineId, ...] = ()


@dataclass(frozen=True, slots=True)
class Admit:
    """Take this request in: key, rate tier, tokens per day, caps and the hold, in one step.

    `max_tokens` is what the caller asked for, or None; `max_tokens_cap` is the smaller
    of the model's cap and the context left, per choice. `idempotency` is the hash of the
    caller's own key for this request and `fingerprint` the hash of its contents. `budget_nano`
    is what the caller will pay at most for this one: the hold never takes more.
    """

    request_id: RequestId
    key_hash: bytes
    model: ModelId
    prompt_tokens: int
    max_tokens: int | None
    max_tokens_cap: int
    n: int = 1
    idempotency: str | None = None
    fingerprint: str | None = None
    budget_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """The caller's own key was used for this very request before: it has ended and is paid.

    `kept` says that its answer can be had (`Accountant.outcome`).
    """

    request_id: RequestId
    kept: bool


@dataclass(frozen=True, slots=True)
class RateState:
    """The caller's limits after this request. A limit of None is unlimited."""

    limit_requests: int | None
    remaining_requests: int | None
    reset_requests_s: float
    limit_tokens: int | None
    remaining_tokens: int | None
    reset_tokens_s: float


@dataclass(frozen=True, slots=True)
class Funding:
    """The legs of a hold in nano-USD; promo is spent before cash, earnings last."""

    promo_nano: int
    cash_nano: int
    earnings_nano: int = 0

    @property
    def total_nano(self) -> int:
        return self.promo_nano + self.cash_nano + self.earnings_nano


@dataclass(frozen=True, slots=True)
class Part:
    """What one Mac delivered of an answer before it was lost and another one went on.

    Its price per token is `ask_pct` per cent of the hold's (`market.money.asked_nano`).
    """

    payee: AccountId
    machine: MachineId
    provider: ProviderId
    completion_tokens: int
    ask_pct: int = 100


@dataclass(frozen=True, slots=True)
class Admitted:
    """A hold that covers the worst case at prices frozen now."""

    request_id: RequestId
    account: AccountId
    key_id: KeyId
    max_tokens: int  # per choice; what the hold covers and the gateway enforces
    funding: Funding
    price_in_nano: int  # nano-USD per prompt token
    price_out_nano: int
    rate: RateState
    price_cached_nano: int = 0  # nano-USD per prompt token found in a cache

    def cost_nano(self, usage: Usage, before: Sequence[Part] = (), ask_pct: int = 100) -> int:
        """What a settlement with this usage, these parts and this ask will charge.

        By the very function that the ledger charges with, so that the two cannot differ.
        """
        prices_nano = (self.price_in_nano, self.price_cached_nano, self.price_out_nano)
        return sum(piece.cost_nano for piece in pieces_of(usage, prices_nano, before, ask_pct))


@dataclass(frozen=True, slots=True)
class Settle:
    """Charge what was delivered and pay who delivered it.

    `usage` is the whole answer's. The payee named here has finished it: the prompt is theirs,
    and every completion token that is not in `before`, the parts of Macs that were lost.
    """

    request_id: RequestId
    payee: AccountId
    machine: MachineId
    provider: ProviderId
    usage: Usage
    finish_reason: str
    attempts: int = 1
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    outcome: bytes | None = None  # the sealed answer of a request with an idempotency key
    ask_pct: int = 100
    before: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """The durable outcome. `provider_nano + fee_nano == cost_nano` exactly."""

    request_id: RequestId
    cost_nano: int
    provider_nano: int
    fee_nano: int
    usage: Usage
    settled_s: float


@dataclass(frozen=True, slots=True)
class Void:
    """Release the hold; nobody pays. `reason` ends up in the request's record."""

    request_id: RequestId
    reason: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Voided:
    """The hold is released."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A running request's progress; renews the lease of its hold.

    If the gateway dies, the hold is settled at the last checkpoint when it expires.
    `payee is None` until a provider has delivered the first token.
    """

    request_id: RequestId
    usage: Usage
    payee: AccountId | None = None
    machine: MachineId | None = None
    provider: ProviderId | None = None
    ask_pct: int = 100
    before: tuple[Part, ...] = ()


AccountantOp = ResolveKey | Admit | Settle | Void | Checkpoint
AccountantReply = KeyRecord | Admitted | Replay | Settled | Voided | None


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's money in nano-USD. Each part is what new holds may still take.

    The balance is credit plus earnings; what open holds reserve stands beside it. Only
    earnings can be withdrawn, and those that are still maturing neither spent nor withdrawn.
    `owed_nano` is a debt after a dispute; the next top-up pays it first.
    """

    promo_nano: int
    cash_nano: int
    earnings_nano: int
    held_nano: int
    maturing_nano: int = 0
    owed_nano: int = 0

    @property
    def balance_nano(self) -> int:
        return self.promo_nano + self.cash_nano + self.earnings_nano

    @property
    def withdrawable_nano(self) -> int:
        return self.earnings_nano
