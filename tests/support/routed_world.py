"""Whole lives of a fleet behind the router's mind, planner included, in steps of virtual time.

Routing, queues, placement and what a Mac does with its orders are the market's own code; the
engines alone are played: a load takes its bytes over a disk, a request as long as its tokens take
on that chip. Nothing here knows the clock; equal seeds live equal lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from market.errors import MarketError
from market.hardware import (
    CHIPS,
    hardware_of,
    memory_budget_bytes,
    prefill_ms,
    profile_of,
    step_ms,
)
from market.messages import Funding
from market.placement.plan import Plan, work_out
from market.placement.work import LOAD_BYTES_PER_S, WARM_UP_S
from market.provider_places import Load, Offer, Unload
from market.provider_state import Announce, Effect, ProviderState
from market.routing.messages import Busy, Grant, Outcome, ProviderBeat, Refused, RouteRequest
from market.routing.placing import Placing
from market.routing.state import RouterState
from market.settings import PlacementSettings
from market.types import (
    AccountId,
    EngineStats,
    Event,
    Job,
    MachineId,
    ModelFacts,
    ModelId,
    ModelSize,
    RequestId,
)
from tests.router_kit import FACTS, GATEWAY, gateway_beat, provider_beat

STEP_S = 0.25
BATCH = 4
"""Sequences that a played request is taken to run among."""


@dataclass
class PlayedMac:
    """A provider's state machine, with its engines played."""

    name: str
    chip: str
    memory_gb: int
    sizes: Mapping[ModelId, ModelSize]
    slots: int = 4
    due: list[tuple[float, Callable[[float], list[Effect]]]] = field(default_factory=list)
    jobs: dict[RequestId, float] = field(default_factory=dict)
    loads: list[tuple[float, ModelId]] = field(default_factory=list)
    unloads: list[tuple[float, ModelId]] = field(default_factory=list)
    news: bool = False  # something changed that the router is told at once

    def __post_init__(self) -> None:
        models = tuple(self.sizes)
        weights = tuple(size.weight_bytes for size in self.sizes.values())
        offer = Offer(models, weights, memory_budget_bytes(self.memory_gb))
        self.state = ProviderState(offer)

    @property
    def machine(self) -> MachineId:
        return MachineId(f"mac_{self.name}")

    def facts(self, model: ModelId) -> ModelFacts:
        size = self.sizes[model]
        return replace(
            FACTS,
            model=model,
            digest=f"weights of {model}",
            weight_bytes=size.weight_bytes,
            kv_bytes_per_token=size.kv_bytes_per_token,
            context_tokens=size.context_tokens,
        )

    def beat(self, now_s: float) -> ProviderBeat:
        seen = self.state.snapshot(now_s)
        stats = EngineStats(self.slots, len(self.jobs), *(0,) * 12)
        return replace(
            provider_beat(self.name, state=seen.state, models=seen.models, slots=self.slots),
            hardware=hardware_of(self.chip, self.memory_gb),
            stats=stats if seen.models else None,
            places=seen.places,
            memory_bytes=memory_budget_bytes(self.memory_gb),
            reason=seen.reason,
        )

    def carry_out(self, effects: Sequence[Effect], now_s: float) -> None:
        for effect in effects:
            self.news = self.news or isinstance(effect, Announce)
            if isinstance(effect, Load):
                self.loads.append((now_s, effect.model))
                load_s = self.sizes[effect.model].weight_bytes / LOAD_BYTES_PER_S + WARM_UP_S
                facts = self.facts(effect.model)
                self.due.append((now_s + load_s, lambda at_s, f=facts: self.state.loaded(f, at_s)))  # type: ignore[misc]
            elif isinstance(effect, Unload):
                self.unloads.append((now_s, effect.model))
                model = effect.model
                self.due.append((now_s, lambda at_s, m=model: self.state.unloaded(m, at_s)))  # type: ignore[misc]

    def step(self, now_s: float) -> None:
        due = [work for at_s, work in self.due if at_s <= now_s]
        self.due = [(at_s, work) for at_s, work in self.due if at_s > now_s]
        for work in due:
            self.carry_out(work(now_s), now_s)
        self.carry_out(self.state.tick(now_s), now_s)

    def submit(self, request: RouteRequest, tokens: int, now_s: float) -> None:
        """Take a job; raises what a provider raises."""
        job = Job(request.request_id, request.model, (1,) * request.prompt_tokens, tokens)
        self.state.submit(job, GATEWAY, now_s)
        self.jobs[request.request_id] = now_s + self.service_s(request, tokens)

    def service_s(self, request: RouteRequest, tokens: int) -> float:
        chip, profile = CHIPS[self.chip], profile_of(request.model)
        read_ms = prefill_ms(chip, profile, request.prompt_tokens)
        return (read_ms + tokens * step_ms(chip, profile, BATCH, 500.0)) / 1e3

    def ended(self, now_s: float) -> list[RequestId]:
        done = [name for name, at_s in self.jobs.items() if at_s <= now_s]
        for name in done:
            del self.jobs[name]
            last = Event(name, 0, (1,), "x", 1, "stop")
            self.carry_out(self.state.events([last], now_s), now_s)
        return done


@dataclass
class Asked:
    """One request's life. `ended` is how: ok, or the code of what refused it."""

    request: RouteRequest
    tokens: int
    asked_s: float
    granted_s: float | None = None
    ended_s: float | None = None
    ended: str = ""
    machine: MachineId | None = None


