"""Which loads may be ordered now, what each would take, and what stands in its way.

The hysteresis: what is loaded stays, unless a load that has paid its price needs the place. The
price is counted like the rent, in cost tokens × seconds: what the load keeps from its Mac's other
models, and what the models that give way can then not serve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from market.placement.case import (
    FREE,
    IS_YOUNG,
    LOCK_WORDS,
    Case,
    free_places,
    locks_of,
    prices_of,
)
from market.placement.problem import BoolArray, FloatArray, IntArray
from market.placement.tables import LEAVING, LOADING

LOAD_SLOWS_SHARE = 0.25
"""Share of a Mac's work that a load beside it holds up: reading weights and the first compile
share its memory and its GPU with what runs. Not measured on a Mac."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a copy of one model (`column`) on one Mac (`row`) would take.

    `leaving` models give way; `price` is in cost tokens × seconds. `barrier` says what makes it
    impossible now, "" when only the price can be in the way; `locked` are the copies that would
    have to give way and may not.
    """

    row: int
    column: int
    load_s: float
    price: float = 0.0
    leaving: tuple[int, ...] = ()
    barrier: str = ""
    locked: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Permits:
    """What the search may change. `granted` (n, m) are places open for a new copy, `yielding`
    (n, m) are copies that may give way; `quotes` are what was looked at, by (row, column).
    """

    granted: BoolArray
    yielding: BoolArray
    locks: IntArray
    quotes: dict[tuple[int, int], Quote] = field(default_factory=dict)


class Office:
    """Quotes for one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.locks = locks_of(case)
        self.prices = prices_of(case)
        self._free_places = free_places(case)
        tables = case.tables
        self._busy = (tables.busy * tables.worth[None, :]).sum(axis=1)
        self._copies = tables.here.sum(axis=0)

    def permits(self) -> Permits:
        """Everything that may happen now."""
        tables = self.case.tables
        granted: BoolArray = np.zeros(tables.place.shape, dtype=bool)
        yielding: BoolArray = np.zeros(tables.place.shape, dtype=bool)
        quotes: dict[tuple[int, int], Quote] = {}
        for column in self._wanting():
            for row in np.flatnonzero(~tables.here[:, column]):
                quote = self.quote(int(row), int(column))
                quotes[quote.row, quote.column] = quote
                if self.grants(quote):
                    granted[row, column] = True
                    yielding[row, list(quote.leaving)] = True
        gives_way: BoolArray = yielding.sum(axis=0) > 0
        moving: BoolArray = gives_way & (tables.mean > 0)
        has_models: BoolArray = tables.here.sum(axis=1) > 0
        granted |= self._free_places & moving[None, :]
        granted |= self._free_places & ~has_models[:, None]
        return Permits(granted, yielding, self.locks, quotes)

    def _wanting(self) -> Iterable[int]:
        """Models that more copies could help: too few, too slow, or waited for."""
        case, tables = self.case, self.case.tables
        few = self._copies < case.least
        slow = (tables.high > tables.able + tables.coming) | case.queueing
        wanting: IntArray = np.flatnonzero(few | slow | case.asked)
        return (int(column) for column in wanting)

    def grants(self, quote: Quote) -> bool:
        """Whether the price has been paid."""
        return not quote.barrier and bool(self.case.paid[quote.column] >= quote.price)

    def quote(self, row: int, column: int) -> Quote:
        """What this copy would take, whether it is wanted or not."""
        tables = self.case.tables
        load_s = float(tables.load_s[row, column])
        barrier = self._barrier(row, column)
        if barrier:
            return Quote(row, column, load_s, barrier=barrier)
        if tables.place[row, column] == LEAVING:  # it is still loaded
            load_s = 0.0
        price = 0.0
        if self._copies[column] >= self.case.least[column]:
            price = LOAD_SLOWS_SHARE * load_s**2 * float(self._busy[row])
        if tables.need[column] <= tables.free[row] + 0.5:
            return Quote(row, column, load_s, price)
        return self._exchange(row, column, load_s, price)

    def choices(self, column: int) -> list[Quote]:
        """Where a further copy could go: what may happen now first, then what is nearest to it."""
        tables = self.case.tables
        rows = np.flatnonzero(~tables.here[:, column])
        quotes = [self.quote(int(row), column) for row in rows]

        def rank(quote: Quote) -> tuple[bool, bool, float, float, int]:
            missing = max(0.0, quote.price - float(self.case.paid[column]))
            rate = float(tables.rate[quote.row, column])
            return bool(quote.barrier), not quote.locked, missing, -rate, quote.row

        return sorted(quotes, key=rank)

    def in_words(self, quote: Quote) -> str:
        """What a copy on this Mac would take."""
        names, case = self.case.tables.models, self.case
        if quote.locked:
            held = (f"{names[other]} {self._held(quote, other)}" for other in quote.locked)
            return f"{quote.barrier}: {', '.join(held)}"
        if quote.barrier:
            return quote.barrier
        leaving = ", ".join(names[other] for other in quote.leaving)
        way = f"; {leaving} would give way" if leaving else ""
        paid, price = case.paid[quote.column], quote.price
        if paid >= price:
            return f"may be loaded in {quote.load_s:.0f} s{way}"
        return (
            f"would load in {quote.load_s:.0f} s{way}; waiting has cost {paid:,.0f} "
            f"cost tokens × s and would have to cost {price:,.0f}"
        )

    def _held(self, quote: Quote, other: int) -> str:
        lock = int(self.locks[quote.row, other])
        if lock == IS_YOUNG:
            left_s = self.case.settings.residency_s - self.case.tables.since_s[quote.row, other]
            return f"{LOCK_WORDS[lock]} ({left_s:.0f} s to go)"
        return LOCK_WORDS.get(lock, "is the only copy kept of it")

    def _barrier(self, row: int, column: int) -> str:
        case, tables = self.case, self.case.tables
        if not tables.open[row]:
            return "it takes nothing new now"
        if not tables.allowed[row, column]:
            return "its owner does not allow it"
        if not tables.fits[row, column]:
            return f"needs {_gb(tables.need[column])}, has room for {_gb(tables.room[row])}"
        if case.failed[row, column]:
            return "loading it there failed"
        return ""

    def _exchange(self, row: int, column: int, load_s: float, price: float) -> Quote:
        """The cheapest models of a Mac that make room by giving way."""
        tables, swaps_left = self.case.tables, int(self.case.swaps_left[row])
        short = float(tables.need[column] - tables.free[row])
        leaving: list[int] = []
        there = np.flatnonzero(tables.here[row])
        cost = self.prices[row, there] / np.maximum(tables.need[there], 1.0)
        for other in there[np.argsort(cost, kind="stable")]:
            if short <= 0.5 or len(leaving) >= swaps_left:
                break
            if self.locks[row, other] == FREE and not self._needed(int(other), column):
                leaving.append(int(other))
                short -= float(tables.need[other])
                price += float(self.prices[row, other])
        if short > 0.5:
            locked = tuple(int(other) for other in there if int(other) not in leaving)
            return Quote(row, column, load_s, barrier="no room", locked=locked)
        return Quote(row, column, load_s, price, tuple(leaving))

    def _needed(self, other: int, column: int) -> bool:
        """An idle model does not push out one that has no copy to spare; two would go round."""
        spare = self._copies[other] > self.case.least[other]
        return not spare and not bool(self.case.asked[column])


