"""What is drawn has the law it is said to have: lengths, gaps, rhythms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest
from simulator.streams import Streams
from simulator.workloads.gaps import Gaps, weibull_shape
from simulator.workloads.intensity import Clock, Day, OnOff, Spikes, constant, product, steps
from simulator.workloads.laws import (
    Exponential,
    Geometric,
    Lognormal,
    Pair,
    quantiles,
    sorted_values,
)
from simulator.workloads.published import PUBLISHED
from tests.support.workload_kit import dispersion, ks_distance

MANY = 100_000

TRACES = {
    "azure_2023_conv": (
        (207, 396, 1020, 1189, 2735, 4083, 4142),
        (54, 85, 129, 395, 424, 451, 601),
    ),
    "azure_2023_code": (
        (147, 578, 1469, 2745, 5194, 7315, 7436),
        (7, 9, 13, 24, 55, 90, 252),
    ),
    "arxiv_summarisation": (
        (1242, 1986, 2730, 3370, 3702, 3813, 3934),
        (78, 115, 167, 242, 372, 737, 3273),
    ),
    "mooncake_conversation": (
        (964, 2306, 6909, 15368, 27367, 39552, 85401),
        (24, 156, 350, 472, 597, 698, 1120),
    ),
}
"""Quantiles at 10, 25, 50, 75, 90, 95 and 99 % of prompts and of answers, as measured."""


@pytest.mark.parametrize("name", TRACES)
def test_lengths_have_the_quantiles_of_their_trace(name: str) -> None:
    """Every measured quantile is met to 4 %."""
    published = PUBLISHED[name]
    pair = Pair(published.prompt, published.output, published.correlation)
    for lengths, expected in zip(
        pair.draw(Streams(1).stream(name), MANY), TRACES[name], strict=True
    ):
        found = np.quantile(lengths, (0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99))

        assert found == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("name", PUBLISHED)
def test_lengths_have_the_mean_of_their_trace(name: str) -> None:
    """What the ends of a table were chosen for: the published mean, to 4 %."""
    published = PUBLISHED[name]
    pair = Pair(published.prompt, published.output)
    prompts, outputs = pair.draw(Streams(2).stream(name), 4 * MANY)

    assert prompts.mean() == pytest.approx(published.prompt_mean, rel=0.04)
    assert outputs.mean() == pytest.approx(published.output_mean, rel=0.04)


@pytest.mark.parametrize("name", ["azure_2023_conv", "arxiv_summarisation"])
def test_prompts_and_answers_go_together_as_in_their_trace(name: str) -> None:
    """The correlation of the logarithms is the published one, and 0 without one."""
    published = PUBLISHED[name]
    found = []
    for correlation in (published.correlation, 0.0):
        pair = Pair(published.prompt, published.output, correlation)
        prompts, outputs = pair.draw(Streams(3).stream(name), MANY)
        found.append(float(np.corrcoef(np.log(prompts), np.log(outputs))[0, 1]))

    assert found == pytest.approx([published.correlation, 0.0], abs=0.05)


def test_a_lognormal_law_is_one() -> None:
    """Its distance from the formula is what chance allows."""
    drawn = Lognormal(400, 0.8, 1e9).at(Streams(4).stream("x").standard_normal(20_000))

    assert (
        ks_distance(
            drawn,
            lambda x: np.array([0.5 + 0.5 * math.erf(math.log(v / 400) / 0.8 / 2**0.5) for v in x]),
        )
        < 1
    )
    assert Lognormal(400, 0.8, 500).at(np.array([9.0]))[0] == 500


def test_an_exponential_law_is_one() -> None:
    """Its distance from the formula is what chance allows, though it comes from a table."""
    drawn = Exponential(300, 1e9).at(Streams(5).stream("x").standard_normal(50_000))

    assert ks_distance(drawn, lambda x: 1 - np.exp(-x / 300)) < 1
    assert Exponential(300, 500).at(np.array([6.0]))[0] == 500


def test_turns_are_geometric() -> None:
    """From 1, of the mean that was asked for, and each as likely to be followed as the first."""
    drawn = Geometric(4.0, 1e9).at(Streams(6).stream("x").standard_normal(MANY))

    assert drawn.min() == 1
    assert drawn.mean() == pytest.approx(4.0, rel=0.02)
    for turn in (1, 2, 5):
        assert np.mean(drawn[drawn >= turn] > turn) == pytest.approx(0.75, abs=0.02)


def test_values_come_as_often_as_they_are_listed() -> None:
    """An empirical law has no other values, and each with its share."""
    drawn = sorted_values([512, 64, 64, 100]).at(Streams(7).stream("x").standard_normal(MANY))

    assert np.unique(drawn).tolist() == [64, 100, 512]
    assert np.mean(drawn == 64) == pytest.approx(0.5, abs=0.01)


def test_a_table_is_cut_where_it_ends() -> None:
    """Nothing is below a table's first value or above its last, and shares are met."""
    law = quantiles([(0.25, 10.0), (0.75, 1000.0)])
    drawn = law.at(Streams(8).stream("x").standard_normal(MANY))

    assert (drawn.min(), drawn.max()) == pytest.approx((10, 1000))
    assert np.mean(drawn <= 10.001) == pytest.approx(0.25, abs=0.01)
    assert np.median(drawn) == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize("family", ["gamma", "weibull"])
