"""A whole market under the virtual clock: the live router, ledger and planner, simulated Macs.

Equal setting, policy and seed give equal runs, to the byte. Randomness comes in named streams,
so that two policies meet the same requests, the same faults and the same Macs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from market.catalogue import Catalogue
from market.fleet_file import MacSpec
from market.hardware import memory_budget_bytes, profile_of
from market.policy.registry import Policy
from market.routing.messages import ProviderBeat
from market.routing.state import RouterState
from market.types import ModelId, ModelSize
from simulator.bank import Bank
from simulator.bounds import fluid_capacity
from simulator.door import Door
from simulator.faults import NO_FAULTS, Faults, Misfortune
from simulator.kernel import Kernel
from simulator.mac import SimMac
from simulator.records import Arrival, Ended, MacUsed
from simulator.scenario import Scenario
from simulator.stand import Stand
from simulator.streams import Streams
from simulator.workloads.source import arrivals

START_S = 10.0
"""The clock begins here: a router that has just started is still rebuilding at zero."""

TICK_S = 0.25
BEAT_S = 1.0
GATEWAY_BEAT_S = 2.0
FULL_BEATS_S = 10.0
"""How often a Mac's readings are taken in full; a change is told within a beat at any rate."""

CACHE_SHARE = 0.125
"""Of a Mac's memory that its prefix cache takes, as in the live engine."""

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


class World:
    """One run."""

    def __init__(self, setting: Setting, policy: Policy, seed: int, sink: Sink) -> None:
        self._setting = setting
        self._sink = sink
        self.kernel = Kernel()
        self.kernel.now_s = START_S
        self.router = RouterState(0.0, seed_of(seed, "router") % 2**32)
        self.router.use_policy(policy)
        self.bank = Bank(setting.catalogue, setting.fee_bps)
        self._sizes = sizes_of(setting.models, setting.catalogue)
        self.stands = {
            stand.machine: stand
            for stand in (
                self._stand(number, spec, seed) for number, spec in enumerate(setting.macs)
            )
        }
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
        self._arriving = True
        self._beats = 0

    def _stand(self, number: int, spec: MacSpec, seed: int) -> Stand:
        budget = memory_budget_bytes(spec.hardware.memory_gb)
        random = np.random.Generator(np.random.PCG64(seed_of(seed, f"mac:{number}")))
        mac = SimMac(
            self.kernel,
            spec.hardware.chip,
            self._setting.slots,
            budget * CACHE_SHARE,
            random,
        )
        used = MacUsed(spec.name, spec.hardware.chip, spec.hardware.memory_gb, spec.ask_pct)
        stand = Stand(
            self.kernel,
            number,
            spec,
            mac,
            self._sizes,
            lambda model: self._sizes[model].weight_bytes / 5e9 + 2.0,
            used,
            here_since_s=START_S,
        )
        left = budget
        for model in self._setting.models:
            size = self._sizes[model].weight_bytes
            if size <= left and (not spec.models or model in spec.models):
                stand.install(model)
                left -= size
        return stand

    # ── the run ───────────────────────────────────────────────────────────────────────

    def run(self, arrivals: Iterator[Arrival]) -> Totals:
        """Play all arrivals, and what they lead to, to their end."""
        kernel = self.kernel
        self._beat()
        self._gateway_beat()
        self._tick()
        self._misfortune.begin()
        self._next(arrivals)
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
        if self._arriving:
            return False
        return self.door.open == 0 or self.kernel.now_s > self._last_s + DRAIN_S

    def _next(self, arrivals: Iterator[Arrival]) -> None:
        arrival = next(arrivals, None)
        if arrival is None:
            self._arriving = False
            return
        self.kernel.at(START_S + arrival.at_s, self._arrive, arrival, arrivals)

    def _arrive(self, arrival: Arrival, arrivals: Iterator[Arrival]) -> None:
        self._requests += 1
        self._last_s = self.kernel.now_s
        self.door.arrive(arrival)
        self._next(arrivals)

    def _lost(self, stand: Stand, reason: str) -> None:
        """Ray says that the process is gone."""
        self.router.machine_lost(stand.machine, reason, self.kernel.now_s)
        self.door.collect()

    def _ended(self, ended: Ended) -> None:
        self._sink.ended(ended)

    # ── what happens all the time ─────────────────────────────────────────────────────

    def _tick(self) -> None:
        self.router.tick(self.kernel.now_s)
        self.router.take_journal()
        self.door.collect()
        self.kernel.after(TICK_S, self._tick)

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
    )
    asked = arrivals(
        scenario.workloads,
        Streams(seed),
        capacity=lambda mix: fluid_capacity(scenario.macs, mix, scenario.slots),
        requests=scenario.requests,
        duration_s=scenario.duration_s,
    )
    return World(setting, policy, seed, sink).run(asked)
