"""Stretches of time: windows, buckets, the slices they are read in, and pages over them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.accounting import paging
from market.accounting.folding import MINUTES_KEPT_S, Folding
from market.accounting.histories import WorkSum
from market.accounting.paging import After, page_of
from market.accounting.periods import (
    WINDOWS,
    Between,
    Latest,
    Rolling,
    Stretch,
    buckets,
    down,
    slices_of,
    stretch_of,
    up,
)
from market.accounting.reading import UNFOLDED, use_slices, work_slices
from market.accounting.rollups import (
    DAY_S,
    HOUR_S,
    MACHINE_SPANS_S,
    MINUTE_S,
    USE_SPANS_S,
    Work,
    hours_to,
)
from market.accounting.rows import Changes
from market.accounting.state_rows import FoldedRow
from market.errors import InvalidRequest
from market.types import AccountId, MachineId, ModelId

NOW_S = int(datetime(2028, 2, 29, 23, 59, 58, tzinfo=UTC).timestamp())  # a leap day's last seconds
minutes = st.integers(0, 60 * 24 * 400).map(lambda n: n * MINUTE_S)
hours = st.integers(0, 24 * 800).map(lambda n: n * HOUR_S)


@given(st.tuples(minutes, minutes).map(sorted), minutes, st.sampled_from([0, 1, 2, 3]))
def test_slices_are_the_stretch_each_second_in_one_of_them(
    ends: list[int], folded_s: int, coarsest: int
) -> None:
    """In order and without a gap; coarse rows are whole, and only such as are folded."""
    spans_s = MACHINE_SPANS_S[: max(1, coarsest)]
    slices = slices_of(Stretch(*ends), spans_s, folded_s)

    at_s = ends[0]
    for piece in slices:
        assert piece.begin_s == at_s
        assert piece.begin_s < piece.end_s
        assert piece.begin_s % piece.span_s == piece.end_s % piece.span_s == 0
        assert piece.span_s == MINUTE_S or piece.end_s <= folded_s
        at_s = piece.end_s
    assert at_s == ends[1]
    rows = sum((piece.end_s - piece.begin_s) // piece.span_s for piece in slices)
    if len(spans_s) == 3 and folded_s >= ends[1]:
        assert rows <= 2 * (59 + 23) + (ends[1] - ends[0]) // DAY_S


@given(hours, hours)
def test_since_ever_is_what_is_folded_and_what_came_after(folded_s: int, end_s: int) -> None:
    """All time's own row holds the folded part; nothing is told twice."""
    slices = slices_of(Stretch(None, end_s), USE_SPANS_S, folded_s)
    if end_s > folded_s:
        assert [piece.span_s for piece in slices] == [0, HOUR_S]
        assert slices[1][1:] == (folded_s, end_s)
    else:
        assert sum(piece.end_s - piece.begin_s for piece in slices) == end_s


@pytest.mark.parametrize("window", ["24h", "7d", "30d"])
@pytest.mark.parametrize("grain_s", [MINUTE_S, HOUR_S])
@given(now_s=st.integers(10**9, 2**32))
def test_a_window_has_nothing_older_and_everything_younger_but_a_grain(
    window: str, grain_s: int, now_s: int
) -> None:
    """A window rolls with the clock, over midnights, months and leap days alike."""
    long_s = WINDOWS[window]
    assert long_s is not None
    begin_s, end_s = stretch_of(Rolling(window), now_s, grain_s)
    assert begin_s is not None
    assert now_s - long_s <= begin_s < now_s - long_s + grain_s
    assert now_s < end_s <= now_s + grain_s
    assert begin_s % grain_s == end_s % grain_s == 0


def test_windows_of_a_leap_day() -> None:
    """24 hours before the last seconds of 29 February is the 28th; 30 days before, 30 January."""
    told = {
        window: datetime.fromtimestamp(
            stretch_of(Rolling(window), NOW_S, MINUTE_S).begin_s or 0, UTC
        ).isoformat()
        for window in ("24h", "7d", "30d")
    }
    assert told == {
        "24h": "2028-02-29T00:00:00+00:00",
        "7d": "2028-02-23T00:00:00+00:00",
        "30d": "2028-01-31T00:00:00+00:00",
    }
    assert stretch_of(Rolling("all"), NOW_S, MINUTE_S).begin_s is None
    days = stretch_of(Latest(DAY_S, 7), NOW_S, MINUTE_S)
    assert [datetime.fromtimestamp(day, UTC).day for day in buckets(days, DAY_S)] == [
        *range(23, 30)
    ]
    assert len(buckets(stretch_of(Latest(MINUTE_S, 30), NOW_S, MINUTE_S), MINUTE_S)) == 30


