"""Sums by the bucket in pages, newest bucket first, with a bounded amount of reading for each.

A page is put together from slices of time. One that finds little in many slices ends early:
it may be short, or empty, and the history still go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from market.accounting.histories import UseSum, WorkSum
from market.accounting.periods import Stretch, down, up
from market.accounting.rollups import DAY_S, HOUR_S

SLICES_MAX: Final = 64
"""Slices that one page reads at most: two weeks of hours, or a year of days."""
_SLICE_BUCKETS: Final = {HOUR_S: 6, DAY_S: 7}

Sum = TypeVar("Sum", WorkSum, UseSum)
Fetch = Callable[[Stretch], Awaitable[Sequence[Sum]]]


class After(NamedTuple):
    """Where a page goes on: after this bucket's sum of these two, the ones told apart."""

    start_s: int
    first: str
    second: str


def after_of(found: WorkSum | UseSum) -> After:
    """A sum's place: by machine or key, then by model."""
    return After(found.start_s, found[2], found.model)


async def page_of(
    fetch: Fetch[Sum], stretch: Stretch, bucket_s: int, after: After | None, limit: int
) -> tuple[list[Sum], After | None]:
    """At most `limit` sums, newest bucket first; where the next page goes on, None at the end.

    `fetch` gives the sums of a stretch in buckets of `bucket_s`, 0 for the whole in one.
    """
    if not bucket_s:
        return _cut(_left(await fetch(stretch), after), limit)
    assert stretch.begin_s is not None
    slice_s = bucket_s * _SLICE_BUCKETS[bucket_s]
    end_s = stretch.end_s if after is None else min(stretch.end_s, after.start_s + bucket_s)
    found: list[Sum] = []
    for _ in range(SLICES_MAX):
        # Slices end at buckets, so that none of these is told in two pieces.
        begin_s = max(stretch.begin_s, down(up(end_s, bucket_s) - slice_s, bucket_s))
        if begin_s < end_s:
            found += _left(await fetch(Stretch(begin_s, end_s)), after)
            if len(found) > limit:
                return _cut(found, limit)
        if begin_s <= stretch.begin_s:
            return found, None
        end_s = begin_s
    # Everything in `end_s` and later has been told: nothing sorts behind this.
    return found, After(end_s, _LAST, _LAST)


_LAST: Final = "\U0010ffff"


def _left(found: Sequence[Sum], after: After | None) -> list[Sum]:
    """What comes after a place, in order."""
    ordered = sorted(found, key=lambda one: (-one.start_s, one[2], one.model))
    if after is None:
        return ordered
    place = (-after.start_s, after.first, after.second)
    return [one for one in ordered if (-one.start_s, one[2], one.model) > place]


def _cut(found: list[Sum], limit: int) -> tuple[list[Sum], After | None]:
    shown = found[:limit]
    return shown, after_of(shown[-1]) if len(found) > limit and shown else None
