"""What a model's requests have been like: how much they write and how long they take.

Answers are counted in a histogram of quarter octaves, per model and per consumer of a model, that
forgets slowly. A consumer's own answers count as far as there are any; the model's fill the
rest. Used where a request must be judged before it has run, and never its true length.

An answer that was cut says only that it would have been longer: it counts as the longer ones that
are known, in their proportions, as in Kaplan and Meier's estimate. Otherwise a few requests for
one token would make every answer look short, to everybody.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from market.policy.candidates import FloatArray
from market.types import AccountId, ModelId

PER_OCTAVE = 4
BINS = 18 * PER_OCTAVE
"""Up to 262,144 tokens; the longest context of the catalogue is half of it."""

FORGET = 1.005
"""Each answer weighs this much more than the one before: about the last 200 count."""

PRIOR_ANSWERS = 10.0
"""A consumer's own answers count as much as the model's once there are this many."""

MAX_CONSUMERS = 10_000
"""Consumers remembered over all models; whoever was longest away goes first."""

FIRST_TOKENS = 128.0
FIRST_SERVICE_S = 2.0
FIRST_WORK = 640.0  # cost tokens: those of 128 tokens said, and as many read
"""Guesses before the first request of a model has ended."""

NEWS = 32
"""Answers of a model after which an expectation is computed again: a sixth of what counts."""

SERVICE_WEIGHT = 0.05
"""Weight of the newest request in how long a slot is held: about the last 40 count."""

_Asked = tuple[ModelId, AccountId | None, int, int]  # model, consumer, most tokens, said
_MIDDLES: FloatArray = 2.0 ** ((np.arange(BINS) + 0.5) / PER_OCTAVE)


class _Histogram:
    """Weighted counts; weights grow instead of old counts shrinking, and are scaled back."""

    __slots__ = ("answers", "counts", "weight")

    def __init__(self) -> None:
        self.counts: FloatArray = np.zeros(BINS)
        self.weight = 1.0
        self.answers = 0.0

    def add(self, shares: FloatArray) -> None:
        """One answer, whose length is spread like this; the shares add up to 1."""
        self.counts += self.weight * shares
        self.weight *= FORGET
        self.answers = min(self.answers + 1.0, 1.0 / (FORGET - 1.0))
        if self.weight > 1e6:
            self.counts /= self.weight
            self.weight = 1.0

    def shares(self) -> FloatArray:
        total = self.counts.sum()
        shares: FloatArray = self.counts / total if total > 0 else self.counts
        return shares


class Lengths:
    """Answers of every model, and how long slots are held."""

    def __init__(self) -> None:
        self._models: dict[ModelId, _Histogram] = {}
        self._consumers: OrderedDict[tuple[ModelId, AccountId], _Histogram] = OrderedDict()
        self._service: dict[ModelId, tuple[float, float]] = {}
        self._cache: dict[_Asked, tuple[int, tuple[float, float]]] = {}
        self._news: dict[ModelId, int] = {}

    def expected(
        self, model: ModelId, consumer: AccountId | None, max_tokens: int, said: int = 0
    ) -> tuple[float, float]:
        """Mean and 90th percentile of what one choice still says after `said` tokens."""
        key = (model, consumer, max_tokens, said)
        news = self._news.get(model, 0)
        known = self._cache.get(key)
        if known is not None and news - known[0] < NEWS:
            return known[1]
        if len(self._cache) >= MAX_CONSUMERS:
            self._cache.clear()
        found = self._compute(model, consumer, max_tokens, said)
        # The first answers of all change more than later ones do.
        self._cache[key] = (news if news >= NEWS else news - NEWS + 1, found)
        return found

    def _compute(
        self, model: ModelId, consumer: AccountId | None, max_tokens: int, said: int
    ) -> tuple[float, float]:
        most = float(max(max_tokens - said, 1))
        shares, total = self._left(model, consumer, said)
        if total <= 0:
            return min(FIRST_TOKENS, most), min(2 * FIRST_TOKENS, most)
        lengths = np.minimum(_MIDDLES - said, most)
        mean = float((shares * lengths).sum() / total)
        return max(mean, 1.0), _quantile(shares, lengths, 0.9)

    def median(self, model: ModelId, consumer: AccountId | None, max_tokens: int) -> float:
        """What half of the answers are expected to stay below, in tokens of one choice."""
        most = float(max(max_tokens, 1))
        shares, total = self._left(model, consumer, 0)
        if total <= 0:
            return min(FIRST_TOKENS, most)
        return _quantile(shares, np.minimum(_MIDDLES, most), 0.5)

    def _left(
        self, model: ModelId, consumer: AccountId | None, said: int
    ) -> tuple[FloatArray, float]:
        """The shares of the answers that are longer than what was said, and their sum."""
        shares = np.where(said < _MIDDLES, self._shares(model, consumer), 0.0)
        return shares, float(shares.sum())

    def _shares(self, model: ModelId, consumer: AccountId | None) -> FloatArray:
        of_model = self._models.get(model)
        if of_model is None:
            return np.zeros(BINS)
        shares = of_model.shares()
        own = self._consumers.get((model, consumer)) if consumer is not None else None
        if own is not None:
            share = own.answers / (own.answers + PRIOR_ANSWERS)
            shares = share * own.shares() + (1.0 - share) * shares
        return shares

    def service_s(self, model: ModelId, work: float | None = None) -> float:
        """How long a slot is held by a request of so many cost tokens, by a usual one if None.

        In proportion to its work: what comes may be ten times longer than what was.
        """
        seconds, usual = self._service.get(model, (FIRST_SERVICE_S, FIRST_WORK))
        return seconds if work is None else seconds * work / usual

    def learn_service(self, model: ModelId, work: float, service_s: float) -> None:
        """A request of so many cost tokens has held its slots for so long."""
        seconds, usual = self._service.get(model, (FIRST_SERVICE_S, FIRST_WORK))
        self._service[model] = (
            seconds + SERVICE_WEIGHT * (service_s - seconds),
            usual + SERVICE_WEIGHT * (max(work, 1.0) - usual),
        )

    def learn(
        self, model: ModelId, consumer: AccountId | None, tokens: float, *, cut: bool = False
    ) -> None:
        """One choice of a request ended well; a `cut` one would have said more than `tokens`."""
        at = min(int(np.log2(max(tokens, 1.0)) * PER_OCTAVE), BINS - 1)
        if cut and model not in self._models and tokens < FIRST_TOKENS:
            return  # less than what is guessed without it
        if consumer is not None:
            key = (model, consumer)
            spread = _spread(at, self._shares(model, consumer) if cut else None)
            own = self._consumers.pop(key, None) or _Histogram()
            self._consumers[key] = own
            own.add(spread)
            if len(self._consumers) > MAX_CONSUMERS:
                self._consumers.popitem(last=False)
        of_model = self._models.setdefault(model, _Histogram())
        of_model.add(_spread(at, of_model.shares() if cut else None))
        self._news[model] = self._news.get(model, 0) + 1


def _spread(at: int, known: FloatArray | None) -> FloatArray:
    """An answer in this bin; with `known` shares, one that was cut there."""
    spread = np.zeros(BINS)
    if known is not None:
        spread[at + 1 :] = known[at + 1 :]
        longer = float(spread.sum())
        if longer > 0:
            spread /= longer
            return spread
    spread[at] = 1.0  # of cut ones too, where none is known to be longer
    return spread


def _quantile(shares: FloatArray, lengths: FloatArray, share: float) -> float:
    at = int(np.searchsorted(np.cumsum(shares), share * shares.sum()))
    return max(float(lengths[min(at, BINS - 1)]), 1.0)
