"""Whole lives of small fleets: what the planner does to them over minutes and hours."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.hardware import CHIPS
from market.placement.view import MacView, Pin
from market.placement.work import need_bytes, room_bytes
from market.settings import PlacementSettings
from market.types import MachineId, ModelId
from tests.placement_kit import LARGE, MIDDLE, SIZES, SMALL, World, mac, ready

Q27 = ModelId("qwen3.5-27b")
RIVALS = (MIDDLE, Q27)
HOUR_S = 3600.0


def small_mac(number: int, *names: ModelId) -> MacView:
    """A Mac with room for one of the rivals, not for both."""
    return mac(number, "M4 Max", 36, places=ready(*names))


class Watched(World):
    """A world that checks after every second what no plan may break."""

    def step(self) -> None:
        before = {machine: dict(sim.since) for machine, sim in self.macs.items()}
        super().step()
        for machine, sim in self.macs.items():
            self._check_memory(machine)
            gone = [name for name in before[machine] if name not in sim.since]
            self._check_swaps(machine, gone, before[machine])

    def _check_memory(self, machine: MachineId) -> None:
        """Never more than the Mac has room for, counting what is ordered and not begun."""
        sim = self.macs[machine]
        there = {name for name, (state, _) in sim.since.items() if state != "failed"}
        there |= set(self.planner.orders(machine, ()) or ())
        assert sum(need_bytes(SIZES[name]) for name in there) <= room_bytes(sim.view.memory_bytes)

    def _check_swaps(
        self,
        machine: MachineId,
        gone: list[ModelId],
        before: Mapping[ModelId, tuple[str, float]],
    ) -> None:
        """No used model leaves before its residency, no last copy from those who wait."""
        sim = self.macs[machine]
        for name in gone:
            state, since_s = before[name]
            if state != "ready" or sim.view.standing == "away":
                continue
            used = self.asked_s.get(name, -1.0) > since_s
            assert not used or self.now_s - since_s >= self.settings.residency_s
            others = [m for m, other in self.macs.items() if m != machine and name in other.ready()]
            assert others or not self.waited[name]
            assert Pin(machine, name) not in self.pins
        hour = [at for _, at, _ in sim.unloads if at > self.now_s - HOUR_S]
        assert len(hour) <= self.settings.swaps_per_hour


# ── any fleet, any life ───────────────────────────────────────────────────────────────

NAMES = (SMALL, *RIVALS, LARGE)
CHANCES = st.dictionaries(st.sampled_from(NAMES), st.floats(0.0, 1.5), max_size=3)
EVENTS = st.one_of(
    st.tuples(st.just("run"), st.integers(5, 200), CHANCES),
    st.tuples(st.just("away"), st.integers(0, 4), st.none()),
    st.tuples(st.just("back"), st.integers(0, 4), st.none()),
    st.tuples(st.just("pin"), st.integers(0, 4), st.sampled_from(NAMES)),
)
CHIPS_OF = st.lists(
    st.sampled_from([("M4 Max", 36), ("M4 Max", 36), ("M1", 16), ("M2 Ultra", 192)]),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15, deadline=None)
@given(CHIPS_OF, st.lists(EVENTS, min_size=2, max_size=8), st.integers(0, 3))
def test_whatever_happens_no_plan_breaks_a_rule(
    chips: list[tuple[str, int]], events: list[tuple[str, int, object]], budget: int
) -> None:
    """Memory, residency, swaps of the hour, pins and the last copy hold through any life."""
    rules = PlacementSettings(residency_s=120.0, swaps_per_hour=budget)
    world = Watched([mac(n, chip, gb) for n, (chip, gb) in enumerate(chips)], NAMES, rules)
    for kind, number, what in events:
        machine = MachineId(f"mac_{number % len(chips):03}")
        if kind == "run":
            world.run(number, what)  # type: ignore[arg-type]
        elif kind == "pin":
            world.pins = (*world.pins, Pin(machine, what))  # type: ignore[arg-type]
        else:
            world.stand(machine, "away" if kind == "away" else "open")


# ── what demand does ──────────────────────────────────────────────────────────────────


def test_a_fresh_fleet_gets_every_model_and_leaves_no_mac_empty() -> None:
    """Each model that fits is kept once, on Macs of its own where there are enough."""
    world = Watched([mac(0), mac(1), mac(2, "M1 Max", 32), mac(3, "M2 Ultra", 192)], NAMES)
    world.run(90)

    held = [set(sim.ready()) for sim in world.macs.values()]
    assert set().union(*held) == set(NAMES)
    assert all(held)
    assert world.unloads == 0


def test_steady_demand_ends_in_a_placement_that_stays() -> None:
    """After the first minutes of a steady mix nothing is loaded or unloaded any more."""
    chips = sorted(CHIPS.values(), key=lambda chip: chip.name)
    macs = [mac(n, chips[7 * n % 18].name, chips[7 * n % 18].memory_gb[-1]) for n in range(12)]
    names = [name for name in SIZES if need_bytes(SIZES[name]) < 60e9]
    world = Watched(macs, names)
    rates = {name: 0.4 / (rank + 1) for rank, name in enumerate(names)}
    world.run(400, rates)
    loads = world.loads
    world.run(900, rates)

    assert (world.loads, world.unloads) == (loads, 0)
    assert sum(world.lost.values()) < 0.05 * sum(world.served.values())


@pytest.mark.parametrize(("turn_s", "turns"), [(20, 45), (60, 30), (300, 8)])
def test_demand_that_alternates_does_not_make_models_flap(turn_s: int, turns: int) -> None:
    """Two models take turns in demand, one Mac has room for one: swaps follow the residency."""
    world = Watched([small_mac(0, MIDDLE)], RIVALS)
    world.run(30)
    for turn in range(turns):
        world.run(turn_s, {RIVALS[turn % 2]: 0.4})

    assert world.unloads <= turns * turn_s / world.settings.residency_s
    assert world.unloads < turns


def test_a_model_in_use_keeps_its_residency_whatever_the_others_pay() -> None:
    """One request a minute ago protects a young model for ten minutes, and no longer."""
    world = Watched([small_mac(0)], RIVALS)
    world.run(30)
    (first,) = world.macs[MachineId("mac_000")].ready()
    other = next(name for name in RIVALS if name != first)
    world.ask(first)
    world.run(500, {other: 1.0})
    assert world.unloads == 0
    world.run(200, {other: 1.0})

    assert world.macs[MachineId("mac_000")].ready() == [other]


def test_demand_that_turns_for_good_moves_the_models() -> None:
    """When one model's consumers leave and another's come, Macs change over, and then stay."""
    world = Watched([small_mac(n, MIDDLE) for n in range(3)] + [small_mac(3, Q27)], RIVALS)
    world.run(900, {MIDDLE: 1.0})
    world.run(1800, {Q27: 0.8})

    assert sum(Q27 in sim.ready() for sim in world.macs.values()) >= 3
    assert world.unloads <= 3


def test_a_model_that_a_hundred_wait_for_is_loaded_once() -> None:
    """A hundred requests for a cold model make one load, until it has shown that it loads."""
    world = Watched([small_mac(n, MIDDLE) for n in range(4)], RIVALS)
    world.ask(Q27, 100)
    load_s = 11
    world.run(load_s)

    assert world.loads == 1
    world.run(5)
    assert any(Q27 in sim.ready() for sim in world.macs.values())


def test_half_the_fleet_is_not_idle_while_a_model_queues() -> None:
    """Macs whose models nobody asks for take the one that has a queue, one after another."""
    macs = [small_mac(n, MIDDLE if n < 4 else Q27) for n in range(8)]
    world = Watched(macs, RIVALS)
    world.run(300, {MIDDLE: 3.2})

    assert sum(MIDDLE in sim.ready() for sim in world.macs.values()) >= 7
    assert not world.queues[MIDDLE]
    assert world.lost[MIDDLE] < 0.05 * world.served[MIDDLE]


def test_a_lost_macs_model_is_loaded_elsewhere() -> None:
    """Its requests wait for one load and no longer; when the Mac is back it takes part again."""
    world = Watched(
        [mac(n, "M4 Max", 64, places=ready((n and MIDDLE) or Q27)) for n in range(2)], RIVALS
    )
    world.run(60, {MIDDLE: 0.1, Q27: 0.1})
    world.stand(MachineId("mac_000"), "away")
    world.run(25, {MIDDLE: 0.1, Q27: 0.1})

    assert set(world.macs[MachineId("mac_001")].ready()) == {MIDDLE, Q27}
    assert world.lost[Q27] == 0.0
    world.restart(MachineId("mac_000"))
    world.run(60, {MIDDLE: 0.1, Q27: 0.1})
    assert world.macs[MachineId("mac_000")].ready()


def test_a_pin_is_kept_through_any_demand() -> None:
    """Nobody asks for the pinned model and everybody for the other: it stays."""
    world = Watched([small_mac(0, MIDDLE), small_mac(1, Q27)], RIVALS)
    world.pins = (Pin(MachineId("mac_000"), MIDDLE),)
    world.run(1500, {Q27: 2.0})

    assert world.macs[MachineId("mac_000")].ready() == [MIDDLE]
    assert world.unloads == 0


def test_a_model_that_does_not_load_spoils_nothing_else() -> None:
    """It is tried on three Macs at most, then given up for a while; the other model serves on."""
    world = Watched([mac(n) for n in range(5)], RIVALS)
    for sim in world.macs.values():
        sim.refuses = frozenset([Q27])
    world.run(500, {MIDDLE: 0.3, Q27: 0.1})

    tried = [sim for sim in world.macs.values() if Q27 in sim.loads]
    assert len(tried) <= 3
    assert all(sim.loads.count(Q27) == 1 for sim in tried)
    assert world.lost[MIDDLE] == 0.0
    refused = world.plans[-1].refused
    assert any(r.model == Q27 and "could not be loaded on 3 Macs" in r.words for r in refused)


def test_equal_lives_give_equal_plans() -> None:
    """The same fleet, told in another order, with the same requests, is planned alike."""

    def life(*order: int) -> list[tuple[object, ...]]:
        world = World([mac(n, "M4 Max", 36 + 28 * (n % 2)) for n in order], NAMES)
        world.run(200, {MIDDLE: 0.5, Q27: 0.3, SMALL: 0.2})
        return [(plan.made_s, plan.orders, plan.changes) for plan in world.plans]

    assert life(0, 1, 2, 3) == life(0, 1, 2, 3)
    assert life(0, 1, 2, 3) == life(3, 1, 0, 2)
