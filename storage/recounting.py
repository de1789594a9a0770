"""Feeds the journal and the kept sums to the recount, streamed, from one moment of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from market.accounting.audit import VerifyReport
from market.accounting.reading import UNFOLDED
from market.accounting.recount import Kept, Recount
from market.accounting.rollups import LIFE_S, MACHINE_SPANS_S, USE_SPANS_S, UseKey, WorkKey
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import FoldedRow
from storage.ledger_rows import LedgerRows
from storage.rollup_statements import USE, WORK, Side

Key = TypeVar("Key", WorkKey, UseKey)


def recount(rows: LedgerRows, report: VerifyReport) -> None:
    """Count every ended request again, and add to the report what the sums do not say.

    Raises StorageError when the ledger cannot be read to its end.
    """
    folded = next(rows.state(FoldedRow), UNFOLDED)
    counting = Recount(
        folded,
        {span_s: _kept(rows, WORK, WorkKey._make, span_s) for span_s in (*MACHINE_SPANS_S, LIFE_S)},
        {span_s: _kept(rows, USE, UseKey._make, span_s) for span_s in (*USE_SPANS_S, LIFE_S)},
        report.add,
    )
    deliveries = _Deliveries(rows.journal("delivery"))
    for _, *fields, _batch, _crc in rows.journal("request"):
        row = RequestRow(*fields)
        counting.request(row, deliveries.of(row) if row.deliveries is not None else ())
    report.sums = counting.finish()
    if not report.ok:
        report.checkpoint = None


def _kept(
    rows: LedgerRows, side: Side, make: Callable[[Sequence[Any]], Key], span_s: int
) -> Kept[Key]:
    width = len(side.keys)
    return ((make(row[:width]), row[width:]) for row in rows.sums(side, span_s))


class _Deliveries:
    """The deliveries of one request after the other, in the order in which both were written."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._ahead = next(rows, None)

    def of(self, row: RequestRow) -> list[DeliveryRow]:
        found: list[DeliveryRow] = []
        while self._ahead is not None and self._ahead[1] == row.request_id:
            found.append(DeliveryRow(*self._ahead[1:-2]))
            self._ahead = next(self._rows, None)
        return found