def ready_in_s(office: Office, column: int) -> float | None:
    """Seconds until a first copy of a model could serve: what is being loaded, else the soonest
    place for it. A place that something else must keep for a while counts from then on, one whose
    price is not paid from when waiting, as it goes on now, will have paid it.
    """
    tables = office.case.tables
    loading = tables.place[:, column] == LOADING
    if loading.any():
        left_s = tables.load_s[loading, column] - tables.since_s[loading, column]
        return float(np.maximum(left_s, 0.0).min())
    found = [_opens_in_s(office, quote) for quote in office.choices(column)]
    times = [seconds for seconds in found if seconds is not None]
    return min(times) if times else None


def _opens_in_s(office: Office, quote: Quote) -> float | None:
    case, tables = office.case, office.case.tables
    if quote.locked:
        locks = office.locks[quote.row, list(quote.locked)]
        if not (locks == IS_YOUNG).all():
            return None
        since_s = tables.since_s[quote.row, list(quote.locked)]
        return quote.load_s + float(np.max(case.settings.residency_s - since_s))
    if quote.barrier:
        return None
    missing = max(0.0, quote.price - float(case.paid[quote.column]))
    work = float(tables.waiting_work[quote.column])
    return quote.load_s + (missing / work if work > 0 else 0.0)


def _gb(count: FloatArray | float) -> str:
    return f"{float(count) / 1e9:.1f} GB"
