"""How many requests a second there are, over time: pieces of constant rate, one after another.

A process of unit rate is stretched by them: where the rate is high its clock runs fast. So a
rhythm is the same for every kind of gaps, and on-off arrivals are just a rhythm that is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from market.errors import InvalidRequest
from simulator.workloads.laws import FloatArray

Pieces = Iterator[tuple[float, float]]
"""(end in seconds, factor), in order and without end; the last one may end at infinity."""

DAY_PIECES = 288
"""A day's curve is drawn in steps: 5 minutes of 24 hours."""

PIECES_MAX = 4_096
"""Pieces looked at in one go; more arrivals than fall into them wait for the next."""

EMPTY_ROUNDS_MAX = 100
"""Goes in a row without any arrival, before a rhythm is taken for one that stands still."""


@dataclass(frozen=True, slots=True)
class OnOff:
    """Two states, each lasting an exponential time of this mean; `ratio` is on over off.
    The mean over time is 1: a Markov-modulated Poisson process when the gaps are Poisson.
    """

    on_s: float
    off_s: float
    ratio: float

    def pieces(self, random: np.random.Generator) -> Pieces:
        share = self.on_s / (self.on_s + self.off_s)
        off = 1.0 / (share * self.ratio + 1.0 - share)
        on = bool(random.random() < share)
        end_s = 0.0
        while True:
            end_s += float(random.standard_exponential()) * (self.on_s if on else self.off_s)
            yield end_s, off * self.ratio if on else off
            on = not on


@dataclass(frozen=True, slots=True)
class Day:
    """A cosine of this period, highest at `peak_s`: 1 + `swing` there, 1 - `swing` in between."""

    period_s: float = 86_400.0
    swing: float = 0.5
    peak_s: float = 50_400.0

    def pieces(self) -> Pieces:
        step_s = self.period_s / DAY_PIECES
        for number in count():
            middle_s = (number + 0.5) * step_s
            angle = 2.0 * math.pi * (middle_s - self.peak_s) / self.period_s
            yield (number + 1) * step_s, 1.0 + self.swing * math.cos(angle)


@dataclass(frozen=True, slots=True)
class Spikes:
    """Now and then `factor` times as many for `last_s`, on top of the ordinary rate: at these
    times, or `per_hour` at random. One does not begin before the one before has ended.
    """

    factor: float
    last_s: float
    per_hour: float = 0.0
    at_s: tuple[float, ...] = ()

    def pieces(self, random: np.random.Generator) -> Pieces:
        end_s = 0.0
        for start_s in self._starts(random):
            if start_s > end_s:
                yield start_s, 1.0
            end_s = max(start_s, end_s) + self.last_s
            yield end_s, self.factor
        yield math.inf, 1.0

    def _starts(self, random: np.random.Generator) -> Iterator[float]:
        if self.at_s:
            yield from self.at_s
            return
        start_s = 0.0
        while True:
            start_s += float(random.standard_exponential()) * 3_600.0 / self.per_hour
            yield start_s


def steps(every_s: float, factor: Callable[[int], float]) -> Pieces:
    """Equal pieces, each with the factor of its number."""
    for number in count():
        yield (number + 1) * every_s, factor(number)


def constant(factor: float) -> Pieces:
    """One piece."""
    yield math.inf, factor


def product(rhythms: list[Pieces]) -> Pieces:
    """All of them at once: the factors multiplied, cut wherever one of them changes."""
    now = [next(pieces) for pieces in rhythms]
    while True:
        end_s = min(end for end, _ in now)
        yield end_s, math.prod(factor for _, factor in now)
        if end_s == math.inf:
            return
        now = [
            next(pieces) if end <= end_s else (end, factor)
            for pieces, (end, factor) in zip(rhythms, now, strict=True)
        ]


class Clock:
    """From a process of unit rate to seconds. What is asked must not decrease."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._starts_s: list[float] = []
        self._totals: list[float] = []  # arrivals expected until each start
        self._rates: list[float] = []
        self._total = 0.0  # arrivals expected until the end of what is known
        self._end_s = 0.0

    def seconds(self, units: FloatArray) -> FloatArray:
        """When so many arrivals are to be expected. Ascending in, ascending out.

        Raises InvalidRequest where the rate is next to nothing for a very long time.
        """
        seconds = np.empty(len(units))
        done = empty = 0
        while done < len(units):
            self._look_ahead(float(units[-1]))
            known = int(np.searchsorted(units, self._total, side="left"))
            if known > done:
                seconds[done:known] = self._convert(units[done:known])
                empty = 0
            done, empty = known, empty + 1
            if empty > EMPTY_ROUNDS_MAX:
                raise InvalidRequest(
                    f"A workload has next to no arrivals for {self._end_s:.0f} s; raise its rate "
                    "or the times of its rhythm.",
                    "workload",
                )
        return seconds

    def _convert(self, units: FloatArray) -> FloatArray:
        totals, rates = np.array(self._totals), np.array(self._rates)
        at = np.searchsorted(totals, units, side="right") - 1
        seconds: FloatArray = np.array(self._starts_s)[at] + (units - totals[at]) / rates[at]
        self._forget(int(at[-1]))
        return seconds

    def _look_ahead(self, units: float) -> None:
        """Read pieces until the last of these arrivals falls into one, or many were read."""
        self._forget(max(len(self._rates) - PIECES_MAX, 0))
        for _ in range(PIECES_MAX):
            if self._total > units:
                return
            end_s, rate = next(self._pieces)
            if rate > 0.0:
                self._rates.append(rate)
                self._starts_s.append(self._end_s)
                self._totals.append(self._total)
                self._total += rate * (end_s - self._end_s)
            self._end_s = end_s

    def _forget(self, before: int) -> None:
        del self._starts_s[:before], self._totals[:before], self._rates[:before]
