"""Counts the journal again and compares it with the sums that were kept of it.

Pure, and in one pass: it is fed the ended requests in order and the kept sums in the order of
time. Of minutes, hours and days only the present one is in memory, whatever the history; of
all time one sum for each model, machine and payee, and for each key and model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from market.accounting.rollups import (
    HOUR_S,
    LIFE_S,
    MACHINE_SPANS_S,
    MINUTE_S,
    USE_SPANS_S,
    Use,
    UseKey,
    Work,
    WorkKey,
    hours_to,
    is_served,
    plus,
    sums_of,
)
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import FoldedRow

Key = TypeVar("Key", WorkKey, UseKey)
Tell = Callable[[str], None]
Kept = Iterator[tuple[Key, Sequence[int]]]
"""Kept sums of one span, in the order of their beginning."""
SPAN_NAMES: Final = {60: "minute", 3_600: "hour", 86_400: "day", LIFE_S: "all time"}


class Recount:
    """Feed it every ended request in order, then `finish`; problems are told as sentences."""

    def __init__(
        self,
        folded: FoldedRow,
        work: Mapping[int, Kept[WorkKey]],
        use: Mapping[int, Kept[UseKey]],
        tell: Tell,
    ) -> None:
        """`work` and `use` are the kept sums by their spans in seconds."""
        self._tell = tell
        hours_to_s = hours_to(folded.to_s)
        self._work = _Side(
            _Span(work[MINUTE_S], Work._fields, tell, since_s=folded.minutes_from_s),
            [
                _Span(work[span_s], Work._fields, tell, span_s)
                for span_s in (*MACHINE_SPANS_S[1:], LIFE_S)
            ],
            folded.to_s,
        )
        self._use = _Side(
            _Span(use[HOUR_S], Use._fields, tell),
            [
                _Span(use[span_s], Use._fields, tell, span_s)
                for span_s in (*USE_SPANS_S[1:], LIFE_S)
            ],
            hours_to_s,
        )
        self.requests = 0

    def request(self, row: RequestRow, deliveries: Sequence[DeliveryRow]) -> None:
        """Count one ended request."""
        self.requests += 1
        if len(deliveries) != (row.deliveries or 0) or (is_served(row) and row.payee is None):
            self._tell(
                f"The request {row.request_id} cannot be counted: it is paid to {row.payee}, has "
                f"{len(deliveries)} deliveries, and says that there are {row.deliveries}."
            )
            return
        work, use = sums_of([row], deliveries)
        self._work.add(work)
        self._use.add(use)

    def finish(self) -> int:
        """Compare what is left; how many kept sums there were."""
        return self._work.finish() + self._use.finish()


class _Side(Generic[Key]):
    """Sums of one kind: the finest span as counted, and the coarser ones folded from it."""

    def __init__(self, finest: _Span[Key], coarser: Sequence[_Span[Key]], folded_s: int) -> None:
        self._finest: _Span[Key] = finest
        self._coarser: Sequence[_Span[Key]] = coarser
        self._folded_s = folded_s

    def add(self, sums: Mapping[Key, Sequence[int]]) -> None:
        for key, measures in sums.items():
            if key.start_s != self._finest.start_s:
                self._fold()
            self._finest.add(key, measures)

    def _fold(self) -> None:
        for key, measures in self._finest.compare().items():
            if key.start_s < self._folded_s:
                for span in self._coarser:
                    span.add_folded(key, measures)

    def finish(self) -> int:
        self._fold()
        return self._finest.finish() + sum(span.finish() for span in self._coarser)


class _Span(Generic[Key]):
    """What was counted of the present minute, hour, day or of all time, and the sums kept of it."""

    def __init__(
        self,
        kept: Kept[Key],
        measures: Sequence[str],
        tell: Tell,
        span_s: int = 0,
        since_s: int = 0,
    ) -> None:
        """Sums that begin before `since_s` are gone, and not missed."""
        self._kept: Kept[Key] = kept
        self._ahead: tuple[Key, Sequence[int]] | None = next(kept, None)
        self._measures = measures
        self._tell = tell
        self._span_s = span_s
        self._since_s = since_s
        self._counted: dict[Key, list[int]] = {}
        self.start_s = -1
        self._seen = 0

    def add(self, key: Key, measures: Sequence[int]) -> None:
        self.start_s = key.start_s
        plus(self._counted, key, measures)

    def add_folded(self, key: Key, measures: Sequence[int]) -> None:
        """The same of a finer sum; what went before is compared when it belongs to a later one."""
        start_s = key.start_s - key.start_s % self._span_s if self._span_s else 0
        if start_s != self.start_s:
            self.compare()
        self.add(key._replace(span_s=self._span_s, start_s=start_s), measures)

    def compare(self) -> dict[Key, list[int]]:
        """Compare what was counted with what was kept of the same time; what was counted."""
        counted, self._counted = self._counted, {}
        missing = dict(counted) if self.start_s >= self._since_s else {}
        for key, kept in self._until(self.start_s):
            expected = missing.pop(key, None)
            if expected is None:
                self._tell(f"{_words(key)} are kept; nothing in the journal is of it.")
            elif expected != list(kept):
                self._tell(f"{_words(key)} say {self._difference(kept, expected)}.")
        for key in missing:
            self._tell(f"{_words(key)} are missing.")
        return counted

    def finish(self) -> int:
        self.compare()
        self.start_s = 2**63
        self.compare()
        return self._seen

    def _until(self, start_s: int) -> Iterator[tuple[Key, Sequence[int]]]:
        while self._ahead is not None and self._ahead[0].start_s <= start_s:
            self._seen += 1
            yield self._ahead
            self._ahead = next(self._kept, None)

    def _difference(self, kept: Sequence[int], counted: Sequence[int]) -> str:
        return ", ".join(
            f"{name} {one} where the journal says {other}"
            for name, one, other in zip(self._measures, kept, counted, strict=True)
            if one != other
        )


def _words(key: WorkKey | UseKey) -> str:
    when = "of all time"
    if key.span_s != LIFE_S:
        # A damaged row may say any span, though its index says the one that was asked for.
        span = SPAN_NAMES.get(key.span_s, f"{key.span_s} seconds")
        when = f"of the {span} {_moment(key.start_s)}"
    if isinstance(key, WorkKey):
        return f"The sums {when} of {key.machine or 'no machine'}, {key.payee}, {key.model}"
    return f"The sums {when} of {key.key_id}, {key.owner}, {key.model}"


def _moment(start_s: int) -> str:
    try:
        return datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a damaged number is no time at all
        return f"at second {start_s}"
