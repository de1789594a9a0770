"""Laws of intervals: they cover what they say, and tell apart what is different."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.limits.numerics import t_quantile
from simulator.runs.comparison import BETTER, DIFFERS, METRICS, OPEN, WORSE, compared, verdict
from simulator.runs.stats import (
    Interval,
    batch_interval,
    bootstrap_interval,
    enough,
    mser5,
    paired,
    quantile_resampled,
    t_interval,
)

RANDOM_SEED = 5


def test_students_quantiles_are_those_of_the_tables() -> None:
    """As printed in every textbook."""
    assert t_quantile(0.975, 1) == pytest.approx(12.706, abs=5e-4)
    assert t_quantile(0.975, 9) == pytest.approx(2.262, abs=5e-4)
    assert t_quantile(0.95, 30) == pytest.approx(1.697, abs=5e-4)


def test_an_interval_of_known_numbers() -> None:
    """Mean 3, deviation sqrt(2.5), five values: 3 ± 2.776 · 0.7071."""
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])

    assert found.mean == 3.0
    assert found.half == pytest.approx(1.963, abs=1e-3)


def test_one_run_has_no_interval() -> None:
    """A single value is never given a precision."""
    assert t_interval([4.2]) == Interval(4.2, None, None, 1)
    assert not enough([4.2], 0.5)


@pytest.mark.parametrize("interval_of", [t_interval, bootstrap_interval])
def test_intervals_cover_the_truth_as_often_as_they_say(interval_of: object) -> None:
    """Of 400 experiments of ten skewed values, the mean is inside in about 95 %."""
    random = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    inside = 0
    for _ in range(400):
        found = interval_of(random.gamma(4.0, 0.25, size=10))  # type: ignore[operator]
        inside += found.low <= 1.0 <= found.high

    assert 0.90 <= inside / 400 <= 0.99


def test_the_interval_of_a_quantile_covers_it() -> None:
    """Of 200 samples of an exponential, the true median is inside in about 95 %."""
    random = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    inside = 0
    for _ in range(200):
        low, high = quantile_resampled(random.exponential(size=300), 0.5, resamples=500)
        inside += low <= math.log(2) <= high

    assert 0.90 <= inside / 200 <= 0.99


def test_pairs_tell_apart_what_single_runs_cannot() -> None:
    """What is common to a pair cancels: the difference is known though the levels are not."""
    random = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    common = random.normal(100.0, 30.0, size=10)
    ours, theirs = common - 1.0 + random.normal(0, 0.3, 10), common + random.normal(0, 0.3, 10)

    within = t_interval(paired(ours, theirs))

    assert within.high is not None
    assert within.high < 0
    assert t_interval(ours).half > 10 * abs(within.mean)  # type: ignore[operator]


def test_pairs_of_which_one_is_unknown_are_left_out() -> None:
    """Only whole pairs count, and unequal numbers are no pairs."""
    assert paired([1.0, math.nan, 3.0], [0.0, 0.0, 1.0]).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="paired"):
        paired([1.0], [1.0, 2.0])


def test_stopping_needs_three_and_a_narrow_interval() -> None:
    """Two runs that happen to agree do not end an experiment."""
    assert not enough([1.0, 1.0], 0.05)
    assert enough([1.0, 1.001, 0.999], 0.05)
    assert not enough([1.0, 2.0, 0.1], 0.05)


def test_the_warm_up_is_cut_where_it_ends() -> None:
    """A beginning at ten times the level is cut off, and nothing of what is level."""
    random = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    level = random.exponential(1.0, size=1_000)
    start = random.exponential(1.0, size=100) + 10.0

    assert 95 <= mser5(np.concatenate((start, level))) <= 110
    assert mser5(level) <= 100


def test_a_run_that_never_settles_is_not_cut() -> None:
    """A cut in the second half would leave nothing to speak of."""
    assert mser5(np.linspace(0.0, 100.0, 1_000)) == 0
    assert mser5(np.arange(10.0)) == 0


def test_batches_are_wider_than_what_neighbours_pretend() -> None:
    """Requests in one queue are alike: batches see it, and independent values do not exist."""
    random = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    level, values = 0.0, []
    for shock in random.normal(size=4_000):
        level = 0.98 * level + shock
        values.append(level)
    alike = np.array(values) + 100.0

    batches = batch_interval(alike, lambda v: float(v.mean()))

    assert batches.half > 3 * t_interval(alike).half  # type: ignore[operator]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_every_interval_holds_its_mean(values: list[float]) -> None:
    """Whatever the values, the mean lies between the ends."""
    for found in (t_interval(values), bootstrap_interval(values)):
        assert found.low is not None
        assert found.high is not None
        slack = 1e-9 * (1 + abs(found.mean))
        assert found.low - slack <= found.mean <= found.high + slack


def test_a_verdict_needs_a_sign_that_is_established() -> None:
    """Less is better of times, more of goodput, and of what crosses zero nothing is said."""
    ttft, goodput = METRICS["ttft_s.p99"], METRICS["goodput.attainment"]
    taste = METRICS["machines.earned_gini"]

    assert verdict(ttft, Interval(-1.0, -2.0, -0.5, 9)) == BETTER
    assert verdict(goodput, Interval(-1.0, -2.0, -0.5, 9)) == WORSE
    assert verdict(ttft, Interval(-1.0, -2.0, 0.1, 9)) == OPEN
    assert verdict(taste, Interval(-1.0, -2.0, -0.5, 9)) == DIFFERS
    assert verdict(taste, Interval(-1.0, -2.0, 0.1, 9)) == OPEN


def test_a_comparison_is_of_pairs_and_of_the_reference() -> None:
    """Relative differences are of the reference's mean; the reference has none with itself."""
    runs = {
        name: [{"e2e_s": {"mean": base + bad}, "alarms": []} for base in (10.0, 12.0, 14.0)]
        for name, bad in (("ours", 0.0), ("theirs", 3.0))
    }

    found = compared(runs, "ours")

    assert set(found["differences"]) == {"theirs"}
    difference = found["differences"]["theirs"]["e2e_s.mean"]
    assert difference["mean"] == 3.0
    assert difference["relative"]["mean"] == pytest.approx(0.25)
    assert difference["verdict"] == WORSE
