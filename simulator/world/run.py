"""A whole market under the virtual clock: the live router, ledger and planner, simulated Macs.

Equal setting, policy and seed give equal runs, to the byte. Randomness comes in named streams,
so that two policies meet the same requests, the same faults and the same Macs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

import numpy as np

from market.catalogue import Catalogue
from market.fleet_file import MacSpec
from market.hardware import memory_budget_bytes, profile_of
from market.placement.plan import Answer, work_out
from market.policy.registry import ORACLE, Policy, oracle
from market.routing.messages import ProviderBeat
from market.routing.placing import Placing
from market.routing.state import RouterState
from market.settings import PlacementSettings
from market.types import ModelId, ModelSize
from simulator.limits.bounds import fluid_capacity
from simulator.records import Arrival, Ended, MacUsed
from simulator.setup.scenario import Scenario
from simulator.streams import Streams
from simulator.workloads.given import Given
from simulator.workloads.source import Source, arrivals, budgets
from simulator.world.bank import CONSUMER_CREDIT_NANO, Bank
from simulator.world.door import Door
from simulator.world.faults import NO_FAULTS, Faults, Misfortune
from simulator.world.kernel import Kernel
from simulator.world.mac import SimMac
from simulator.world.stand import Stand

START_S = 10.0
"""The clock begins here: a router that has just started is still rebuilding at zero."""

TICK_S = 0.25
BEAT_S = 1.0
GATEWAY_BEAT_S = 2.0
FULL_BEATS_S = 10.0
"""How often a Mac's readings are taken in full; a change is told within a beat at any rate."""

CACHE_SHARE = 0.125
"""Of a Mac's memory that its prefix cache takes, as in the live engine."""

LOOK_S = 1.0
SOLVE_S = 0.2
"""How often the planner looks at the fleet, and how long a plan is in the making."""

UNHURRIED_S = 3_600.0

DRAIN_S = 900.0
"""After the last arrival what still runs may take this long."""


class Sink(Protocol):
    """Who takes the results, one by one."""

    def ended(self, ended: Ended) -> None: ...

    def used(self, used: MacUsed) -> None: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is of, apart from its policy and its seed."""

    macs: tuple[MacSpec, ...]
    models: tuple[ModelId, ...]
    catalogue: Catalogue
    slots: int = 32
    fee_bps: int = 0
    faults: Faults = NO_FAULTS
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    credit_nano: int = CONSUMER_CREDIT_NANO
    budgets: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Totals:
    """What a run came to as a whole. `problems` must be empty."""

    requests: int = 0
    simulated_s: float = 0.0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def seed_of(seed: int, name: str) -> int:
    """The seed of a named stream."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def sizes_of(models: Sequence[ModelId], catalogue: Catalogue) -> dict[ModelId, ModelSize]:
    """What each model needs, from the hardware tables."""
    sizes = {}
    for model in models:
        profile, card = profile_of(model), catalogue.get(model)
        sizes[model] = ModelSize(
            model,
            profile.weight_bytes,
            profile.kv_bytes_per_token,
            profile.state_bytes,
            card.context_tokens,
            card.quantization,
            f"sim:{model}",
        )
    return sizes


class Feed(Protocol):
    """Where requests come from: `simulator.workloads.source.Source`, or a list of them."""

    @property
    def over(self) -> bool: ...

    def next_s(self) -> float | None: ...

    def take(self) -> Arrival: ...

    def ended(self, ended: Ended) -> None: ...