def test_a_period_that_cannot_be_is_refused() -> None:
    """No such window; an end before its beginning."""
    for period in (Rolling("1d"), Rolling(""), Between(60, 0)):
        with pytest.raises(ValueError, match=r"window|before"):
            stretch_of(period, NOW_S, MINUTE_S)
    assert stretch_of(Between(60, 60), NOW_S, MINUTE_S) == Stretch(60, 60)


def test_what_is_too_fine_is_refused_in_words() -> None:
    """Half minutes, minutes of callers, buckets without a beginning or of another size."""
    kept = FoldedRow(1, 10 * DAY_S, 5 * DAY_S)
    for slices, stretch, bucket_s, words in (
        (work_slices, Stretch(30, 60), 0, "whole minutes"),
        (use_slices, Stretch(MINUTE_S, HOUR_S), 0, "whole hours"),
        (work_slices, Stretch(0, DAY_S), 90, "multiples of 60"),
        (work_slices, Stretch(0, DAY_S), 2 * DAY_S, "at most a day"),
        (use_slices, Stretch(0, DAY_S), MINUTE_S, "multiples of 3600"),
        (work_slices, Stretch(None, DAY_S), HOUR_S, "need a beginning"),
        (work_slices, Stretch(0, DAY_S + MINUTE_S), 0, "by the hour"),
        (work_slices, Stretch(DAY_S, 2 * DAY_S), MINUTE_S, "by the hour"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            slices(stretch, bucket_s, kept)
    assert work_slices(Stretch(5 * DAY_S, 6 * DAY_S), MINUTE_S, kept)
    assert work_slices(Stretch(0, 6 * DAY_S), 6 * HOUR_S, kept)[0].span_s == HOUR_S


# ── folding ───────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(-(40 * DAY_S), 40 * DAY_S), max_size=30))
def test_folding_goes_on_from_where_it_was_whatever_the_clock_does(jumps_s: list[int]) -> None:
    """Each minute once and only when it is over; what is forgotten was folded and is old."""
    folding, folded_to_s, now_s = Folding([UNFOLDED]), 0, 10**9
    for jump_s in jumps_s:
        now_s = max(now_s + 1, now_s + jump_s)  # the ledger's clock, which never goes back
        changes = Changes()
        folding.fold(folding.to_fold(now_s)[1], changes)
        if changes.fold is not None:
            assert changes.fold[0] == folded_to_s
            folded_to_s = changes.fold[1]
        assert now_s - MINUTE_S < folded_to_s <= now_s
        folding.forget(folding.to_forget(now_s)[1], changes)
        gone_s = folding.row.minutes_from_s
        assert gone_s <= hours_to(folded_to_s)
        assert now_s - MINUTES_KEPT_S - HOUR_S < gone_s <= now_s - MINUTES_KEPT_S
        assert folding.row.to_s == folded_to_s


# ── pages ─────────────────────────────────────────────────────────────────────────────

names = st.sampled_from(["", "a", "b", "é"])
places = st.tuples(st.integers(0, 40), names, names)


@given(
    st.sets(places, max_size=60),
    st.sampled_from([HOUR_S, DAY_S]),
    st.tuples(st.integers(0, 41 * 24 * 60), st.integers(0, 41 * 24 * 60)),
    st.integers(1, 7),
    st.sampled_from([1, 2, 64]),
)
def test_pages_tell_every_sum_once_newest_bucket_first(
    made: set[tuple[int, str, str]],
    bucket_s: int,
    ends: tuple[int, int],
    limit: int,
    slices: int,
) -> None:
    """Then by the other two things told apart; pages end, and are never longer than asked.

    A page may read so few slices that it is empty, and the next one goes on.
    """
    begin_s, end_s = sorted(minute * MINUTE_S for minute in ends)
    stretch = Stretch(down(begin_s, bucket_s), up(end_s, bucket_s))
    sums = [
        WorkSum(bucket * bucket_s, ModelId(model), MachineId(machine), AccountId(""), Work(1))
        for bucket, machine, model in made
    ]

    async def fetch(part: Stretch) -> Sequence[WorkSum]:
        assert part.begin_s is not None
        return [one for one in sums if part.begin_s <= one.start_s < part.end_s]

    async def every() -> list[WorkSum]:
        found: list[WorkSum] = []
        after: After | None = None
        for _ in range(200):
            page, after = await page_of(fetch, stretch, bucket_s, after, limit)
            assert len(page) <= limit
            found += page
            if after is None:
                return found
        raise AssertionError("the pages do not end")

    wanted = [one for one in sums if (stretch.begin_s or 0) <= one.start_s < stretch.end_s]
    wanted.sort(key=lambda one: (-one.start_s, one.machine, one.model))
    with patch.object(paging, "SLICES_MAX", slices):
        assert asyncio.run(every()) == wanted
