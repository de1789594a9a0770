"""Known answers: where queueing theory knows how long requests wait, the real world agrees.

Each law is held twice. Step by step against the recursion that theory starts from, on the very
same arrivals: there is nothing random in that. And against the formula, by an estimate with its
interval: what is random in the world's mean is random in the recursion's too, and the mean of
that is known, so it is taken out (a control variate), and a few thousand requests are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from simulator.results.checks import little_error
from simulator.results.columns import FloatArray, Requests
from simulator.results.timeline import inside
from simulator.results.window import Window
from simulator.world.door import HOP_S
from tests.support import queue_kit as kit
from tests.support.queue_kit import Shared, half, mean_wait_many, mean_wait_one, wait_in_order

REQUESTS = 2_000
LOOK_S = 0.1
MEAN_S = float(kit.service_s([50])[0])
"""Of a service: fifty tokens, half a second. A drawn one is rounded to whole tokens, so that
exponential ones have their mean and their variance to within half a per cent."""


@dataclass(frozen=True)
class Drawn:
    """Poisson arrivals at this load, and services as theory draws them."""

    load: float
    servers: int
    services_s: FloatArray
    seed: int

    @property
    def rate(self) -> float:
        return self.load * self.servers / MEAN_S

    @property
    def at_s(self) -> FloatArray:
        random = np.random.Generator(np.random.PCG64(self.seed))
        return np.cumsum(random.exponential(1.0 / self.rate, len(self.services_s)))


def exponential(count: int, seed: int) -> FloatArray:
    return np.random.Generator(np.random.PCG64(seed)).exponential(MEAN_S, count)


def always_alike(count: int, seed: int) -> FloatArray:
    return np.full(count, MEAN_S)


def mostly_short(count: int, seed: int) -> FloatArray:
    """Nine of ten take half of the mean, one takes 5.5 times the mean: cv² = 2.25."""
    random = np.random.Generator(np.random.PCG64(seed))
    return np.where(random.random(count) < 0.9, 0.5, 5.5) * MEAN_S


CASES = {
    "M/M/1": (exponential, 1, 0.6, mean_wait_one(0.6 / MEAN_S, MEAN_S, 1.0)),
    "M/D/1": (always_alike, 1, 0.7, mean_wait_one(0.7 / MEAN_S, MEAN_S, 0.0)),
    "M/G/1": (mostly_short, 1, 0.5, mean_wait_one(0.5 / MEAN_S, MEAN_S, 2.25)),
    "M/M/4": (exponential, 4, 0.8, mean_wait_many(0.8 * 4 / MEAN_S, MEAN_S, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_requests_wait_as_long_as_theory_says(name: str) -> None:
    """Macs with one slot are servers: each request waits as first come, first served has it, and
    all of them on average as Pollaczek, Khinchine and Erlang have it.
    """
    draw, servers, load, expected_s = CASES[name]
    drawn = Drawn(load, servers, draw(REQUESTS, 2), seed=1)
    tokens = kit.tokens_for(drawn.services_s)
    requests, _ = kit.play(drawn.at_s, tokens, macs=servers, slots=1)
    waited = requests["wait_s"]

    in_order = wait_in_order(drawn.at_s, kit.service_s(tokens), servers)
    assert np.abs(waited - in_order).max() < 0.1 * MEAN_S, "steps vary by 3 %, and nothing else"

    ideal = wait_in_order(drawn.at_s, drawn.services_s, servers)
    assert abs(waited.mean() - expected_s) < half(waited)
    assert half(waited - ideal) < 0.02 * expected_s
    assert abs((waited - ideal).mean()) < 0.02 * expected_s


@dataclass(frozen=True)
class Watched:
    """A run of an M/M/1 at 0.6, and how many were inside at regular moments of it."""

    drawn: Drawn
    requests: Requests
    inside: FloatArray


@pytest.fixture(scope="module")
def watched() -> Watched:
    drawn = Drawn(0.6, 1, exponential(REQUESTS, 2), seed=1)
    until_s = float(drawn.at_s[-1])
    seen: list[list[float]] = []

    def watch(world: kit.World) -> None:
        seen.append(kit.every(world, LOOK_S, int(until_s / LOOK_S), lambda: world.door.open))

    tokens = kit.tokens_for(drawn.services_s)
    requests, _ = kit.play(drawn.at_s, tokens, macs=1, slots=1, prepare=watch)
    return Watched(drawn, requests, np.array(seen[0]))


def test_a_stay_is_a_wait_and_a_service(watched: Watched) -> None:
    """Of an M/M/1: the mean stay is 1 / (service rate - arrival rate); the client hears of the
    end one message later.
    """
    rows, drawn = watched.requests, watched.drawn
    stay_s = rows["e2e_s"] - HOP_S
    held_s = stay_s - rows["wait_s"]
    ideal_s = wait_in_order(drawn.at_s, drawn.services_s, 1) + drawn.services_s
    expected_s = MEAN_S / (1.0 - drawn.load)

    assert np.abs(held_s - kit.service_s(rows["output_tokens"])).max() < 0.1 * MEAN_S
    assert abs(stay_s.mean() - expected_s) < half(stay_s)
    assert abs((stay_s - ideal_s).mean()) < 0.02 * expected_s


def test_littles_law_joins_what_is_seen_inside_with_what_is_written_down(watched: Watched) -> None:
    """Who looks into the market at regular moments finds rate times mean stay there, as its rows
    have it; and the run says so of itself.
    """
    rows, until_s = watched.requests, float(watched.drawn.at_s[-1])
    stay_s = rows["e2e_s"] - HOP_S

    expected = len(rows) / until_s * stay_s.mean()
    assert watched.inside.mean() == pytest.approx(expected, rel=0.01)
    assert watched.inside.mean() == pytest.approx(inside(rows).mean(0.0, until_s), rel=0.01)
    assert abs(little_error(rows, Window(0.0, until_s, "set")) or 0.0) < 0.01


def test_how_many_are_inside_is_geometric_and_arrivals_see_the_same(watched: Watched) -> None:
    """Of an M/M/1 at load ρ: n are inside for (1 - ρ) ρⁿ of the time; and as arrivals are
    Poisson, the share of them that waits is the share of the time in which somebody is inside.
    """
    load, waited = watched.drawn.load, watched.requests["wait_s"] > 0

    for n in range(4):
        there = (watched.inside == n).astype(np.float64)
        assert abs(there.mean() - (1 - load) * load**n) < half(there)
    busy = watched.inside > 0
    assert abs(waited.mean() - load) < half(waited.astype(np.float64))
    assert abs(waited.mean() - busy.mean()) < 0.03


def all_alike(random: np.random.Generator) -> FloatArray:
    return np.ones(REQUESTS)


def drawn_alike(random: np.random.Generator) -> FloatArray:
    return random.exponential(1.0, REQUESTS)


def few_are_long(random: np.random.Generator) -> FloatArray:
    return np.where(random.random(REQUESTS) < 0.9, 0.5, 5.5)


@pytest.mark.parametrize("sizes", [all_alike, drawn_alike, few_are_long])
def test_a_batch_is_a_shared_processor_and_only_mean_sizes_count(
    sizes: Callable[[np.random.Generator], FloatArray],
) -> None:
    """A Mac gives each of its requests a token in each step: a symmetric queue, in which the mean
    stay depends on the mean length alone. Answers all alike, exponential ones, and short ones
    with a few long, stay as long as one formula says that knows nothing of them but their mean.
    """
    random = np.random.Generator(np.random.PCG64(5))
    mac = Shared(rate=1.0, tokens_mean=400.0)
    at_s = np.cumsum(random.exponential(1.0 / mac.rate, REQUESTS))
    tokens = np.maximum(np.rint(sizes(random) * mac.tokens_mean), 1).astype(int).tolist()

    requests, _ = kit.play(at_s, tokens, macs=1, slots=512, model=kit.SHARED)

    stay_s, by_hand_s = requests["e2e_s"], mac.stays_s(at_s, tokens)
    assert inside(requests).mean(0.0, float(at_s[-1])) > 10, "there is something to share"
    assert abs(stay_s.mean() - mac.mean_stay_s()) < half(stay_s)
    assert half(stay_s - by_hand_s) < 0.02 * mac.mean_stay_s()
    assert abs((stay_s - by_hand_s).mean()) < 0.02 * mac.mean_stay_s()
