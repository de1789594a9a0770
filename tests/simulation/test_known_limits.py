"""Known answers: where simple policies stop being stable on Macs that differ twenty-fold.

The limits are formulas (`simulator.limits.bounds`): 56 % of the fleet for the shorter of two
queues, 12 % for equal shares. The world is asked for more and for less than that: beyond a limit
the backlog must grow, and by just as much as the formula says is too much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from market.hardware import chip_named, profile_of, step_ms
from simulator.results.columns import Requests
from simulator.results.timeline import running
from tests.support import queue_kit as kit
from tests.support.queue_kit import World, share_of_two

SPEEDS = (366.0, 223.0, 223.0, 65.0, 65.0, 28.0, 28.0, 15.7)
"""Tokens a second of eight Macs, as published: from an M3 Ultra to an M1."""

TOKENS = 500.0
"""Of an answer on average; exponential, so that what is left of one is like a whole one."""

SLOTS = 1_024
"""So many that nobody waits at the router: a policy's choice is final, as in the theory."""

SURE = 3.3
"""Standard deviations that chance exceeds once in a thousand times."""


@dataclass(frozen=True)
class Fleet:
    """Eight equal Macs, seven of them slowed down until they are as fast as the published ones.

    In large batches a Mac is bound by arithmetic: it says `tokens_per_s` whoever they are for,
    but for the moments in which a prompt is read.
    """

    share: float  # of the capacity that is asked for
    until_s: float
    seed: int

    @property
    def most(self) -> float:
        """Requests a second that the quickest can do."""
        chip, profile = chip_named(kit.CHIP), profile_of(kit.MODEL)
        said_s = TOKENS * step_ms(chip, profile, SLOTS, TOKENS / 2) / SLOTS / 1e3
        return 1.0 / (said_s + kit.read_s(kit.MODEL))

    def can(self, mac: int) -> float:
        """Requests a second that one of them can do."""
        return self.most * SPEEDS[mac] / SPEEDS[0]

    @property
    def rate(self) -> float:
        return self.share * sum(self.can(mac) for mac in range(len(SPEEDS)))

    def played(self, policy: str) -> Requests:
        random = np.random.Generator(np.random.PCG64(self.seed))
        count = int(self.rate * self.until_s)
        at_s = np.cumsum(random.exponential(1.0 / self.rate, count))
        tokens = np.maximum(np.rint(random.exponential(TOKENS, count)), 1).astype(int).tolist()
        return kit.play(
            at_s, tokens, macs=len(SPEEDS), slots=SLOTS, policy=policy, prepare=slowed, whole=False
        )[0]

    def growth(self, requests: Requests, macs: range) -> tuple[float, float]:
        """By how many requests a second these Macs' backlog grows, once it has begun to, and the
        standard deviation of that by chance: of what comes, and of what is done.
        """
        from_s, span_s = self.until_s / 4, self.until_s * 3 / 4
        moments = np.array([from_s, from_s + span_s])
        there = sum(running(requests, mac).at(moments) for mac in macs)
        done = sum(self.can(mac) for mac in macs)
        return float(there[1] - there[0]) / span_s, float((2.0 * done / span_s) ** 0.5)


def slowed(world: World) -> None:
    for stand, speed in zip(world.stands.values(), SPEEDS, strict=True):
        stand.mac.heat(SPEEDS[0] / speed)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients who wait for ever, as those of the theory do."""
    monkeypatch.setattr("simulator.world.door.TOTAL_S", 1e9)


def test_beyond_its_limit_the_shorter_of_two_drowns_the_slow_macs(patient: None) -> None:
    """At 70 % the five slowest, between which ten of 28 pairs are chosen, get more than they can
    do, and their backlog grows by just the difference. Who looks at all queues has none there.
    """
    fleet, slow = Fleet(0.70, 1_000.0, seed=1), range(3, 8)
    given = fleet.rate * share_of_two(len(slow), len(SPEEDS))
    too_much = given - sum(fleet.can(mac) for mac in slow)

    grown, by_chance = fleet.growth(fleet.played("power_of_two"), slow)
    all_seen, _ = fleet.growth(fleet.played("least_request"), slow)

    assert too_much > SURE * by_chance
    assert abs(grown - too_much) < SURE * by_chance
    assert abs(all_seen) < SURE * by_chance / 3


def test_below_its_limit_the_shorter_of_two_is_stable(patient: None) -> None:
    """At 46 % the five slowest keep up, and with them all others."""
    fleet = Fleet(0.46, 1_000.0, seed=1)

    grown, by_chance = fleet.growth(fleet.played("power_of_two"), range(3, 8))

    assert abs(grown) < by_chance


@pytest.mark.parametrize("policy", ["round_robin", "random"])
def test_beyond_theirs_equal_shares_drown_the_slowest(policy: str, patient: None) -> None:
    """At 20 % the slowest gets an eighth as everyone does, and more than it can do."""
    fleet, slowest = Fleet(0.20, 2_000.0, seed=1), range(7, 8)
    too_much = fleet.rate / len(SPEEDS) - fleet.can(7)

    grown, by_chance = fleet.growth(fleet.played(policy), slowest)

    assert too_much > SURE * by_chance
    assert abs(grown - too_much) < SURE * by_chance


@pytest.mark.parametrize("policy", ["round_robin", "random"])
def test_below_theirs_equal_shares_are_stable(policy: str, patient: None) -> None:
    """At a tenth the slowest keeps up, and so do all the others."""
    fleet = Fleet(0.10, 2_000.0, seed=1)

    grown, by_chance = fleet.growth(fleet.played(policy), range(7, 8))

    assert abs(grown) < by_chance