class World:
    """One run."""

    def __init__(self, setting: Setting, policy: Policy, seed: int, sink: Sink) -> None:
        self._setting = setting
        self._sink = sink
        self.kernel = Kernel()
        self.kernel.now_s = START_S
        self._sizes = sizes_of(setting.models, setting.catalogue)
        # A search that a clock ends would end elsewhere on another machine: nodes alone do.
        placement = replace(setting.placement, solve_s=UNHURRIED_S)
        self.router = RouterState(
            0.0,
            seed_of(seed, "router") % 2**32,
            placing=Placing(placement, tuple(self._sizes.values()), 0.0),
        )
        self._lengths: dict[str, int] = {}
        self.router.use_policy(oracle(self._lengths) if policy.name == ORACLE else policy)
        self.bank = Bank(setting.catalogue, setting.fee_bps, setting.credit_nano, setting.budgets)
        self.stands = {
            stand.machine: stand
            for stand in (
                self._stand(number, spec, seed) for number, spec in enumerate(setting.macs)
            )
        }
        self._furnish()
        self.door = Door(self.kernel, self.router, self.bank, self.stands, self._ended)
        self._misfortune = Misfortune(
            self.kernel,
            setting.faults,
            self.stands.values(),
            lambda name: np.random.Generator(np.random.PCG64(seed_of(seed, name))),
            self._lost,
            self.door.stalled,
            self._over,
        )
        self._requests = 0
        self._last_s = START_S
        self._feed: Feed | None = None
        self._planned_s = inf
        self._beats = 0

    def _stand(self, number: int, spec: MacSpec, seed: int) -> Stand:
        budget = memory_budget_bytes(spec.hardware.memory_gb)
        random = np.random.Generator(np.random.PCG64(seed_of(seed, f"mac:{number}")))
        chip = spec.hardware.chip
        mac = SimMac(self.kernel, chip, self._setting.slots, budget * CACHE_SHARE, random)
        used = MacUsed(spec.name, chip, spec.hardware.memory_gb, spec.ask_pct)
        return Stand(self.kernel, number, spec, mac, self._sizes, used, here_since_s=START_S)

    def _furnish(self) -> None:
        """Every Mac begins with what a first plan gives it, loaded before the run."""
        now_s = self.kernel.now_s
        for stand in self.stands.values():
            self.router.beat_provider(stand.beat(), now_s)
        case = self.router.look(now_s)
        if case is not None:
            self.router.placing.adopt(work_out(case), now_s)
            for stand in self.stands.values():
                for model in self.router.placing.planner.orders(stand.machine, ()) or ():
                    stand.install(model)
            return
        for stand in self.stands.values():
            left = memory_budget_bytes(stand.spec.hardware.memory_gb)
            for model in self._setting.models:
                size = self._sizes[model].weight_bytes
                if size <= left and (not stand.spec.models or model in stand.spec.models):
                    stand.install(model)
                    left -= size

    # ── the run ───────────────────────────────────────────────────────────────────────

    def run(self, feed: Feed) -> Totals:
        """Play all that is asked, and what it leads to, to its end."""
        kernel = self.kernel
        self._feed = feed
        self._beat()
        self._gateway_beat()
        self._tick()
        self._look()
        self._misfortune.begin()
        self._await_next()
        kernel.run(self._over)
        self.door.close()
        for stand in self.stands.values():
            if stand.here:
                stand.used.here_s += kernel.now_s - stand.here_since_s
            stand.used.busy_s = stand.mac.busy_s
            earned = self.bank.books.balance(stand.owner) if stand.used.jobs else None
            stand.used.earned_nano = earned.earnings_nano if earned is not None else 0
            self._sink.used(stand.used)
        return Totals(
            requests=self._requests,
            simulated_s=kernel.now_s - START_S,
            events=kernel.events,
            problems=list(self.bank.problems()),
            metrics=self.router.metrics(kernel.now_s),
        )

    def _over(self) -> bool:
        assert self._feed is not None
        if not self._feed.over:
            return False
        return self.door.open == 0 or self.kernel.now_s > self._last_s + DRAIN_S

    def _await_next(self) -> None:
        """Plan the next arrival; one that an answer has brought forward is planned again."""
        assert self._feed is not None
        next_s = self._feed.next_s()
        if next_s is not None and START_S + next_s < self._planned_s:
            self._planned_s = START_S + next_s
            self.kernel.at(self._planned_s, self._arrive, self._planned_s)

    def _arrive(self, planned_s: float) -> None:
        if planned_s != self._planned_s:
            return
        assert self._feed is not None
        self._planned_s = inf
        arrival = self._feed.take()
        self._requests += 1
        self._last_s = self.kernel.now_s
        self._lengths[f"req_{arrival.number}"] = arrival.output_tokens
        self.door.arrive(arrival)
        self._await_next()

    def _lost(self, stand: Stand, reason: str) -> None:
        """Ray says that the process is gone."""
        self.router.machine_lost(stand.machine, reason, self.kernel.now_s)
        self.door.collect()

    def _ended(self, ended: Ended) -> None:
        self._lengths.pop(f"req_{ended.arrival.number}", None)
        self._sink.ended(ended)
        assert self._feed is not None
        self._feed.ended(ended)
        self._await_next()

    # ── what happens all the time ─────────────────────────────────────────────────────

    def _tick(self) -> None:
        self.router.tick(self.kernel.now_s)
        self.router.take_journal()
        self.door.collect()
        self.kernel.after(TICK_S, self._tick)

    def _look(self) -> None:
        """The planner looks every second; a plan takes a moment to be made."""
        case = self.router.look(self.kernel.now_s)
        if case is not None:
            self.kernel.after(SOLVE_S, self._adopt, work_out(case))
        self.kernel.after(LOOK_S, self._look)

    def _adopt(self, answer: Answer) -> None:
        self.router.placing.adopt(answer, self.kernel.now_s)

    def _gateway_beat(self) -> None:
        self.router.beat_gateway(self.door.beat(), self.kernel.now_s)
        self.door.collect()
        self.kernel.after(GATEWAY_BEAT_S, self._gateway_beat)

    def _beat(self) -> None:
        """Every Mac beats; in full when something changed, or once in a while."""
        now_s = self.kernel.now_s
        quiet = []
        every = max(round(FULL_BEATS_S / BEAT_S), 1)
        for stand in self.stands.values():
            if not stand.here or stand.cut:
                continue
            due = (self._beats + stand.number) % every == 0
            if stand.changed or due:
                stand.changed = False
                self._deliver(stand, stand.beat())
            else:
                quiet.append(stand.machine)
        self.router.beat_unchanged(quiet, now_s)
        self._beats += 1
        self.door.collect()
        self.kernel.after(BEAT_S, self._beat)

    def _deliver(self, stand: Stand, beat: ProviderBeat) -> None:
        """A beat arrives, at once or late, and its answer is followed."""
        late_s = self._setting.faults.stale_beats_s
        if late_s > 0:
            self.kernel.after(late_s, self._heard, stand, beat)
        else:
            self._heard(stand, beat)

    def _heard(self, stand: Stand, beat: ProviderBeat) -> None:
        orders = self.router.beat_provider(beat, self.kernel.now_s)
        if stand.here and stand.incarnation == beat.incarnation:
            stand.follow(orders)
        self.door.collect()


def simulate(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """A scenario under a policy: its workloads are played to their end."""
    setting = Setting(
        macs=scenario.macs,
        models=scenario.models,
        catalogue=Catalogue(),
        slots=scenario.slots,
        fee_bps=scenario.market.platform_fee_bps,
        faults=scenario.faults,
        placement=scenario.placement,
        credit_nano=scenario.market.credit_nano,
        budgets=budgets(scenario.workloads),
    )
    return World(setting, policy, seed, sink).run(_feed(scenario, seed))


def _feed(scenario: Scenario, seed: int) -> Feed:
    """What is asked: a list where nothing depends on answers, which is the quicker way."""
    closed = any(workload.closed for workload in scenario.workloads)
    made = Source if closed else lambda *args, **kwargs: Given(arrivals(*args, **kwargs))
    return made(
        scenario.workloads,
        Streams(seed),
        capacity=lambda mix: fluid_capacity(scenario.macs, mix, scenario.slots),
        requests=scenario.requests,
        duration_s=scenario.duration_s,
    )
