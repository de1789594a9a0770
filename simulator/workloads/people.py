"""Who asks, and for which model: drawn in chunks, each from a stream of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from market.policy.preferences import NO_PREFERENCES, Preferences
from simulator.streams import Streams
from simulator.workloads.gaps import CV_MAX, CV_MIN, Family, gaps
from simulator.workloads.laws import FloatArray, IntArray
from simulator.workloads.spec import Consumers, Popularity, Wishes

WINDOW_ARRIVALS = 4_096
"""Arrivals of all consumers that are drawn and put in order together."""

UNIFORMS = 1_024
"""Drawn at once where they are used one by one."""

SCORE_90 = 1.2815515655446004
"""The normal score that one in ten exceeds."""


def zipf(count: int, slope: float) -> FloatArray:
    """Shares that sum to 1, the first the largest."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -slope
    shares: FloatArray = weights / weights.sum()
    return shares


def pick(shares: FloatArray, uniform: FloatArray) -> IntArray:
    """Which of the shares each number from [0, 1) falls into."""
    edges = np.cumsum(shares)
    at: IntArray = np.searchsorted(edges / edges[-1], uniform, side="right")
    return np.minimum(at, len(shares) - 1)


def uniforms(random: np.random.Generator) -> Iterator[float]:
    """Numbers from [0, 1), one by one and yet quick."""
    while True:
        yield from random.random(UNIFORMS).tolist()


class People:
    """The consumers of a workload: names, shares, and how each differs from the others."""

    def __init__(self, spec: Consumers, name: str, streams: Streams) -> None:
        self.spec = spec
        self.names = np.array([f"{name}-{n}" for n in range(1, spec.count + 1)], dtype=object)
        self.shares = zipf(spec.count, spec.zipf)
        self._edges: list[float] = np.cumsum(self.shares)[:-1].tolist()
        self._streams = streams
        self._random = streams.stream("who")
        scores = streams.stream("lengths:who").standard_normal(spec.count)
        # Of mean 1, so that a workload's own mean stays what it says.
        sigma = spec.length_sigma
        self.length_factor: FloatArray = np.exp(sigma * scores - sigma**2 / 2)
        self.length_factor /= float(self.length_factor @ self.shares)

    def draw(self, count: int) -> IntArray:
        """Who sends the next ones, where all share one process."""
        if self.spec.count == 1:
            return np.zeros(count, dtype=np.int64)
        return pick(self.shares, self._random.random(count))

    def at(self, uniform: float) -> int:
        """Whom a number from [0, 1) stands for."""
        return bisect_right(self._edges, uniform)

    def arrivals(self, family: Family) -> Iterator[tuple[FloatArray, IntArray]]:
        """Where each has a process of its own: all of them at unit rate, and who it was."""
        assert self.spec.cv is not None
        cvs = self._burstiness(self.spec.cv)
        randoms = [self._streams.stream(f"gaps:{n}") for n in range(self.spec.count)]
        later: list[FloatArray] = []
        for random, share, cv in zip(randoms, self.shares, cvs, strict=True):
            later.append(np.cumsum(gaps(family, cv, random, 1)) / share)
        first = np.array([times[0] for times in later])
        window = max(WINDOW_ARRIVALS, 4 * self.spec.count)
        end = 0.0
        while True:
            end += window
            taken: list[FloatArray] = []
            who: list[IntArray] = []
            for n in np.nonzero(first < end)[0].tolist():
                share = float(self.shares[n])
                batch = int(share * window * 1.2) + 4
                while later[n][-1] < end:
                    more = gaps(family, cvs[n], randoms[n], batch) / share
                    later[n] = np.concatenate((later[n], later[n][-1] + np.cumsum(more)))
                until = int(np.searchsorted(later[n], end))
                taken.append(later[n][:until])
                who.append(np.full(until, n))
                later[n] = later[n][until:]
                first[n] = later[n][0]
            if taken:
                units = np.concatenate(taken)
                order = np.argsort(units, kind="stable")
                yield units[order], np.concatenate(who)[order]

    def _burstiness(self, cv: tuple[float, float]) -> list[float]:
        """Each one's coefficient of variation: lognormal of this median and 90 % quantile."""
        sigma = np.log(cv[1] / cv[0]) / SCORE_90
        scores = self._streams.stream("gaps:cv").standard_normal(self.spec.count)
        drawn: list[float] = np.clip(cv[0] * np.exp(sigma * scores), CV_MIN, CV_MAX).tolist()
        return drawn


