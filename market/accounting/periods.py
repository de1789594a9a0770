"""Stretches of time that figures are told of: rolling windows, buckets, and how they are read.

All of it is UTC, in whole Unix seconds, so that a day has 86,400 of them on every day of the
year. A stretch includes its beginning and not its end. `now_s` is the ledger's own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from market.accounting.rollups import DAY_S, LIFE_S

WINDOWS: Final = {"24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S, "all": None}
"""The rolling windows by their names, in seconds; None is since ever."""


class Rolling(NamedTuple):
    """One of WINDOWS, up to now."""

    window: str


class Latest(NamedTuple):
    """So many latest buckets of `bucket_s` seconds; the last is the present one."""

    bucket_s: int
    buckets: int


class Between(NamedTuple):
    """From one second to another. None: since ever, and up to now."""

    begin_s: int | None
    end_s: int | None


Period = Rolling | Latest | Between
EVER: Final = Rolling("all")


class Stretch(NamedTuple):
    """A period when it is known what time it is. `begin_s` is None for since ever."""

    begin_s: int | None
    end_s: int


class Slice(NamedTuple):
    """Part of a stretch, as it is read: by the rows of this span that begin in it."""

    span_s: int
    begin_s: int
    end_s: int


def up(seconds: int, size_s: int) -> int:
    """The next multiple of `size_s`, or `seconds` when it is one."""
    return -(-seconds // size_s) * size_s


def down(seconds: int, size_s: int) -> int:
    """The last multiple of `size_s`, or `seconds` when it is one."""
    return seconds - seconds % size_s


def stretch_of(period: Period, now_s: int, grain_s: int) -> Stretch:
    """Which seconds these are, to the grain that rows are kept by.

    What has happened until now is in it. Of a rolling window everything older than the window
    is out, and so is what shares a row with it: less than a grain at its beginning. Raises
    ValueError for a window that there is none of and for a stretch that ends before it begins.
    """
    present_s = down(now_s, grain_s) + grain_s
    if isinstance(period, Rolling):
        if period.window not in WINDOWS:
            raise ValueError(f"There is no window {period.window[:20]!r}.")
        long_s = WINDOWS[period.window]
        return Stretch(None if long_s is None else up(now_s - long_s, grain_s), present_s)
    if isinstance(period, Latest):
        end_s = down(now_s, period.bucket_s) + period.bucket_s
        return Stretch(end_s - period.buckets * period.bucket_s, end_s)
    end_s = present_s if period.end_s is None else period.end_s
    if period.begin_s is not None and period.begin_s > end_s:
        raise ValueError("It ends before it begins.")
    return Stretch(period.begin_s, end_s)


def buckets(stretch: Stretch, bucket_s: int) -> range:
    """The beginning of every bucket that a stretch touches, oldest first."""
    assert stretch.begin_s is not None
    return range(down(stretch.begin_s, bucket_s), stretch.end_s, bucket_s)


def slices_of(stretch: Stretch, spans_s: Sequence[int], folded_s: int) -> list[Slice]:
    """How to read a stretch with the fewest rows: coarse in the middle, fine at its ends.

    `spans_s` are finest first; rows coarser than the first hold what is before `folded_s`, and
    a row that is not complete is not used. Together the slices are the stretch, each second in
    one of them. Since ever: what is folded into all time, and the finest rows after it.
    """
    finest_s = spans_s[0]
    if stretch.begin_s is None:
        if stretch.end_s > folded_s:
            return [Slice(LIFE_S, 0, 1), Slice(finest_s, folded_s, stretch.end_s)]
        return slices_of(Stretch(0, stretch.end_s), spans_s, folded_s)
    begin_s, end_s = stretch.begin_s, stretch.end_s
    if len(spans_s) > 1:
        coarse_s = spans_s[1]
        inner = Stretch(up(begin_s, coarse_s), down(min(end_s, folded_s), coarse_s))
        if inner.begin_s is not None and inner.begin_s < inner.end_s:
            return [
                *_slice(finest_s, begin_s, inner.begin_s),
                *slices_of(inner, spans_s[1:], folded_s),
                *_slice(finest_s, inner.end_s, end_s),
            ]
    return _slice(finest_s, begin_s, end_s)


def _slice(span_s: int, begin_s: int, end_s: int) -> list[Slice]:
    return [Slice(span_s, begin_s, end_s)] if begin_s < end_s else []
