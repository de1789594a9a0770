"""The life of one Mac as a pure state machine: what it may accept, for whom, and what then.

The provider actor is a shell around this class: it hands in what happened (the engine
loaded, a gateway sent a job, the engine stepped, a connection broke, the router gave
orders) and carries out the effects that come back. Nothing here knows Ray, sockets, MLX
or the clock.

    starting ──loaded──► ready ──drain──► draining ──last job ends──► drained
        ▲                  ▲                  └────────undrain───┬───────┘
        │                  └─────────────────────────────────────┘
     restart ◄── failing ◄── engine unhealthy, load failed (from any state but stopped)
    any state ──stop──► stopped
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from market.errors import Conflict, InvalidRequest, MarketError, Unavailable
from market.types import Event, GatewayId, Job, JobFailure, ModelFacts, ModelId, RequestId

State = Literal["starting", "ready", "draining", "drained", "failing", "stopped"]
STATES: tuple[State, ...] = ("starting", "ready", "draining", "drained", "failing", "stopped")

MAX_IN_FLIGHT_JOBS = 256
"""Jobs one Mac holds at once, waiting ones included: bounds memory whatever gateways send."""

RESTART_DELAYS_S: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before each engine restart in a row; one more failure ends the process."""

BUSY_RETRY_AFTER_S = 1.0
DRAIN_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send these events to this gateway, in this order."""

    gateway: GatewayId
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Tell the engine to stop this job; its `cancelled` finish still comes back."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class RestartEngine:
    """Close the engine, wait, and load it again; then report `loaded` or `load_failed`."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Announce:
    """The state changed: beat to the router now instead of at the next second."""

    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class ExitProcess:
    """Restarting in place did not help; end, so that a fresh process can be started."""

    reason: str


Effect = Deliver | CancelJob | RestartEngine | Announce | ExitProcess


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """What the beat and the status page say of this Mac. Ages are in seconds."""

    state: State
    reason: str
    models: tuple[ModelFacts, ...]
    in_flight_jobs: int
    in_flight_choices: int
    jobs_by_gateway: tuple[tuple[GatewayId, int], ...]
    oldest_job_s: float
    accepted: int
    finished: int
    refused: int
    orphaned_events: int
    restarts: int


@dataclass(slots=True)
class _Running:
    gateway: GatewayId | None  # None: nobody listens any more, the engine is being told
    open_choices: set[int] = field(default_factory=set)
    started_s: float = 0.0