class RoutedWorld:
    """Macs, consumers, and the router between them."""

    def __init__(
        self,
        macs: Sequence[tuple[str, int]],
        sizes: Mapping[ModelId, ModelSize],
        settings: PlacementSettings,
        seed: int = 0,
        slots: int = 4,
    ) -> None:
        """`macs` are chips with their memory in GB."""
        self.sizes = sizes
        self.settings = settings
        self.now_s = 0.0
        placing = Placing(settings, tuple(sizes.values()), 0.0)
        self.router = RouterState(-100.0, seed, placing=placing)
        self.macs = {
            MachineId(f"mac_{at}"): PlayedMac(str(at), chip, memory_gb, sizes, slots)
            for at, (chip, memory_gb) in enumerate(macs)
        }
        self.random = Random(seed)
        self.asked: dict[RequestId, Asked] = {}
        self.running: dict[RequestId, Grant] = {}
        self.waiting: set[RequestId] = set()
        self.plans: list[Plan] = []
        self._beats_s = 0.0
        self._number = 0
        self.every_second: Callable[[], None] = lambda: None

    # ── consumers ─────────────────────────────────────────────────────────────────────

    def ask(
        self,
        model: ModelId,
        *,
        consumer: str = "acct_c",
        prompt_tokens: int = 300,
        tokens: int = 60,
        patience_s: float = 30.0,
    ) -> RequestId:
        self._number += 1
        request = RouteRequest(
            request_id=RequestId(f"r{self._number}"),
            gateway=GATEWAY,
            consumer=AccountId(consumer),
            model=model,
            prompt_tokens=prompt_tokens,
            max_tokens=tokens,
            deadline_s=patience_s,
            funding=Funding(1, 0),
        )
        self.asked[request.request_id] = Asked(request, tokens, self.now_s)
        (reply,) = self.router.route([request], self.now_s)
        if isinstance(reply, Grant):
            self._granted(reply)
        elif isinstance(reply, Busy):
            self.waiting.add(request.request_id)
        else:
            self._over(request.request_id, _code(reply))
        return request.request_id

    def _granted(self, grant: Grant) -> None:
        asked = self.asked[grant.request_id]
        asked.granted_s, asked.machine = self.now_s, grant.machine
        try:
            self.macs[grant.machine].submit(asked.request, asked.tokens, self.now_s)
        except MarketError as error:
            self._report(grant, "rejected", 0.0)
            self._over(grant.request_id, f"turned away: {error.code}")
            return
        self.running[grant.request_id] = grant

    def _report(self, grant: Grant, result: str, took_s: float) -> None:
        tokens = self.asked[grant.request_id].tokens
        ended = Outcome(
            grant.request_id,
            grant.attempt,
            grant.machine,
            result,
            True,
            completion_tokens=tokens,
            ttft_ms=grant.predicted_ttft_ms,
            total_ms=took_s * 1e3,
        )
        self.router.report([ended], self.now_s)

    def _over(self, name: RequestId, how: str) -> None:
        self.waiting.discard(name)
        self.asked[name].ended, self.asked[name].ended_s = how, self.now_s

    # ── time ──────────────────────────────────────────────────────────────────────────

    def run(self, seconds: float, rates: Mapping[ModelId, float] | None = None) -> None:
        """Let time pass, with so many requests a second of each model on average."""
        for _ in range(round(seconds / STEP_S)):
            for model, rate in (rates or {}).items():
                if self.random.random() < rate * STEP_S:
                    self.ask(model, tokens=self.random.randint(20, 120))
            self.step()

    def step(self) -> None:
        self.now_s += STEP_S
        for mac in self.macs.values():
            mac.step(self.now_s)
            for name in mac.ended(self.now_s):
                grant = self.running.pop(name)
                granted_s = self.asked[name].granted_s
                assert granted_s is not None
                self._report(grant, "ok", self.now_s - granted_s)
                self._over(name, "ok")
            if mac.news:
                self._beat(mac)
        self.router.tick(self.now_s)
        self._mail()
        if self.now_s >= self._beats_s:
            self._beats_s = self.now_s + 1.0
            self._second()

    def _mail(self) -> None:
        for letter in self.router.take_mail(GATEWAY):
            self.waiting.discard(letter.request_id)
            if isinstance(letter, Grant):
                self._granted(letter)
            elif isinstance(letter, Refused):
                self._over(letter.request_id, _code(letter.error))

    def _second(self) -> None:
        beat = gateway_beat(*self.running.values(), queued=tuple(self.waiting))
        self.router.beat_gateway(beat, self.now_s)
        for mac in self.macs.values():
            self._beat(mac)
        self._mail()
        case = self.router.look(self.now_s)
        if case is not None:
            plan = self.router.placing.adopt(work_out(case), self.now_s)
            assert plan is not None
            self.plans.append(plan)
        self.every_second()

    def _beat(self, mac: PlayedMac) -> None:
        orders = self.router.beat_provider(mac.beat(self.now_s), self.now_s)
        mac.news = False
        mac.carry_out(
            mac.state.orders(drain=orders.drain, models=orders.models, now_s=self.now_s),
            self.now_s,
        )

    # ── reading ───────────────────────────────────────────────────────────────────────

    def queued(self, model: ModelId) -> int:
        queue = self.router._desk.queues.get(model)
        return len(queue) if queue is not None else 0

    def places(self, machine: MachineId) -> dict[ModelId, str]:
        seen = self.macs[machine].state.snapshot(self.now_s)
        return {place.model: place.state for place in seen.places}

    def in_flight(self, machine: MachineId) -> int:
        fleet = self.router._desk.macs.fleet
        return int(fleet.get(machine, "in_flight")) if machine in fleet else 0

    @property
    def loads(self) -> int:
        return sum(len(mac.loads) for mac in self.macs.values())

    @property
    def unloads(self) -> int:
        return sum(len(mac.unloads) for mac in self.macs.values())


def _code(error: object) -> str:
    return str(getattr(error, "code", None) or type(error).__name__)
