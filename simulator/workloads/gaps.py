"""Times between arrivals, of mean 1: what is left of an arrival process when its rate is taken out.

How many come each second is the intensity's business (`intensity.py`); this one says how evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from simulator.workloads.laws import FloatArray

Family = Literal["poisson", "gamma", "weibull", "deterministic"]
CV_MIN: Final = 0.05
CV_MAX: Final = 40.0
"""Between a clockwork and the burstiest client anyone has published (31)."""

SHAPE_MIN, SHAPE_MAX = 0.05, 50.0
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Gaps:
    """A renewal process: gaps are independent of each other. `cv` is their standard deviation
    over their mean; Poisson has 1 and a deterministic one 0, whatever it says.
    """

    family: Family = "poisson"
    cv: float = 1.0

    def draw(self, random: np.random.Generator, count: int) -> FloatArray:
        """The next gaps, of mean 1."""
        return gaps(self.family, self.cv, random, count)


POISSON: Final = Gaps()


def gaps(family: Family, cv: float, random: np.random.Generator, count: int) -> FloatArray:
    """So many gaps of mean 1 and this coefficient of variation."""
    if family == "poisson":
        return random.standard_exponential(count)
    if family == "gamma":
        return random.standard_gamma(1.0 / cv**2, count) * cv**2
    if family == "weibull":
        shape = weibull_shape(cv)
        return random.weibull(shape, count) / math.gamma(1.0 + 1.0 / shape)
    return np.ones(count)


def weibull_shape(cv: float) -> float:
    """The shape of a Weibull law with this coefficient of variation: smaller is burstier."""
    low, high = SHAPE_MIN, SHAPE_MAX
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        # In logarithms: at small shapes the moments are beyond what a float can hold.
        log_ratio = math.lgamma(1.0 + 2.0 / middle) - 2.0 * math.lgamma(1.0 + 1.0 / middle)
        if log_ratio > math.log1p(cv**2):
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
