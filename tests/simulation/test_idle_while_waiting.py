"""Nobody waits while half of the Macs have nothing to do, and no flood makes others wait.

Lives of whole fleets behind the router's mind with its planner (`tests.support.routed_world`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from random import Random

import pytest

from market.hardware import memory_budget_bytes
from market.placement.planner import QUEUES_AFTER_S, QUEUES_EVERY_S
from market.placement.work import LOAD_BYTES_PER_S, WARM_UP_S, need_bytes, room_bytes
from market.routing.fair_queue import cost_tokens
from market.settings import PlacementSettings
from market.types import AccountId, MachineId, ModelId
from tests.placement_kit import MIDDLE, SIZES, SMALL
from tests.support.routed_world import Asked, RoutedWorld

LONG = bool(os.environ.get("COSTER_LONG"))
Q27 = ModelId("qwen3.5-27b")
NAMES = (SMALL, MIDDLE, Q27)
MODELS = {name: SIZES[name] for name in NAMES}
RULES = PlacementSettings(residency_s=30.0)
LOAD_S = SIZES[Q27].weight_bytes / LOAD_BYTES_PER_S + WARM_UP_S
LOOKS_S = 4.0
"""Beats and looks at the fleet come once a second, and two of each are on the way."""

REACTS_S = RULES.residency_s + QUEUES_AFTER_S + QUEUES_EVERY_S + LOAD_S + LOOKS_S
"""What a model that is in use may keep its place for, until a queue counts, until the next plan
for it, the slowest load, and what is heard late."""

FREE_REACTS_S = REACTS_S - RULES.residency_s
"""The same where nothing has to give way."""


class Watched:
    """Measures how long a model queues while half of the Macs that could have it are idle."""

    def __init__(self, world: RoutedWorld) -> None:
        self.world = world
        self.worst_s = dict.fromkeys(world.sizes, 0.0)
        self._since_s: dict[ModelId, float] = {}
        world.every_second = self._look

    def _look(self) -> None:
        world = self.world
        for model in world.sizes:
            could = [machine for machine in world.macs if self._could_have(machine, model)]
            idle = [machine for machine in could if self._is_idle(machine)]
            if not could or 2 * len(idle) < len(could) or not world.queued(model):
                self._since_s.pop(model, None)
                continue
            since_s = self._since_s.setdefault(model, world.now_s)
            self.worst_s[model] = max(self.worst_s[model], world.now_s - since_s)

    def _could_have(self, machine: MachineId, model: ModelId) -> bool:
        room = room_bytes(memory_budget_bytes(self.world.macs[machine].memory_gb))
        return need_bytes(self.world.sizes[model]) <= room

    def _is_idle(self, machine: MachineId) -> bool:
        loading = "loading" in self.world.places(machine).values()
        return not loading and self.world.in_flight(machine) == 0


def ends(world: RoutedWorld) -> dict[str, int]:
    counts: dict[str, int] = {}
    for asked in world.asked.values():
        counts[asked.ended or "open"] = counts.get(asked.ended or "open", 0) + 1
    return counts


CHIPS = [("M4 Max", 36), ("M4 Max", 64), ("M1 Max", 32), ("M2 Ultra", 192), ("M4 Pro", 24)]
RATES = (0.0, 0.05, 0.3, 1.0, 2.0)


@pytest.mark.parametrize("seed", range(200) if LONG else (5, 14, 25, 35))
def test_half_the_fleet_is_never_idle_while_a_model_queues(seed: int) -> None:
    """Any fleet, any demand that turns: not for longer than the planner needs to react."""
    random = Random(seed)
    macs = [random.choice(CHIPS) for _ in range(random.randint(2, 6))]
    names = NAMES[: random.randint(2, 3)]
    world = RoutedWorld(macs, {name: MODELS[name] for name in names}, RULES, seed)
    watched = Watched(world)
    for _ in range(5 if LONG else 3):
        world.run(random.choice([30, 60, 120]), {name: random.choice(RATES) for name in names})
    assert max(watched.worst_s.values()) <= REACTS_S, watched.worst_s
    shown = {model: round(worst_s) for model, worst_s in watched.worst_s.items()}
    print(f"seed {seed}: {len(macs)} Macs, idle beside a queue for {shown} s, {ends(world)}")


def test_demand_that_is_over_keeps_no_mac_from_those_who_wait() -> None:
    """Ten minutes of one model's demand are remembered, but not held free while another queues:
    Macs that have nothing to do and room for it get it at once.
    """
    world = RoutedWorld([("M4 Max", 64)] * 5, {name: MODELS[name] for name in NAMES[:2]}, RULES)
    world.run(180, {SMALL: 8.0})
    watched = Watched(world)
    world.run(120, {MIDDLE: 3.0})
    assert watched.worst_s[MIDDLE] <= FREE_REACTS_S
    assert world.queued(MIDDLE) == 0
    asked = [asked for asked in world.asked.values() if asked.request.model == MIDDLE]
    assert sum(asked.ended not in ("ok", "") for asked in asked) == 0
    assert world.unloads == 0


# ── floods ────────────────────────────────────────────────────────────────────────────


def between(asked: Sequence[Asked], consumer: str, since_s: float, until_s: float) -> float:
    """Cost tokens that this consumer was granted within a time."""
    return sum(
        cost_tokens(one.request, one.tokens)
        for one in asked
        if one.request.consumer == AccountId(consumer)
        and one.granted_s is not None
        and since_s < one.granted_s < until_s
    )


@pytest.mark.parametrize("seed", range(50) if LONG else range(3))
def test_a_flood_moves_nobody_elses_wait_beyond_the_bound(seed: int) -> None:
    """While someone waits, whoever floods is served at most twice the largest cost of a request
    more than they are; so no wait of theirs is longer than that much service takes.
    """
    random = Random(seed)
    world = RoutedWorld([("M4 Max", 64)] * 2, {SMALL: SIZES[SMALL]}, RULES, seed, slots=2)
    world.run(15)
    sizes = [(random.randint(50, 600), random.randint(20, 120)) for _ in range(6)]
    for _ in range(120):  # at once, and then as fast as they are served
        flood(world, random.choice(sizes), "flood")
    for _ in range(40):
        for _ in range(4):
            flood(world, random.choice(sizes), "flood")
        flood(world, random.choice(sizes), "quiet")
        world.run(random.uniform(0.5, 2.0))
    world.run(30)

    asked = list(world.asked.values())
    largest = max(cost_tokens(one.request, one.tokens) for one in asked)
    quiet = [one for one in asked if one.request.consumer == "quiet"]
    served = [one for one in quiet if one.granted_s is not None]
    assert len(served) == len(quiet)
    overtaken = [
        between(asked, "flood", one.asked_s, one.granted_s or 0.0)
        - between(asked, "quiet", one.asked_s, one.granted_s or 0.0)
        for one in served
    ]
    assert max(overtaken) <= 2 * largest
    waits_s = sorted((one.granted_s or 0.0) - one.asked_s for one in served)
    floods = [one for one in asked if one.request.consumer == "flood"]
    print(
        f"seed {seed}: {len(floods)} of a flood; the other's longest wait {waits_s[-1]:.1f} s, "
        f"overtaken by {max(overtaken) / largest:.2f} of the largest request"
    )


def flood(world: RoutedWorld, size: tuple[int, int], consumer: str) -> None:
    world.ask(SMALL, consumer=consumer, prompt_tokens=size[0], tokens=size[1], patience_s=600.0)


def waits(world: RoutedWorld) -> Mapping[str, float]:
    """The longest wait of each consumer."""
    found: dict[str, float] = {}
    for one in world.asked.values():
        if one.granted_s is not None:
            name = str(one.request.consumer)
            found[name] = max(found.get(name, 0.0), one.granted_s - one.asked_s)
    return found


def test_of_two_consumers_the_one_who_asks_for_little_hardly_waits() -> None:
    """However deep the other's queue is, the wait is that of a few requests, not of the queue."""
    world = RoutedWorld([("M4 Max", 64)], {SMALL: SIZES[SMALL]}, RULES, slots=2)
    world.run(15)
    for _ in range(300):
        flood(world, (300, 100), "flood")
    for _ in range(20):
        flood(world, (300, 100), "quiet")
        world.run(6)
    one_s = world.macs[MachineId("mac_0")].service_s(next(iter(world.asked.values())).request, 100)
    assert waits(world)["quiet"] <= 3 * one_s
    assert waits(world)["flood"] > 20 * one_s
