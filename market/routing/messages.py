"""What gateways, the router and Macs say to each other.

Plain frozen records, in batches as those of `market.messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from market.messages import Funding
from market.policy.preferences import NO_PREFERENCES, Preferences
from market.types import (
    AccountId,
    EngineStats,
    GatewayId,
    Hardware,
    MachineId,
    ModelFacts,
    ModelId,
    ProviderId,
    RequestClass,
    RequestId,
)


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

    `finish_by_s` is the caller's own deadline for the whole answer, in seconds from now.
    Prices are what the hold froze, nano-USD per token. `prefix` are the chained hashes of the
    prompt's blocks (`market.policy.prefixes`), `session` keeps a conversation on one Mac for
    policies that want it. An answer that goes on after its Mac was lost names the `digest` it
    needs and how many tokens were said. A `hedge` is a second try beside one that is slow: it
    gets a slot nobody else wants, or nothing.
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
    finish_by_s: float | None = None
    preferences: Preferences = NO_PREFERENCES
    price_in_nano: int = 0
    price_out_nano: int = 0
    prefix: tuple[int, ...] = ()
    session: str = ""
    digest: str = ""
    said_tokens: int = 0
    hedge: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A reserved slot. It must be released by an Outcome, or lapses with the gateway.

    A first token later than `hedge_after_ms` is late enough to try a second Mac beside this
    one; 0 is never. `digest` names the weights and tokenizer that answer.
    """

    request_id: RequestId
    attempt: int
    machine: MachineId
    provider: ProviderId
    payee: AccountId
    endpoint: Endpoint
    predicted_ttft_ms: float
    digest: str = ""
    ask_pct: int = 100
    hedge_after_ms: float = 0.0


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
class QuotedMac:
    """What one Mac is expected to do for a request, half of the time and nine times in ten.

    `free` says that it could begin now; else one of its requests has to end first. `chosen`
    is the one that would serve it.
    """

    provider: ProviderId
    chosen: bool
    free: bool
    ask_pct: int
    cached_tokens: int
    ttft_ms: float
    high_ttft_ms: float
    tps: float
    low_tps: float
    total_ms: float
    high_total_ms: float


@dataclass(frozen=True, slots=True)
class Quote:
    """What would become of a request that is not made.

    `macs` are those that may serve it, best first, `able` how many there are in all.
    `ruled_out` counts the others by reason, in words too. Tokens are of one choice. `wait_s` is
    how long it would wait for a slot, None where nobody can say. `error` is a picklable
    MarketError: what it would be refused with.
    """

    request_id: RequestId
    macs: tuple[QuotedMac, ...]
    able: int
    ruled_out: tuple[tuple[str, int, str], ...]
    tokens: float
    high_tokens: float
    queued: int
    wait_s: float | None
    words: str
    error: Exception | None = None

    @property
    def served_now(self) -> bool:
        """A Mac could begin at once."""
        return self.error is None and any(mac.chosen for mac in self.macs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. Frees its slots and teaches the router.

    `result`: "ok", "cancelled" (the client left), "failed" (the Mac's fault), "rejected"
    (the Mac said no). `truncated`: a choice was ended by its limit and would have said more.
    `final` closes the request's decision record. `prefix` are the block
    hashes of prompt and answer together, which this Mac may now have in its cache.
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
    prefix: tuple[int, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class GatewayBeat:
    """A gateway's declaration, sent with every poll.

    `running` lists its live grants as (request, attempt, machine, slots): a restarted
    router rebuilds its counters from them. `counters` are cumulative metrics by key; None says
    that those of the last beat that had some still stand.
    """

    gateway: GatewayId
    pid: int
    node: str
    running: tuple[tuple[RequestId, int, MachineId, int], ...]
    queued: tuple[RequestId, ...]
    counters: tuple[tuple[str, float], ...] | None = None


PlaceState = Literal["loading", "ready", "leaving", "failed"]


@dataclass(frozen=True, slots=True)
class Place:
    """One model on one Mac: being loaded, serving, finishing what runs before it is unloaded,
    or not loadable for the `reason`.

    `facts` are known once it is loaded. `since_s` is how long it has been in this state.
    """

    model: ModelId
    state: PlaceState
    reason: str = ""
    since_s: float = 0.0
    facts: ModelFacts | None = None
    stats: EngineStats | None = None


@dataclass(frozen=True, slots=True)
class ProviderBeat:
    """A provider's declaration, sent once a second and at each change of state.

    `incarnation` grows with each start of the actor on the same machine; an older one is
    refused. `state` is a name of market.provider_state.State. `models` are the facts of those
    that serve now, `stats` the reading of all its engines together, `places` say the rest.
    `memory_bytes` is what weights and caches may take together; 0 is not known.
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
    places: tuple[Place, ...] = ()
    memory_bytes: int = 0
    load_bytes_per_s: float = 0.0  # as measured by its last load; 0 is not measured
    ask_pct: int = 100
    trust: str = "basic"
    allowed: tuple[ModelId, ...] = ()  # what its owner lets it load; empty is everything on offer
    private: bool = False  # it enters no public figure
    name: str = ""  # what its operator calls it


@dataclass(frozen=True, slots=True)
class ProviderOrders:
    """The router's answer to a beat: what the provider should be doing.

    `models` are those it should have, in this order of urgency; None leaves that to it. The next
    beat is wanted in `again_s` seconds: sooner while a plan is being made for this Mac.
    """

    drain: bool
    known: bool = True  # False: an older incarnation; stop
    models: tuple[ModelId, ...] | None = None
    again_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelAvailability:
    """How one model stands in the fleet, for /v1/models, from cache."""

    model: ModelId
    providers: int
    ready: int
    free_slots: int
    queued: int
