"""When minutes are folded into what is coarser, and when they are forgotten.

A minute is folded once, after it is over by the ledger's clock, in the commit that also notes
how far folding has come; so it is never counted twice, whatever happens in between. Its row
stays for MINUTES_DAYS beside the hour that holds it, and is then forgotten: no sum changes.
Both go on in bounded steps, beside the ordinary commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.accounting.periods import down
from market.accounting.reading import MINUTES_DAYS, UNFOLDED
from market.accounting.rollups import DAY_S, MINUTE_S, hours_to
from market.accounting.rows import Changes
from market.accounting.state_rows import FoldedRow

ROWS_MAX: Final = 5_000
"""Rows of minutes that one step folds, and that one forgets; about 10 ms of the writer's time."""
MINUTES_KEPT_S: Final = MINUTES_DAYS * DAY_S


class Folding:
    """How far it has come, as the next commit will have it."""

    def __init__(self, rows: Sequence[FoldedRow]) -> None:
        (self.row,) = rows or (UNFOLDED,)

    def to_fold(self, now_s: int) -> tuple[int, int]:
        """The minutes that are over and not folded yet: from, and to; none when both are equal."""
        return self.row.to_s, max(self.row.to_s, down(now_s, MINUTE_S))

    def to_forget(self, now_s: int) -> tuple[int, int]:
        """The minutes that are old enough: from, and to; none when both are equal.

        Those of an hour that is not complete are never old.
        """
        old_s = min(hours_to(self.row.to_s), down(now_s - MINUTES_KEPT_S, MINUTE_S))
        return self.row.minutes_from_s, max(self.row.minutes_from_s, old_s)

    def fold(self, to_s: int, changes: Changes) -> None:
        """Let the next commit fold the minutes before this second."""
        assert changes.fold is None
        assert to_s % MINUTE_S == 0
        if to_s > self.row.to_s:
            changes.fold = (self.row.to_s, to_s)
            self.row = self.row._replace(to_s=to_s)
            changes.put(self.row)

    def forget(self, before_s: int, changes: Changes) -> None:
        """Let the next commit forget the minutes before this second."""
        if before_s > self.row.minutes_from_s:
            changes.forget_minutes_s = before_s
            self.row = self.row._replace(minutes_from_s=before_s)
            changes.put(self.row)
