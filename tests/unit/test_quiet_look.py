"""A quiet fleet is shown to the planner less often; what a plan would be made for, at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from market.hardware import hardware_of
from market.placement.plan import work_out
from market.placement.planner import Planner
from market.placement.view import FleetView
from market.routing.messages import Place, ProviderBeat
from market.routing.placing import QUIET_LOOK_S, Placing
from market.routing.state import RouterState
from market.settings import PlacementSettings
from market.types import MachineId
from tests.placement_kit import SIZES, SMALL
from tests.router_kit import FACTS, STATS, provider_beat, request, route_one

A, B = MachineId("mac_a"), MachineId("mac_b")
CHIP = hardware_of("M4 Max", 64)
SERVED = replace(FACTS, model=SMALL)
READY = Place(SMALL, "ready", "", 1.0, SERVED, STATS)


def beat(name: str, **changes: Any) -> ProviderBeat:
    said = provider_beat(name, models=(SERVED,), slots=1)
    return replace(said, places=(READY,), hardware=CHIP, memory_bytes=40 * 10**9, **changes)


class Living:
    """A router with two Macs that say the same each second."""

    def __init__(self) -> None:
        placing = Placing(PlacementSettings(every_s=3_600), [SIZES[SMALL]], 0.0)
        self.state = RouterState(0.0, placing=placing)
        self.now_s = 10.0

    def second(self) -> None:
        for said in (beat("a"), beat("b")):
            self.state.beat_provider(said, self.now_s)
        self.look()

    def look(self) -> None:
        case = self.state.look(self.now_s)
        if case is not None:
            self.state.placing.adopt(work_out(case), self.now_s)
        self.now_s += 1.0


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the planner was shown the fleet."""
    times: list[float] = []
    observe = Planner.observe

    def told(self: Planner, view: FleetView, now_s: float) -> None:
        times.append(now_s)
        observe(self, view, now_s)

    monkeypatch.setattr(Planner, "observe", told)
    return times


@pytest.fixture
def quiet(shown: list[float]) -> Living:
    """They have lived for a while, and were looked at a moment ago."""
    living = Living()
    for _ in range(40):
        living.second()
    while shown[-1] != living.now_s - 1.0:
        living.second()
    return living


CHANGES: dict[str, Callable[[RouterState, float], object]] = {
    "a place": lambda s, t: s.beat_provider(
        replace(beat("b"), places=(replace(READY, state="failed"),)), t
    ),
    "memory": lambda s, t: s.beat_provider(replace(beat("b"), memory_bytes=10**9), t),
    "what its owner allows": lambda s, t: s.beat_provider(beat("b", allowed=(SMALL,)), t),
    "a Mac that is new": lambda s, t: s.beat_provider(beat("c"), t),
    "a Mac that is lost": lambda s, t: s.machine_lost(B, "it died", t),
    "a drain": lambda s, _: s.drain(B, "for now"),
    "a pin": lambda s, _: s.placing.pin(A, SMALL, "for Ann"),
}


def test_a_quiet_fleet_is_looked_at_now_and_then(quiet: Living, shown: list[float]) -> None:
    """As long as nobody waits and nothing changes; its clocks go on being seen."""
    late = [time for time in shown if time > 30.0]

    assert len(late) >= 2
    assert all(after - before == QUIET_LOOK_S for before, after in pairwise(late))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_plan_would_be_made_for_is_seen_at_the_next_look(
    quiet: Living, shown: list[float], change: Callable[[RouterState, float], object]
) -> None:
    """However quiet it was before."""
    change(quiet.state, quiet.now_s)
    quiet.look()

    assert shown[-1] == quiet.now_s - 1.0


def test_whoever_waits_is_seen_at_the_next_look(quiet: Living, shown: list[float]) -> None:
    """One request runs on each Mac, the third has to wait."""
    for name in ("one", "two", "three"):
        route_one(quiet.state, replace(request(name, queue=True), model=SMALL), quiet.now_s)
    quiet.look()

    assert shown[-1] == quiet.now_s - 1.0
