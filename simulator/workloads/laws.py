"""Laws of lengths: tokens of a prompt or an answer, turns of a conversation, seconds of thinking.

Each law says what value belongs to a normal score. So two of them can be drawn together with the
correlation that a trace has, whatever their shapes, and a table of quantiles is enough to be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SCORE_MAX = 6.0
"""Normal scores beyond this are taken as this: one in 10⁹."""

SCORES = 4_801
"""Points at which the normal distribution is tabulated, 0.0025 apart."""


class Law(Protocol):
    """A distribution. `at` grows with the score; its values are at least 0, not rounded."""

    def at(self, score: FloatArray) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: float

    def at(self, score: FloatArray) -> FloatArray:
        return np.full(len(score), self.value)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """`median` · exp(`sigma` · score), at most `highest`."""

    median: float
    sigma: float
    highest: float

    def at(self, score: FloatArray) -> FloatArray:
        return np.minimum(self.median * np.exp(self.sigma * score), self.highest)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Of this mean before it is cut at `highest`."""

    mean: float
    highest: float

    def at(self, score: FloatArray) -> FloatArray:
        scores, _, logs = _normal()
        return np.minimum(-self.mean * np.interp(score, scores, logs), self.highest)


@dataclass(frozen=True, slots=True)
class Geometric:
    """Whole numbers from 1, each as likely to be followed by another one; of this mean."""

    mean: float
    highest: float

    def at(self, score: FloatArray) -> FloatArray:
        if self.mean <= 1.0:
            return np.ones(len(score))
        scores, _, logs = _normal()
        drawn: FloatArray = np.interp(score, scores, logs) / math.log1p(-1.0 / self.mean)
        return np.minimum(1.0 + np.floor(drawn), self.highest)


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """A table: between its points the logarithm is straight over the normal score, which is a
    lognormal piece by piece. Below the first and above the last point it is cut.
    """

    scores: FloatArray
    logs: FloatArray

    def at(self, score: FloatArray) -> FloatArray:
        values: FloatArray = np.exp(np.interp(score, self.scores, self.logs))
        return values


def quantiles(points: Sequence[tuple[float, float]]) -> Quantiles:
    """A table of (share, value) points, both growing. A share of 0 or 1 is one in a billion."""
    normal = NormalDist()
    edge = normal.cdf(-SCORE_MAX)
    scores = [normal.inv_cdf(min(max(share, edge), 1.0 - edge)) for share, _ in points]
    return Quantiles(np.array(scores), np.log(np.array([value for _, value in points])))


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Any of these, each as likely as often as it is there; sorted."""

    values: FloatArray

    def at(self, score: FloatArray) -> FloatArray:
        scores, shares, _ = _normal()
        position = np.interp(score, scores, shares) * len(self.values)
        return self.values[np.minimum(position.astype(np.int64), len(self.values) - 1)]


def sorted_values(values: Sequence[float]) -> Values:
    """The law of a list of what was seen."""
    return Values(np.sort(np.array(values, dtype=np.float64)))


@cache
def _normal() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores, their shares below, and the logarithms of their shares above."""
    normal = NormalDist()
    scores = np.linspace(-SCORE_MAX, SCORE_MAX, SCORES)
    below = np.array([normal.cdf(float(score)) for score in scores])
    return scores, below, np.log(below[::-1])


class Lengths(Protocol):
    """Prompts and answers, drawn together: tokens, not rounded."""

    def draw(self, random: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]: ...


@dataclass(frozen=True, slots=True)
class Pair:
    """Two laws and the correlation of their scores, from -1 to 1."""

    prompt: Law
    output: Law
    correlation: float = 0.0

    def draw(self, random: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
        prompt = random.standard_normal(count)
        output = random.standard_normal(count)
        if self.correlation:
            output *= (1.0 - self.correlation**2) ** 0.5
            output += self.correlation * prompt
        return self.prompt.at(prompt), self.output.at(output)
