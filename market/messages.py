"""What gateways, the accountant, the router and providers say to each other.

Plain frozen records. Batches are lists of these; a reply is a list of the same length in
the same order, where an element may be a `MarketError` instead of the record. One
gateway keeps one batch in flight to each actor, so a batch is as large as its backlog.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.types import (
    AccountId,
    EngineStats,
    GatewayId,
    Hardware,
    KeyId,
    MachineId,
    ModelFacts,
    ModelId,
    ProviderId,
    RequestClass,
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
    """A live API key. `scopes` holds names such as "inference" and "keys"."""

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


@dataclass(frozen=True, slots=True)
class Admit:
    """Take this request in: key, rate tier, tokens per day, caps and the hold, in one step.

    `max_tokens` is what the caller asked for, or None; `max_tokens_cap` is the smaller
    of the model's cap and the context left, per choice. `idempotency` is the hash of the
    caller's own key for this request and `fingerprint` the hash of its contents.
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

    def cost_nano(self, usage: Usage) -> int:
        """What this usage costs at the frozen prices."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.price_in_nano
            + usage.cached_tokens * self.price_cached_nano
            + usage.completion_tokens * self.price_out_nano
        )


@dataclass(frozen=True, slots=True)
class Settle:
    """Charge what was delivered and pay who delivered it."""

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


# ── router ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider's framed connection listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """Find a Mac for this job and reserve `n` slots on it.

    `funding is None`: answer now with a Grant or a Busy, never queue. With funding the
    request waits in the fair queue, for at most `deadline_s` seconds, and the grant
    comes through the gateway's poll. `attempt` counts from 1; `excluded` are the Macs
    that already failed it.
    """

    request_id: RequestId
    gateway: GatewayId
    consumer: AccountId
    model: ModelId
    prompt_tokens: int
    max_tokens: int
    n: int = 1
    request_class: RequestClass = "interactive"
    attempt: int = 1
    excluded: tuple[MachineId, ...] = ()
    deadline_s: float = 30.0
    funding: Funding | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A reserved slot. It must be released by an Outcome, or lapses with the gateway."""

    request_id: RequestId
    attempt: int
    machine: MachineId
    provider: ProviderId
    payee: AccountId
    endpoint: Endpoint
    predicted_ttft_ms: float


@dataclass(frozen=True, slots=True)
class Busy:
    """No slot is free now; come again with funding to wait in the queue."""

    request_id: RequestId
    position: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A queued request that will not be served; `error` is a picklable MarketError."""

    request_id: RequestId
    error: Exception


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. Frees its slots and teaches the router.

    `result`: "ok", "cancelled" (the client left), "failed" (the Mac's fault), "rejected"
    (the Mac said no). `final` closes the request's decision record.
    """

    request_id: RequestId
    attempt: int
    machine: MachineId
    result: str
    final: bool
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True, slots=True)
class GatewayBeat:
    """A gateway's declaration, sent with every poll.

    `running` lists its live grants as (request, attempt, machine, slots): a restarted
    router rebuilds its counters from them. `counters` are cumulative metrics.
    """

    gateway: GatewayId
    pid: int
    node: str
    running: tuple[tuple[RequestId, int, MachineId, int], ...]
    queued: tuple[RequestId, ...]
    counters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderBeat:
    """A provider's declaration, sent once a second and at each change of state.

    `incarnation` grows with each start of the actor on the same machine; an older one is
    refused. `state` is a name of market.provider_state.State.
    """

    machine: MachineId
    provider: ProviderId
    owner: AccountId
    incarnation: int
    pid: int
    node: str
    endpoint: Endpoint
    hardware: Hardware
    state: str
    reason: str
    models: tuple[ModelFacts, ...]
    stats: EngineStats | None
    code_version: str
    uptime_s: float


@dataclass(frozen=True, slots=True)
class ProviderOrders:
    """The router's answer to a beat: what the provider should be doing."""

    drain: bool
    known: bool = True  # False: an older incarnation; stop


@dataclass(frozen=True, slots=True)
class ModelAvailability:
    """How one model stands in the fleet, for /v1/models, from cache."""

    model: ModelId
    providers: int
    ready: int
    free_slots: int
    queued: int