class ProviderState:
    """Decides for one Mac. Call it from one thread; it never blocks and keeps no time."""

    def __init__(self, max_in_flight_jobs: int = MAX_IN_FLIGHT_JOBS) -> None:
        self._max_in_flight_jobs = max_in_flight_jobs
        self._state: State = "starting"
        self._reason = "loading the model"
        self._models: dict[ModelId, ModelFacts] = {}
        self._jobs: dict[RequestId, _Running] = {}
        self._drain_reason: str | None = None
        self._restarts_in_row = 0
        self._restarts = 0
        self._accepted = 0
        self._finished = 0
        self._refused = 0
        self._orphaned_events = 0

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str:
        return self._reason

    @property
    def models(self) -> tuple[ModelFacts, ...]:
        return tuple(self._models.values())

    def owner_of(self, request_id: RequestId) -> GatewayId | None:
        """The gateway that listens to this job, if it runs here and anyone does."""
        job = self._jobs.get(request_id)
        return job.gateway if job is not None else None

    # ── the engine ────────────────────────────────────────────────────────────────────

    def loaded(self, models: Sequence[ModelFacts]) -> list[Effect]:
        """The engine can work: ready, or drained when a drain was asked for meanwhile."""
        if self._state == "stopped":
            return []
        self._models = {facts.model: facts for facts in models}
        if self._drain_reason is not None:
            leaving: State = "draining" if self._jobs else "drained"
            return self._enter(leaving, self._drain_reason)
        return self._enter("ready", "")

    def load_failed(self, message: str, *, permanent: bool = False) -> list[Effect]:
        """The model could not be loaded. `permanent`: trying again cannot help."""
        return self._engine_lost(f"the model did not load: {message}", permanent=permanent)

    def engine_unhealthy(self, message: str) -> list[Effect]:
        """The engine can make no progress: every job fails over, the engine restarts."""
        return self._engine_lost(f"the engine stopped: {message}", permanent=False)

    def _engine_lost(self, reason: str, *, permanent: bool) -> list[Effect]:
        if self._state == "stopped":
            return []
        effects = self._fail_all(JobFailure("engine", reason))
        self._models = {}
        effects += self._enter("failing", reason)
        if permanent:
            return effects
        if self._restarts_in_row >= len(RESTART_DELAYS_S):
            tried = self._restarts_in_row
            return [*effects, ExitProcess(f"{reason}; {tried} restarts in a row did not help")]
        delay_s = RESTART_DELAYS_S[self._restarts_in_row]
        self._restarts_in_row += 1
        self._restarts += 1
        return [*effects, RestartEngine(delay_s)]

    def restarting(self) -> list[Effect]:
        """The shell begins the restart it was told to make."""
        if self._state != "failing":
            return []
        return self._enter("starting", "loading the model again")

    # ── jobs ──────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, gateway: GatewayId, now_s: float) -> None:
        """Take a job in for this gateway; hand it to the engine next.

        Raises Unavailable (code `draining` or `rejected`) when another Mac may do it,
        InvalidRequest when none may, Conflict when the id already runs here. If the
        engine then raises, call `submit_failed`.
        """
        try:
            self._check(job)
        except MarketError:
            self._refused += 1
            raise
        self._jobs[job.request_id] = _Running(gateway, set(range(job.n)), now_s)
        self._accepted += 1

    def submit_failed(self, request_id: RequestId) -> list[Effect]:
        """The engine refused what `submit` had taken: forget the job."""
        if self._jobs.pop(request_id, None) is None:
            return []
        self._refused += 1
        return self._after_job()

    def _check(self, job: Job) -> None:
        if self._state in ("draining", "drained", "stopped"):
            raise Unavailable(
                f"This Mac takes no new work: {self._state} ({self._reason}).",
                None,
                "draining",
                DRAIN_RETRY_AFTER_S,
                True,
            )
        if self._state != "ready":
            raise Unavailable(
                f"This Mac cannot work now: {self._state} ({self._reason}).",
                None,
                "rejected",
                BUSY_RETRY_AFTER_S,
                True,
            )
        if job.request_id in self._jobs:
            raise Conflict("This request already runs on this Mac.", None, "already_running")
        facts = self._models.get(job.model)
        if facts is None:
            raise Unavailable(
                f"This Mac does not have {job.model!r} loaded.",
                None,
                "rejected",
                BUSY_RETRY_AFTER_S,
                True,
            )
        if job.n < 1:
            raise InvalidRequest(f"n must be at least 1, not {job.n}.", "n")
        if len(job.prompt_ids) + job.max_tokens > facts.context_tokens:
            raise InvalidRequest(
                f"The prompt has {len(job.prompt_ids)} tokens and {job.max_tokens} more were "
                f"asked for; {job.model} takes {facts.context_tokens} in all.",
                "max_tokens",
                "context_length_exceeded",
            )
        if len(self._jobs) >= self._max_in_flight_jobs:
            raise Unavailable(
                f"This Mac already holds {self._max_in_flight_jobs} jobs.",
                None,
                "rejected",
                BUSY_RETRY_AFTER_S,
                True,
            )

    def events(self, events: Sequence[Event]) -> list[Effect]:
        """One engine step: group its events by the gateway that owns each job."""
        by_gateway: dict[GatewayId, list[Event]] = {}
        ended = False
        for event in events:
            job = self._jobs.get(event.request_id)
            if job is None or job.gateway is None:
                self._orphaned_events += 1
            else:
                by_gateway.setdefault(job.gateway, []).append(event)
            if job is not None and self._ends(job, event):
                del self._jobs[event.request_id]
                self._finished += 1
                ended = True
        effects: list[Effect] = [Deliver(gw, tuple(sent)) for gw, sent in by_gateway.items()]
        return effects + self._after_job() if ended else effects

    def _ends(self, job: _Running, event: Event) -> bool:
        if event.error is not None:
            return True
        if event.finish is None:
            return False
        job.open_choices.discard(event.index)
        if event.finish != "error":
            self._restarts_in_row = 0  # the engine works: earlier restarts helped
        return not job.open_choices

    def cancel(self, request_id: RequestId, gateway: GatewayId) -> list[Effect]:
        """A gateway wants its own job stopped; another gateway's job is left alone."""
        job = self._jobs.get(request_id)
        if job is None or job.gateway != gateway:
            return []
        return [CancelJob(request_id)]

    def gateway_gone(self, gateway: GatewayId) -> list[RequestId]:
        """The gateway will not listen again: the jobs to cancel in the engine.

        They keep their place until their last event, because they keep their memory.
        """
        gone = [rid for rid, job in self._jobs.items() if job.gateway == gateway]
        for request_id in gone:
            self._jobs[request_id].gateway = None
        return gone

    # ── orders ────────────────────────────────────────────────────────────────────────

    def orders(self, *, drain: bool, reason: str = "the operator asked") -> list[Effect]:
        """The router's answer to a beat; giving the same order twice changes nothing."""
        return self.drain(reason) if drain else self.undrain()

    def drain(self, reason: str) -> list[Effect]:
        """Finish what runs, take nothing new; drained once nothing runs."""
        if self._drain_reason is not None or self._state == "stopped":
            return []
        self._drain_reason = reason
        if self._state != "ready":
            return []  # starting or failing: `loaded` will go to drained
        return self._enter("draining", reason) + self._after_job()

    def undrain(self) -> list[Effect]:
        """Take work again."""
        if self._drain_reason is None or self._state == "stopped":
            return []
        self._drain_reason = None
        return self._enter("ready", "") if self._state in ("draining", "drained") else []

    def stop(self, reason: str) -> list[Effect]:
        """End now: open jobs are lost here and may be done elsewhere."""
        if self._state == "stopped":
            return []
        effects = self._fail_all(JobFailure("lost", reason))
        return effects + self._enter("stopped", reason)

    # ── reading ───────────────────────────────────────────────────────────────────────

    def snapshot(self, now_s: float) -> ProviderSnapshot:
        """A frozen reading for the beat."""
        by_gateway: dict[GatewayId, int] = {}
        for job in self._jobs.values():
            if job.gateway is not None:
                by_gateway[job.gateway] = by_gateway.get(job.gateway, 0) + 1
        oldest_s = min((job.started_s for job in self._jobs.values()), default=now_s)
        return ProviderSnapshot(
            state=self._state,
            reason=self._reason,
            models=self.models,
            in_flight_jobs=len(self._jobs),
            in_flight_choices=sum(len(job.open_choices) for job in self._jobs.values()),
            jobs_by_gateway=tuple(sorted(by_gateway.items())),
            oldest_job_s=max(0.0, now_s - oldest_s),
            accepted=self._accepted,
            finished=self._finished,
            refused=self._refused,
            orphaned_events=self._orphaned_events,
            restarts=self._restarts,
        )

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _enter(self, state: State, reason: str) -> list[Effect]:
        if (state, reason) == (self._state, self._reason):
            return []
        self._state, self._reason = state, reason
        return [Announce(state, reason)]

    def _after_job(self) -> list[Effect]:
        if self._state == "draining" and not self._jobs:
            return self._enter("drained", self._reason)
        return []

    def _fail_all(self, failure: JobFailure) -> list[Effect]:
        by_gateway: dict[GatewayId, list[Event]] = {}
        for request_id, job in self._jobs.items():
            if job.gateway is not None:
                lost = Event(request_id, min(job.open_choices), (), "", 0, error=failure)
                by_gateway.setdefault(job.gateway, []).append(lost)
        self._finished += len(self._jobs)
        self._jobs.clear()
        return [Deliver(gateway, tuple(lost)) for gateway, lost in by_gateway.items()]


def failure_of(error: MarketError) -> JobFailure:
    """How a refusal to `submit` reads on the wire to the gateway."""
    if isinstance(error, Unavailable):
        return JobFailure("draining" if error.code == "draining" else "rejected", error.message)
    if error.status < 500:
        return JobFailure("invalid", error.message, error.param)
    return JobFailure("engine", error.message)
