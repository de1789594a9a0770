"""How a question about a stretch of time is read: which rows it needs, and what it may not ask.

The same for every store, so that all of them refuse alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.accounting.periods import Slice, Stretch, slices_of
from market.accounting.rollups import (
    DAY_S,
    HOUR_S,
    MACHINE_SPANS_S,
    USE_SPANS_S,
    hours_to,
)
from market.accounting.state_rows import FoldedRow
from market.accounting.statistics import ROWS_MAX
from market.errors import InvalidRequest

MINUTES_DAYS: Final = 31
"""How long minutes are kept beside the hours they have been folded into."""
UNFOLDED: Final = FoldedRow(1, 0, 0)


def work_slices(stretch: Stretch, bucket_s: int, folded: FoldedRow) -> list[Slice]:
    """The slices of machines' sums that make up a stretch; raises InvalidRequest."""
    slices = _slices(stretch, bucket_s, MACHINE_SPANS_S, folded.to_s)
    for piece in slices:
        if piece.span_s == MACHINE_SPANS_S[0] and piece.begin_s < folded.minutes_from_s:
            raise InvalidRequest(
                f"What is older than {MINUTES_DAYS} days is known by the hour: begin and end it at "
                "whole hours, and ask for buckets of hours or days.",
                "from",
                "too_fine",
            )
    return slices


def use_slices(stretch: Stretch, bucket_s: int, folded: FoldedRow) -> list[Slice]:
    """The slices of callers' sums that make up a stretch; raises InvalidRequest."""
    return _slices(stretch, bucket_s, USE_SPANS_S, hours_to(folded.to_s))


def _slices(stretch: Stretch, bucket_s: int, spans_s: Sequence[int], folded_s: int) -> list[Slice]:
    finest_s = spans_s[0]
    edges = (stretch.begin_s or 0, stretch.end_s)
    if any(edge_s % finest_s for edge_s in edges):
        raise InvalidRequest(
            "These figures are known by the hour: begin and end at whole hours, in UTC."
            if finest_s == HOUR_S
            else "These figures are known by the minute: begin and end at whole minutes.",
            "from",
            "too_fine",
        )
    if bucket_s:
        if bucket_s % finest_s or not 0 < bucket_s <= DAY_S:
            raise InvalidRequest(
                f"Buckets are whole multiples of {finest_s} seconds and at most a day, not "
                f"{bucket_s}.",
                "bucket_s",
            )
        if stretch.begin_s is None:
            raise InvalidRequest("Buckets need a beginning; name one.", "from", "missing_field")
        spans_s = [span_s for span_s in spans_s if bucket_s % span_s == 0]
    return slices_of(stretch, spans_s, folded_s)


def check_count(rows: int) -> None:
    """Refuse an answer of more than ROWS_MAX figures."""
    if rows > ROWS_MAX:
        raise InvalidRequest(
            f"This answer has more than {ROWS_MAX} figures; ask for a shorter time, longer "
            "buckets, or fewer things told apart.",
            None,
            "too_many_figures",
        )