@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0, 4.0])
def test_gaps_have_mean_one_and_their_variation(family: str, cv: float) -> None:
    """Gaps are 1 on average, and vary as much as they are told to."""
    drawn = Gaps(family, cv).draw(Streams(9).stream(f"{family}{cv}"), 10 * MANY)  # type: ignore[arg-type]

    assert drawn.mean() == pytest.approx(1.0, abs=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.05)


def test_gaps_of_one_are_poisson() -> None:
    """Gamma and Weibull of CV 1 are what Poisson is; a clockwork's gaps are all 1."""
    for family in ("poisson", "gamma", "weibull"):
        drawn = Gaps(family, 1.0).draw(Streams(10).stream(family), 20_000)  # type: ignore[arg-type]

        assert ks_distance(drawn, lambda x: 1 - np.exp(-x)) < 1
    assert set(Gaps("deterministic").draw(Streams(10).stream("x"), 10)) == {1.0}


@given(st.floats(0.05, 40.0))
def test_a_weibull_shape_has_the_variation_it_is_for(cv: float) -> None:
    """CV² + 1 is Γ(1 + 2/k) over Γ(1 + 1/k)², at every variation that is allowed."""
    shape = weibull_shape(cv)
    log_ratio = math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape)

    assert math.sqrt(math.expm1(log_ratio)) == pytest.approx(cv, rel=1e-3)


# ── rhythms ───────────────────────────────────────────────────────────────────────────

PIECES = st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(0.0, 9.0)), min_size=1, max_size=30)


@given(PIECES, st.integers(0, 2**32))
def test_a_clock_meets_each_arrival_when_it_is_due(
    pieces: list[tuple[float, float]], seed: int
) -> None:
    """The rate summed up to an arrival's time is its place, and time never runs back."""
    random = np.random.default_rng(seed)
    units = np.sort(random.uniform(0, 60, 50))
    ends = np.cumsum([length for length, _ in pieces])
    rates = [rate for _, rate in pieces]
    clock = Clock(iter([*zip(ends.tolist(), rates, strict=True), (math.inf, 1.0)]))

    at_s = np.concatenate([clock.seconds(units[:20]), clock.seconds(units[20:])])

    assert np.all(np.diff(at_s) >= 0)
    for moment, unit in zip(at_s.tolist(), units.tolist(), strict=True):
        total, before = 0.0, 0.0
        for end, rate in [*zip(ends.tolist(), rates, strict=True), (math.inf, 1.0)]:
            total += rate * max(min(end, moment) - before, 0.0)
            before = end
        assert total == pytest.approx(unit, abs=1e-6)


