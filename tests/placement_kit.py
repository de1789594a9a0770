"""A small world for the planner: Macs that load one model at a time, requests that wait.

Time goes in seconds. Work is a fluid: each second the ready copies serve what waits, as fast as
the hardware tables say. Nothing here decides anything; every decision is the planner's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from market.catalogue import CARDS
from market.hardware import hardware_of, memory_budget_bytes, profile_of
from market.placement.case import Case, mask_of
from market.placement.demand import Offered
from market.placement.flow import share_out
from market.placement.plan import Plan, work_out
from market.placement.planner import Planner
from market.placement.tables import Tables, tables_of
from market.placement.view import FleetView, MacView, ModelView, Pin, Standing
from market.placement.work import LOAD_BYTES_PER_S, WARM_UP_S, cost_tokens
from market.routing.messages import Place
from market.settings import PlacementSettings
from market.types import MachineId, ModelId, ModelSize

SMALL, MIDDLE, LARGE = ModelId("qwen3.5-7b"), ModelId("qwen3.5-14b"), ModelId("llama-3.3-70b")
PATIENCE_S = 30.0
SLOTS = 8
PROMPT, COMPLETION = 512.0, 128.0
COST = cost_tokens(PROMPT, COMPLETION)


def size_of(model: ModelId) -> ModelSize:
    """A catalogue model's size from its profile."""
    profile = profile_of(model)
    card = next(card for card in CARDS if card.id == model)
    return ModelSize(
        model=model,
        weight_bytes=profile.weight_bytes,
        kv_bytes_per_token=profile.kv_bytes_per_token,
        state_bytes=profile.state_bytes,
        context_tokens=card.context_tokens,
        quantization=card.quantization,
    )


SIZES = {card.id: size_of(card.id) for card in CARDS}


def mac(
    number: int,
    chip: str = "M4 Max",
    memory_gb: int = 64,
    *,
    places: Sequence[Place] = (),
    standing: Standing = "open",
    allowed: tuple[ModelId, ...] | None = None,
) -> MacView:
    return MacView(
        machine=MachineId(f"mac_{number:03}"),
        hardware=hardware_of(chip, memory_gb),
        memory_bytes=memory_budget_bytes(memory_gb),
        standing=standing,
        places=tuple(places),
        allowed=allowed,
    )


def models(*names: ModelId, waiting: Mapping[ModelId, int] | None = None) -> tuple[ModelView, ...]:
    counts = waiting or {}
    return tuple(
        ModelView(SIZES[name], counts.get(name, 0), counts.get(name, 0) * COST) for name in names
    )


def tables(
    macs: Sequence[MacView],
    names: Sequence[ModelId],
    asked: Mapping[ModelId, float] | None = None,
    waiting: Mapping[ModelId, int] | None = None,
) -> Tables:
    """Arrays of a fleet where each model is asked for at a steady rate, in cost tokens/s."""
    offered = {
        name: Offered(mean=rate, high=1.3 * rate, quiet_s=0.5)
        for name, rate in (asked or {}).items()
    }
    return tables_of(FleetView(tuple(macs), models(*names, waiting=waiting)), offered, 0.0)


def ready(*names: ModelId, since_s: float = 5000.0) -> tuple[Place, ...]:
    """Models that have been there for long."""
    return tuple(Place(name, "ready", since_s=since_s) for name in names)


def case_of(
    fleet: Tables,
    *,
    paid: Mapping[ModelId, float] | None = None,
    pins: tuple[tuple[int, int], ...] = (),
    swaps_left: int = 6,
    failed: tuple[tuple[int, int], ...] = (),
    settings: PlacementSettings | None = None,
) -> Case:
    """A case about this fleet; nothing has been paid unless said."""
    costs = paid or {}
    return Case(
        number=1,
        cause="a test",
        tables=fleet,
        settings=settings or PlacementSettings(),
        paid=np.array([costs.get(model, 0.0) for model in fleet.models]),
        swaps_left=np.full(len(fleet.machines), swaps_left, dtype=np.int64),
        failed=mask_of(failed, fleet.place.shape),
        pins=pins,
        queueing=np.zeros(len(fleet.models), dtype=bool),
    )


@dataclass
class SimMac:
    """One Mac: carries out its orders, unloading first, one load at a time."""

    view: MacView
    since: dict[ModelId, tuple[str, float]] = field(default_factory=dict)
    loads: list[ModelId] = field(default_factory=list)
    unloads: list[tuple[ModelId, float, float]] = field(default_factory=list)  # when, its age
    refuses: frozenset[ModelId] = frozenset()

    def step(self, wanted: tuple[ModelId, ...] | None, now_s: float) -> None:
        for model, (state, since_s) in list(self.since.items()):
            if wanted is not None and model not in wanted and state != "loading":
                self.unloads.append((model, now_s, now_s - since_s))
                del self.since[model]
            elif state == "loading" and now_s - since_s >= self._load_s(model):
                self.since[model] = ("failed" if model in self.refuses else "ready", now_s)
        loading = any(state == "loading" for state, _ in self.since.values())
        for model in wanted or ():
            if model not in self.since and not loading:
                loading = True
                self.since[model] = ("loading", now_s)
                self.loads.append(model)

    @staticmethod
    def _load_s(model: ModelId) -> float:
        return SIZES[model].weight_bytes / LOAD_BYTES_PER_S + WARM_UP_S

    def ready(self) -> list[ModelId]:
        return [model for model, (state, _) in self.since.items() if state == "ready"]

    def seen(self, now_s: float) -> MacView:
        places = tuple(
            Place(model, state, since_s=now_s - since_s)  # type: ignore[arg-type]
            for model, (state, since_s) in self.since.items()
        )
        return replace(self.view, places=places)