class Fashion:
    """Which model is asked for, and how that drifts."""

    def __init__(self, spec: Popularity, streams: Streams) -> None:
        self.spec = spec
        self.ids = np.array([card.id for card in spec.cards], dtype=object)
        self._random = streams.stream("models")
        self._deals = streams.stream("models:drift")
        self._shares = [np.array(spec.shares)]
        self._edges: list[float] = np.cumsum(self._shares[0])[:-1].tolist()

    def shares(self, number: int) -> FloatArray:
        """The shares in the n-th piece of time; the first has those of the specification."""
        drift, base = self.spec.drift, self._shares[0]
        if drift is None:
            return base
        while len(self._shares) <= number:
            dealt = base[self._deals.permutation(len(base))]
            self._shares.append((1.0 - drift.share) * base + drift.share * dealt)
        return self._shares[number]

    def draw(self, at_s: FloatArray) -> IntArray:
        """The models of requests at these times, by their place in the specification."""
        if len(self.ids) == 1:
            return np.zeros(len(at_s), dtype=np.int64)
        return self.pick(at_s, self._random.random(len(at_s)))

    def at(self, at_s: float, uniform: float) -> int:
        """The same for one request."""
        if self.spec.drift is None:
            return bisect_right(self._edges, uniform)
        return int(self.pick(np.array([at_s]), np.array([uniform]))[0])

    def pick(self, at_s: FloatArray, uniform: FloatArray) -> IntArray:
        """The models that these numbers from [0, 1) stand for at these times."""
        if self.spec.drift is None:
            return pick(self._shares[0], uniform)
        numbers = (at_s // self.spec.drift.every_s).astype(np.int64)
        models = np.empty(len(at_s), dtype=np.int64)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            models[here] = pick(self.shares(number), uniform[here])
        return models


class Wishing:
    """What each consumer wishes for of each model."""

    def __init__(self, spec: Wishes, models: Popularity, consumers: int, streams: Streams) -> None:
        self._spec = spec
        self._models = models
        self._random = streams.stream("wishes")
        self._pct: list[int | None] = [None] * consumers
        if spec.price_pct is not None:
            low, high = spec.price_pct
            drawn = streams.stream("wishes:price").uniform(low, high, consumers)
            self._pct = np.rint(drawn).astype(np.int64).tolist()
        self._known: dict[tuple[int, int], Preferences] = {}

    def draw(self, who: IntArray, models: IntArray) -> list[Preferences]:
        """The preferences of requests by these consumers for these models."""
        if self._spec.none:
            return [NO_PREFERENCES] * len(who)
        wishes = self._random.random(len(who)) < self._spec.share
        return [
            self.of(consumer, model) if has else NO_PREFERENCES
            for consumer, model, has in zip(
                who.tolist(), models.tolist(), wishes.tolist(), strict=True
            )
        ]

    def one(self, consumer: int, model: int) -> Preferences:
        """The preferences of one request."""
        if self._spec.none or self._random.random() >= self._spec.share:
            return NO_PREFERENCES
        return self.of(consumer, model)

    def of(self, consumer: int, model: int) -> Preferences:
        """What this consumer wishes for when it wishes."""
        key = (consumer, model)
        found = self._known.get(key)
        if found is None:
            found = self._spec.of(self._models.cards[model], self._pct[consumer])
            self._known[key] = found
        return found
