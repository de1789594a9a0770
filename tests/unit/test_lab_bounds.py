"""Laws of the bounds: known answers, and that nothing is below them."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.fleet_file import MacSpec, fleet_of
from market.types import ModelId
from simulator.limits.bounds import (
    Demand,
    _middle,
    choices_limit,
    fluid_capacity,
    fluid_served,
    no_queue,
    pooled_work,
    rates_of,
    round_robin_limit,
    srpt_mean_s,
)
from simulator.limits.hindsight import best_total_s
from simulator.limits.service import alone_s, shared_s
from simulator.records import Arrival, Ended
from simulator.results.columns import Requests

TOY = (366.0, 223.0, 223.0, 65.0, 65.0, 28.0, 28.0, 15.7)
SMALL, LARGE = ModelId("qwen3.5-7b"), ModelId("llama-3.3-70b")


def fleet(**counts: int) -> tuple[MacSpec, ...]:
    entries = [{"chip": chip.replace("_", " "), "count": count} for chip, count in counts.items()]
    return fleet_of(entries, "fleet")


def requests_of(sizes: list[tuple[float, int, int]], model: ModelId = SMALL) -> Requests:
    return Requests.of(
        Ended(Arrival(n, at_s, "c", model, prompt, output, output), "ok", e2e_s=1.0, ttft_s=1.0)
        for n, (at_s, prompt, output) in enumerate(sizes)
    )


def test_limits_of_the_simple_policies_are_the_published_ones() -> None:
    """On the toy fleet the five slowest bind: two choices are stable to 56 %, round robin to 12."""
    assert choices_limit(TOY) == pytest.approx((15.7 + 28 + 28 + 65 + 65) * 28 / 10)
    assert choices_limit(TOY) / sum(TOY) == pytest.approx(0.556, abs=2e-3)
    assert round_robin_limit(TOY) / sum(TOY) == pytest.approx(0.124, abs=1e-3)


def test_on_equal_servers_nothing_is_lost() -> None:
    """All limits are the capacity where all servers are alike."""
    assert choices_limit([5.0] * 6) == pytest.approx(30.0)
    assert round_robin_limit([5.0] * 6) == pytest.approx(30.0)


@given(st.lists(st.floats(0.1, 100.0), min_size=2, max_size=9))
def test_more_choices_are_never_less_stable(speeds: list[float]) -> None:
    """One choice is a uniform draw, all choices are the whole capacity, and in between it grows."""
    limits = [choices_limit(speeds, d) for d in range(1, len(speeds) + 1)]

    assert limits[0] == pytest.approx(round_robin_limit(speeds))
    assert limits[-1] == pytest.approx(sum(speeds))
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(limits))


def test_one_model_has_the_sum_of_all_rates() -> None:
    """With one model the linear program has nothing to decide."""
    macs = fleet(M4_Max=2, M2=3)
    mix = [Demand(SMALL, 1.0, 1_000, 200, 1_000)]

    assert fluid_capacity(macs, mix, 32) == pytest.approx(float(rates_of(macs, mix, 32).sum()))


def test_two_models_on_two_kinds_are_matched_to_what_each_is_best_at() -> None:
    """Against every division of time that a grid can find, the program is as good or better."""
    macs = fleet(M4_Max=1, M2_Ultra=1)
    mix = [Demand(SMALL, 0.6, 2_000, 100, 2_000), Demand(LARGE, 0.4, 200, 300, 200)]
    rates = rates_of(macs, mix, 32)

    best = max(
        min((a * rates[0, 0] + b * rates[1, 0]) / 0.6,
            ((1 - a) * rates[0, 1] + (1 - b) * rates[1, 1]) / 0.4)
        for a, b in product(np.linspace(0, 1, 101), repeat=2)
    )  # fmt: skip

    assert fluid_capacity(macs, mix, 32) == pytest.approx(best, rel=0.02)
    assert fluid_capacity(macs, mix, 32) >= best * (1 - 1e-9)


def test_a_model_that_only_some_hold_has_only_their_time() -> None:
    """What does not fit a Mac takes nothing from it and gets nothing."""
    macs = fleet(M2=5, M4_Max=1)
    mix = [Demand(LARGE, 1.0, 500, 100, 500)]

    assert fluid_capacity(macs, mix, 8) == pytest.approx(fluid_capacity(macs[5:], mix, 8))


def test_what_is_served_is_all_below_capacity_and_a_part_beyond() -> None:
    """At half of the capacity everything, at twice of it one half."""
    macs, mix = fleet(M4_Max=2, M2=2), [Demand(SMALL, 1.0, 800, 150, 800)]
    capacity = fluid_capacity(macs, mix, 32)

    half, twice = (fluid_served(macs, [Demand(SMALL, capacity * f, 800, 150, 800)], 32)
                   for f in (0.5, 2.0))  # fmt: skip

    assert half == pytest.approx(1.0)
    assert twice == pytest.approx(0.5)


def test_alone_is_never_quicker_than_a_share_of_the_best_batch() -> None:
    """A batch saves a Mac's time; it does not save a request's."""
    prompt, output = np.array([50.0, 1_000.0, 9_000.0]), np.array([1.0, 200.0, 40.0])
    for chip in ("M1", "M3 Ultra", "M5 Max"):
        _, whole = alone_s(chip, SMALL, prompt, prompt, output)
        share = shared_s(chip, SMALL, 32, prompt, prompt, output)
        assert (share <= whole * (1 + 1e-9)).all()
        assert (shared_s(chip, SMALL, 1, prompt, prompt, output) >= share).all()


def test_nobody_beats_an_empty_fleet() -> None:
    """The best Mac sets the bound, prefixes shorten the prompt, slower Macs change nothing."""
    requests = requests_of([(0.0, 1_000, 100), (1.0, 10, 1)])

    fast = no_queue(fleet(M4_Max=1), requests, 64)
    both = no_queue(fleet(M4_Max=1, M1=4), requests, 64)

    assert (fast.ttft_s == both.ttft_s).all()
    assert (fast.ttft_s > 0).all()
    assert fast.ttft_s[0] < fast.e2e_s[0]
    assert fast.ttft_s[1] == pytest.approx(fast.e2e_s[1])


def _simulated_mean(at_s: list[float], size_s: list[float], steps: int) -> float:
    """Shortest remaining time in small steps: slow, and obviously right."""
    left, done, now, step = list(size_s), [0.0] * len(at_s), 0.0, 1.0 / steps
    while any(each > 1e-9 for each in left):
        here = [i for i, at in enumerate(at_s) if at <= now + 1e-9 and left[i] > 1e-9]
        if here:
            chosen = min(here, key=lambda i: left[i])
            left[chosen] -= step
            if left[chosen] <= 1e-9:
                done[chosen] = now + step
        now += step
    return sum(d - a for d, a in zip(done, at_s, strict=True)) / len(at_s)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=8))
@settings(max_examples=40)
def test_the_pooled_server_works_on_what_is_soonest_done(jobs: list[tuple[int, int]]) -> None:
    """The event loop gives what stepping through time in small steps gives."""
    at_s, size_s = [a / 10 for a, _ in jobs], [s / 10 for _, s in jobs]

    found = srpt_mean_s(np.array(at_s), np.array(size_s))

    assert found == pytest.approx(_simulated_mean(at_s, size_s, 10), abs=1e-6)


def test_the_pool_is_as_quick_as_all_macs_together() -> None:
    """On equal Macs with equal requests the pooled server does exactly their rates together."""
    macs, requests = fleet(M4_Max=4), requests_of([(0.0, 500, 100)] * 3)
    rate = rates_of(macs, [Demand(SMALL, 1.0, 500, 100, 500)], 32).sum()

    assert pooled_work(macs, requests, 32, 64) == pytest.approx([1 / rate] * 3)


def _every_schedule(at_s: list[float], seconds: list[list[float]]) -> float:
    """The least total over every assignment and every order."""
    best = float("inf")
    jobs = range(len(at_s))
    for chosen in product(range(len(seconds)), repeat=len(at_s)):
        total = 0.0
        for mac in range(len(seconds)):
            mine = [job for job in jobs if chosen[job] == mac]
            least = float("inf")
            for order in permutations(mine):
                free = spent = 0.0
                for job in order:
                    free = max(free, at_s[job]) + seconds[mac][job]
                    spent += free - at_s[job]
                least = min(least, spent)
            total += least
        best = min(best, total)
    return best


@given(st.integers(1, 5), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_hindsight_is_the_best_of_all_schedules(jobs: int, macs: int, random: object) -> None:
    """The dynamic program finds what trying everything finds."""
    at_s = [random.randint(0, 30) / 10 for _ in range(jobs)]  # type: ignore[attr-defined]
    seconds = [[random.randint(1, 30) / 10 for _ in range(jobs)] for _ in range(macs)]  # type: ignore[attr-defined]

    assert best_total_s(at_s, seconds) == pytest.approx(_every_schedule(at_s, seconds))


def test_hindsight_says_how_much_it_can_look_at() -> None:
    """Thirteen requests are refused, and so are four Macs."""
    with pytest.raises(InvalidRequest, match="up to 12 requests on up to 3"):
        best_total_s([0.0] * 13, [[1.0] * 13])
    with pytest.raises(InvalidRequest, match="not 1 on 4"):
        best_total_s([0.0], [[1.0]] * 4)


@pytest.mark.parametrize("seed", range(20))
def test_a_middle_is_that_of_all_macs(seed: int) -> None:
    """Counted by kind as if each Mac were asked, ties and even fleets too."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 5, size=random.integers(1, 6))
    values = random.choice([0.1, 0.25, 1.0, 7.5], size=(len(counts), 40))
    every = np.repeat(values, counts, axis=0)
    assert np.array_equal(_middle(values, counts), np.median(every, axis=0))