class World:
    """Macs, requests and a planner, second by second."""

    def __init__(
        self,
        macs: Sequence[MacView],
        names: Sequence[ModelId],
        settings: PlacementSettings | None = None,
    ) -> None:
        self.settings = settings or PlacementSettings()
        self.planner = Planner(self.settings, 0.0)
        self.names = tuple(names)
        self.macs = {view.machine: SimMac(view) for view in macs}
        for view in macs:
            for place in view.places:
                self.macs[view.machine].since[place.model] = (place.state, -place.since_s)
        self.pins: tuple[Pin, ...] = ()
        self.queues: dict[ModelId, deque[tuple[float, float]]] = {n: deque() for n in names}
        self.now_s = 0.0
        self.served = dict.fromkeys(names, 0.0)
        self.lost = dict.fromkeys(names, 0.0)
        self.plans: list[Plan] = []
        self.random = np.random.default_rng(7)
        self.asked_s: dict[ModelId, float] = {}
        self.waited: dict[ModelId, int] = {}

    def view(self) -> FleetView:
        waiting = tuple(self._waiting(name) for name in self.names)
        self.waited = {model.size.model: model.waiting for model in waiting}
        macs = tuple(mac.seen(self.now_s) for mac in self.macs.values())
        return FleetView(macs, waiting, self.pins)

    def _waiting(self, name: ModelId) -> ModelView:
        """Requests beyond those that have a slot on a copy."""
        slots = sum(name in mac.ready() for mac in self.macs.values()) * SLOTS
        late = list(self.queues[name])[slots:]
        return ModelView(SIZES[name], len(late), sum((work for _, work in late), 0.0))

    def run(self, seconds: int, rates: Mapping[ModelId, float] | None = None) -> None:
        """Let time pass, with this many requests a second of each model on average."""
        for _ in range(seconds):
            for model, rate in (rates or {}).items():
                self.ask(model, int(self.random.poisson(rate)))
            self.step()

    def stand(self, machine: MachineId, standing: Standing) -> None:
        """From now on the router takes this Mac so."""
        sim = self.macs[machine]
        sim.view = replace(sim.view, standing=standing)

    def restart(self, machine: MachineId) -> None:
        """The Mac comes back with nothing loaded."""
        self.macs[machine].since.clear()
        self.stand(machine, "open")

    def ask(self, model: ModelId, count: int = 1) -> None:
        for _ in range(count):
            self.asked_s[model] = self.now_s
            self.queues[model].append((self.now_s, COST))
            self.planner.arrived(model, PROMPT, COMPLETION, self.now_s)

    def step(self) -> None:
        for queue in self.queues.values():
            while queue and self.now_s - queue[0][0] >= PATIENCE_S:
                self._lose(queue)
        self._serve()
        self.planner.observe(self.view(), self.now_s)
        if self.planner.due(self.now_s):
            answer = work_out(self.planner.case(self.now_s))
            plan = self.planner.adopt(answer, self.now_s)
            assert plan is not None
            self.plans.append(plan)
        for machine, sim in self.macs.items():
            sim.step(self.planner.orders(machine, sim.seen(self.now_s).has), self.now_s)
        self.now_s += 1.0

    def _lose(self, queue: deque[tuple[float, float]]) -> None:
        name = next(name for name, known in self.queues.items() if known is queue)
        self.lost[name] += queue.popleft()[1]

    def _serve(self) -> None:
        seen = tables_of(self.view(), {}, self.now_s)
        if not seen.machines:
            return
        wanted = np.array([sum((w for _, w in self.queues[n]), 0.0) for n in self.names])
        served = share_out(seen.rate, np.ones_like(seen.rate), wanted, seen.ready, 1.0)
        for name, amount in zip(self.names, served.sum(axis=0), strict=True):
            self._take(name, float(amount))

    def _take(self, name: ModelId, amount: float) -> None:
        queue = self.queues[name]
        self.served[name] += amount
        while queue and amount > 1e-9:
            since_s, work = queue[0]
            if work > amount:
                queue[0] = (since_s, work - amount)
                return
            amount -= work
            queue.popleft()

    @property
    def loads(self) -> int:
        return sum(len(mac.loads) for mac in self.macs.values())

    @property
    def unloads(self) -> int:
        return sum(len(mac.unloads) for mac in self.macs.values())