def test_a_clock_begins_at_zero_and_skips_pauses() -> None:
    """An arrival at the very beginning is at 0; none falls into a time without rate."""
    pieces = [(5.0, 2.0), (8.0, 0.0), (9.0, 1.0), (math.inf, 0.5)]
    at_s = Clock(iter(pieces)).seconds(np.array([0.0, 0.0, 1.0, 9.0, 10.5, 11.0, 12.0]))

    assert at_s == pytest.approx([0.0, 0.0, 0.5, 4.5, 8.5, 9.0, 11.0])


def test_a_rhythm_with_next_to_no_arrivals_is_refused() -> None:
    """A rate of almost nothing ends with a word, not with an endless search."""
    clock = Clock(steps(1.0, lambda _number: 1e-9))

    with pytest.raises(InvalidRequest, match="next to no arrivals"):
        clock.seconds(np.array([1.0]))


def test_on_and_off_have_their_shares_and_keep_the_rate() -> None:
    """On for a quarter of the time, eight times as dense, and 1 over all."""
    pieces = OnOff(20, 60, 8).pieces(Streams(11).stream("x"))
    time_s = dict.fromkeys((True, False), 0.0)
    total = before = 0.0
    factors = set()
    for end_s, factor in (next(pieces) for _ in range(20_000)):
        time_s[factor > 1] += end_s - before
        total += factor * (end_s - before)
        before = end_s
        factors.add(factor)

    assert time_s[True] / before == pytest.approx(0.25, abs=0.01)
    assert total / before == pytest.approx(1.0, rel=0.02)
    assert max(factors) == pytest.approx(8 * min(factors))


def test_a_day_goes_up_and_down_and_is_one_on_average() -> None:
    """Highest at its peak, lowest half a day later, by its swing."""
    pieces = Day(86_400, 0.6, 50_400).pieces()
    day = [next(pieces) for _ in range(288)]
    factors = [factor for _, factor in day]
    highest = max(day, key=lambda piece: piece[1])[0]

    assert sum(factors) / 288 == pytest.approx(1.0)
    assert (max(factors), min(factors)) == pytest.approx((1.6, 0.4), abs=0.001)
    assert abs(highest - 50_400) <= 300


def test_spikes_come_on_top_and_when_they_are_told() -> None:
    """A spike multiplies the rate while it lasts and changes nothing before and after."""
    rate = product([constant(10.0), Spikes(5.0, 60.0, at_s=(100.0, 130.0, 500.0)).pieces(
        Streams(12).stream("x"))])  # fmt: skip

    assert list(rate) == [
        (100, 10),
        (160, 50),
        (220, 50),
        (500, 10),
        (560, 50),
        (math.inf, 10),
    ]


def test_random_spikes_come_so_often_an_hour() -> None:
    """Their number is what the rate says, less those that fell into another."""
    pieces = Spikes(3.0, 10.0, per_hour=6.0).pieces(Streams(13).stream("x"))
    found = [piece for piece in (next(pieces) for _ in range(4_000)) if piece[1] == 3.0]
    hours = found[-1][0] / 3_600

    assert len(found) / hours == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("azure_2023_conv", {1: 1.4, 10: 3.9, 60: 16}),
        ("azure_2023_code", {1: 13, 10: 72, 60: 164}),
        ("mooncake_conversation", {60: 2.9}),
    ],
)
def test_a_published_rhythm_is_as_bursty_as_its_trace(
    name: str, expected: dict[int, float]
) -> None:
    """The index of dispersion over seconds and minutes is the measured one, to a quarter: single
    gaps and wandering rate together, which neither has alone.
    """
    rhythm = PUBLISHED[name].rhythm
    assert rhythm is not None
    streams = Streams(14).within(name)
    count = 1_000_000
    gaps = Gaps("gamma", rhythm.gap_cv).draw(streams.stream("gaps"), count)
    rates = [constant(rhythm.rate_per_s)]
    if rhythm.states is not None:
        rates.append(rhythm.states.pieces(streams.stream("states")))
    at_s = Clock(product(rates)).seconds(np.cumsum(gaps))

    assert count / at_s[-1] == pytest.approx(rhythm.rate_per_s, rel=0.05)
    for window_s, measured in expected.items():
        assert dispersion(at_s, window_s) == pytest.approx(measured, rel=0.25)
