"""How sure a number is: intervals over repetitions, paired differences, batches of one run.

One run is one draw. What is compared is run several times, each time with the same seed under
every policy, so that what is common to all (arrivals, faults, lengths) cancels in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator.limits.numerics import t_quantile
from simulator.results.columns import FloatArray

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 2_000
RESAMPLING_SEED: Final = 20_260_101
"""Resampling is arithmetic, not an experiment: equal numbers give equal intervals."""

BATCHES: Final = 20
"""Into which one run is cut: long enough to be nearly independent, many enough for a t."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with 95 % confidence; `low` and `high` are None for one value."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half(self) -> float | None:
        """Half of its width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def relative_half(self) -> float | None:
        """Half of its width as a share of the mean; None where that says nothing."""
        half = self.half
        return None if half is None or self.mean == 0 else abs(half / self.mean)

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is established."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def over(self, base: float) -> Interval:
        """The same as a share of `base`."""
        if base == 0:
            return Interval(math.nan, None, None, self.count)
        if self.low is None or self.high is None:
            return Interval(self.mean / base, None, None, self.count)
        ends = sorted((self.low / base, self.high / base))
        return Interval(self.mean / base, ends[0], ends[1], self.count)

    def as_json(self) -> dict[str, float | int | None]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}


def t_interval(values: Sequence[float] | FloatArray) -> Interval:
    """The mean of independent values with Student's interval; one value has none."""
    numbers = np.asarray(values, dtype=np.float64)
    count = len(numbers)
    if count == 0:
        return Interval(math.nan, None, None, 0)
    mean = float(numbers.mean())
    if count < 2:
        return Interval(mean, None, None, count)
    error = float(numbers.std(ddof=1)) / math.sqrt(count)
    half = t_quantile(0.5 + CONFIDENCE / 2, count - 1) * error
    return Interval(mean, mean - half, mean + half, count)


def bootstrap_interval(values: Sequence[float] | FloatArray) -> Interval:
    """The mean with an interval by resampling: no shape is assumed.

    With few values it is too narrow by a factor that is known, sqrt(n / (n - 1)) and the tail of
    Student's t, so it is widened by that: at ten values by a fifth.
    """
    numbers = np.asarray(values, dtype=np.float64)
    count = len(numbers)
    if count < 2:
        return t_interval(numbers)
    random = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    means = numbers[random.integers(0, count, size=(RESAMPLES, count))].mean(axis=1)
    mean = float(numbers.mean())
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    wider = math.sqrt(count / (count - 1)) * t_quantile(1 - tail, count - 1) / 1.959964
    return Interval(mean, mean - (mean - float(low)) * wider, mean + (float(high) - mean) * wider,
                    count)  # fmt: skip


def paired(ours: Sequence[float], theirs: Sequence[float]) -> FloatArray:
    """Differences seed by seed, without the pairs of which one is unknown."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    difference: FloatArray = np.asarray(ours, dtype=np.float64) - np.asarray(
        theirs, dtype=np.float64
    )
    return difference[np.isfinite(difference)]


def enough(values: Sequence[float], relative_half: float, *, least: int = 3) -> bool:
    """Whether the mean of these is known to within this share of itself."""
    if len(values) < least:
        return False
    reached = t_interval(values).relative_half
    return reached is not None and reached <= relative_half


def quantile_resampled(
    values: FloatArray, share: float, *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Where a quantile of independent values lies with 95 % confidence.

    The position of a resample's quantile among the sorted values is binomial, so drawing the
    positions is drawing the resamples, without making them.
    """
    ordered = np.sort(values[np.isfinite(values)])
    if len(ordered) < 2:
        return math.nan, math.nan
    random = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    at = random.binomial(len(ordered), share, size=resamples)
    drawn = ordered[np.clip(at, 0, len(ordered) - 1)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def batch_interval(
    values: FloatArray, statistic: Callable[[FloatArray], float], batches: int = BATCHES
) -> Interval:
    """An interval within one run: successive batches stand for repetitions.

    Neighbouring requests wait in the same queue and are alike; batches hardly are.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2 * batches:
        return Interval(statistic(known) if len(known) else math.nan, None, None, 0)
    parts = [float(statistic(part)) for part in np.array_split(known, batches)]
    spread = t_interval(parts)
    whole = float(statistic(known))
    assert spread.half is not None
    return Interval(whole, whole - spread.half, whole + spread.half, batches)


def mser5(values: FloatArray) -> int:
    """How many of the first values belong to the warm-up (MSER-5; White 1997).

    In batches of five: the cut after which the standard error of what is left is smallest. A cut
    in the second half is no cut: the run was too short for one, and none is made.
    """
    count = len(values) // 5
    if count < 4:
        return 0
    means = np.asarray(values[: count * 5], dtype=np.float64).reshape(count, 5).mean(axis=1)
    left = np.arange(count, 0, -1, dtype=np.float64)
    sums = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum(means[::-1] ** 2)[::-1]
    errors = (squares - sums**2 / left) / left**2
    best = int(np.argmin(errors[: max(count - 5, 1)]))
    return best * 5 if best <= count // 2 else 0
