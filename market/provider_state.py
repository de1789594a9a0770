"""The life of one Mac as a pure state machine: what it may accept, for whom, and what then.

The provider actor is a shell around this class: it hands in what happened (a model was
loaded, a gateway sent a job, an engine stepped, a connection broke, the router gave
orders) and carries out the effects that come back. Nothing here knows Ray, sockets, MLX
or the clock. Each model has a place of its own (`provider_places`); the Mac as a whole is

    starting   nothing serves yet, and something is being loaded or about to be
    ready      a model serves, or none is asked of it
    draining   it takes nothing new and finishes what runs
    drained    it takes nothing new and nothing runs
    failing    nothing serves, nothing is being loaded, and something could not be
    stopped    for good
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from market.errors import Conflict, InvalidRequest, MarketError, Unavailable
from market.provider_places import Load, Offer, Places, Unload
from market.routing.messages import Place
from market.types import Event, GatewayId, Job, JobFailure, ModelFacts, ModelId, RequestId

State = Literal["starting", "ready", "draining", "drained", "failing", "stopped"]
STATES: tuple[State, ...] = ("starting", "ready", "draining", "drained", "failing", "stopped")

MAX_IN_FLIGHT_JOBS = 256
"""Jobs one Mac holds at once, waiting ones included: bounds memory whatever gateways send."""

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
    model: ModelId


@dataclass(frozen=True, slots=True)
class Announce:
    """The Mac or one of its places changed: beat to the router now, not at the next second."""

    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class ExitProcess:
    """Trying again in place did not help; end, so that a fresh process can be started."""

    reason: str


Effect = Deliver | CancelJob | Load | Unload | Announce | ExitProcess


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """What the beat and the status page say of this Mac. Ages are in seconds."""

    state: State
    reason: str
    models: tuple[ModelFacts, ...]
    places: tuple[Place, ...]
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
    model: ModelId
    gateway: GatewayId | None  # None: nobody listens any more, the engine is being told
    open_choices: set[int] = field(default_factory=set)
    started_s: float = 0.0


class ProviderState:
    """Decides for one Mac. Call it from one thread; it never blocks and keeps no time."""

    def __init__(self, offer: Offer, max_in_flight_jobs: int = MAX_IN_FLIGHT_JOBS) -> None:
        self._places = Places(offer)
        self._max_in_flight_jobs = max_in_flight_jobs
        self._jobs: dict[RequestId, _Running] = {}
        self._drain_reason: str | None = None
        self._state, self._reason = self._derived()
        self._told: object = None
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
        """What serves now."""
        return self._places.ready()

    # ── the engines ───────────────────────────────────────────────────────────────────

    def loaded(self, facts: ModelFacts, now_s: float) -> list[Effect]:
        """An engine can work."""
        if self._state == "stopped":
            return []
        self._places.loaded(facts, now_s)
        return self._advance(now_s)

    def load_failed(
        self, model: ModelId, message: str, now_s: float, *, permanent: bool = False
    ) -> list[Effect]:
        """A model could not be loaded. `permanent`: trying again cannot help."""
        if self._state == "stopped":
            return []
        reason = f"{model} did not load: {message}"
        self._places.failed(model, reason, now_s, for_good=permanent)
        return self._after_failure(reason, now_s, permanent=permanent)

    def engine_unhealthy(self, model: ModelId, message: str, now_s: float) -> list[Effect]:
        """An engine can make no progress: its jobs fail over, the others' run on, and it is
        closed and loaded again.
        """
        if self._state == "stopped" or self._places.is_closing(model):
            return []
        reason = f"the engine of {model} stopped: {message}"
        effects = self._fail(JobFailure("engine", reason), model)
        self._places.failed(model, reason, now_s, for_good=False)
        return [*effects, Unload(model), *self._after_failure(reason, now_s, permanent=False)]

    def unloaded(self, model: ModelId, now_s: float) -> list[Effect]:
        """An engine is closed."""
        if self._state == "stopped":
            return []
        self._places.unloaded(model)
        return self._advance(now_s)

    def _after_failure(self, reason: str, now_s: float, *, permanent: bool) -> list[Effect]:
        effects = self._advance(now_s)
        if not permanent and not self._jobs and self._places.hopeless():
            effects.append(ExitProcess(f"{reason}; trying again here does not help"))
        return effects

    # ── jobs ──────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, gateway: GatewayId, now_s: float) -> None:
        """Take a job in for this gateway; hand it to its model's engine next.

        Raises Unavailable (code `draining` or `rejected`) when another Mac may do it,
        InvalidRequest when none may, Conflict when the id already runs here. If the
        engine then raises, call `submit_failed`.
        """
        try:
            self._check(job, now_s)
        except MarketError:
            self._refused += 1
            raise
        self._jobs[job.request_id] = _Running(job.model, gateway, set(range(job.n)), now_s)
        self._places.began(job.model)
        self._accepted += 1

    def submit_failed(self, request_id: RequestId, now_s: float) -> list[Effect]:
        """The engine refused what `submit` had taken: forget the job."""
        job = self._jobs.pop(request_id, None)
        if job is None:
            return []
        self._refused += 1
        self._places.ended(job.model, well=False)
        return self._advance(now_s)

    def _check(self, job: Job, now_s: float) -> None:
        if self._drain_reason is not None or self._state == "stopped":
            raise Unavailable(
                f"This Mac takes no new work: {self._state} ({self._reason}).",
                None,
                "draining",
                DRAIN_RETRY_AFTER_S,
                True,
            )
        if job.request_id in self._jobs:
            raise Conflict("This request already runs on this Mac.", None, "already_running")
        facts = self._places.facts_of(job.model, now_s)
        if facts is None:
            raise _busy(f"This Mac does not serve {job.model!r} now ({self._state}).")
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
            raise _busy(f"This Mac already holds {self._max_in_flight_jobs} jobs.")

    def events(self, events: Sequence[Event], now_s: float) -> list[Effect]:
        """One engine step: group its events by the gateway that owns each job."""
        by_gateway: dict[GatewayId, list[Event]] = {}
        due = False
        for event in events:
            job = self._jobs.get(event.request_id)
            if job is None or job.gateway is None:
                self._orphaned_events += 1
            else:
                by_gateway.setdefault(job.gateway, []).append(event)
            if job is not None and self._ends(job, event):
                del self._jobs[event.request_id]
                self._finished += 1
                well = event.error is None and event.finish != "error"
                due = self._places.ended(job.model, well=well) or due
                due = due or self._drain_reason is not None
        effects: list[Effect] = [Deliver(gw, tuple(sent)) for gw, sent in by_gateway.items()]
        return effects + self._advance(now_s) if due else effects

    def _ends(self, job: _Running, event: Event) -> bool:
        if event.error is not None:
            return True
        if event.finish is None:
            return False
        job.open_choices.discard(event.index)
        return not job.open_choices

    def cancel(self, request_id: RequestId, gateway: GatewayId) -> list[Effect]:
        """A gateway wants its own job stopped; another gateway's job is left alone."""
        job = self._jobs.get(request_id)
        if job is None or job.gateway != gateway:
            return []
        return [CancelJob(request_id, job.model)]

    def gateway_gone(self, gateway: GatewayId) -> list[Effect]:
        """The gateway will not listen again: its jobs are cancelled.

        They keep their place until their last event, because they keep their memory.
        """
        gone = [(rid, job) for rid, job in self._jobs.items() if job.gateway == gateway]
        for _, job in gone:
            job.gateway = None
        return [CancelJob(request_id, job.model) for request_id, job in gone]

    # ── orders ────────────────────────────────────────────────────────────────────────

    def orders(
        self,
        *,
        drain: bool,
        models: Sequence[ModelId] | None,
        now_s: float,
        reason: str = "the operator asked",
    ) -> list[Effect]:
        """The router's answer to a beat; giving the same order twice changes nothing."""
        if self._state == "stopped":
            return []
        if not drain:
            self._drain_reason = None
        elif self._drain_reason is None:
            self._drain_reason = reason
        self._places.want(models)
        return self._advance(now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Time has passed: what waited for it may be due."""
        return self._advance(now_s)

    def drain(self, reason: str, now_s: float) -> list[Effect]:
        """Finish what runs, take nothing new; drained once nothing runs."""
        if self._drain_reason is not None or self._state == "stopped":
            return []
        self._drain_reason = reason
        return self._advance(now_s)

    def stop(self, reason: str) -> list[Effect]:
        """End now: open jobs are lost here and may be done elsewhere."""
        if self._state == "stopped":
            return []
        effects = self._fail(JobFailure("lost", reason), None)
        self._places.clear()
        self._state, self._reason = "stopped", reason
        return [*effects, Announce("stopped", reason)]

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
            places=self._places.readings(now_s),
            in_flight_jobs=len(self._jobs),
            in_flight_choices=sum(len(job.open_choices) for job in self._jobs.values()),
            jobs_by_gateway=tuple(sorted(by_gateway.items())),
            oldest_job_s=max(0.0, now_s - oldest_s),
            accepted=self._accepted,
            finished=self._finished,
            refused=self._refused,
            orphaned_events=self._orphaned_events,
            restarts=self._places.tries,
        )

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _advance(self, now_s: float) -> list[Effect]:
        """Do what is due, and say so when anything a reader would see has changed."""
        if self._state == "stopped":
            return []
        effects: list[Effect] = list(self._places.advance(now_s))
        self._state, self._reason = self._derived()
        seen = (self._state, self._reason, self._places.signature())
        if seen != self._told:
            self._told = seen
            effects.append(Announce(self._state, self._reason))
        return effects

    def _derived(self) -> tuple[State, str]:
        """The state of the whole, from its places, its jobs and its orders."""
        state, reason = self._places.standing()
        if self._drain_reason is not None and self._jobs:
            return "draining", self._drain_reason
        if self._drain_reason is not None and state == "ready":
            return "drained", self._drain_reason
        return state, reason

    def _fail(self, failure: JobFailure, model: ModelId | None) -> list[Effect]:
        """End every job of a model, or of all, with one failure each."""
        by_gateway: dict[GatewayId, list[Event]] = {}
        failing = [rid for rid, job in self._jobs.items() if model in (None, job.model)]
        for request_id in failing:
            job = self._jobs.pop(request_id)
            if job.gateway is not None:
                lost = Event(request_id, min(job.open_choices), (), "", 0, error=failure)
                by_gateway.setdefault(job.gateway, []).append(lost)
        self._finished += len(failing)
        return [Deliver(gateway, tuple(lost)) for gateway, lost in by_gateway.items()]


def _busy(message: str) -> Unavailable:
    return Unavailable(message, None, "rejected", BUSY_RETRY_AFTER_S, True)


def failure_of(error: MarketError) -> JobFailure:
    """How a refusal to `submit` reads on the wire to the gateway."""
    if isinstance(error, Unavailable):
        return JobFailure("draining" if error.code == "draining" else "rejected", error.message)
    if error.status < 500:
        return JobFailure("invalid", error.message, error.param)
    return JobFailure("engine", error.message)
