"""The SQL of the sums by time: what a commit adds, folds and forgets, and what readers ask.

Written out by hand like that of the hot path, in words that both databases understand; only
names of our own tables and columns are put together. Sums come back as 64-bit integers, for
PostgreSQL would make them decimals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from market.accounting.periods import Slice
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
    sums_of,
)
from market.accounting.rows import Changes
from market.accounting.state_rows import Cell
from storage.rollup_tables import UseSumTable, WorkSumTable

Write = tuple[str, Sequence[Sequence[Any]]]
Named = tuple[str, Sequence[str]]
"""A column, and the values that are meant; none means all."""


@dataclass(frozen=True, slots=True)
class Side:
    """One table of sums: the columns that say whose and when, and those that are added up."""

    table: str
    keys: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def columns(self) -> str:
        return ", ".join((*self.keys, *self.measures))

    @property
    def sums(self) -> str:
        return ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in self.measures)

    @property
    def or_add(self) -> str:
        """What an INSERT does where there is such a row already."""
        added = (f"{name} = {self.table}.{name} + excluded.{name}" for name in self.measures)
        return f"ON CONFLICT ({', '.join(self.keys)}) DO UPDATE SET {', '.join(added)}"


WORK: Final = Side(WorkSumTable.__tablename__, WorkKey._fields, Work._fields)
USE: Final = Side(UseSumTable.__tablename__, UseKey._fields, Use._fields)
SIDES: Final = (WORK, USE)


def _add(side: Side) -> str:
    marks = ", ".join("?" * (len(side.keys) + len(side.measures)))
    return f"INSERT INTO {side.table} ({side.columns}) VALUES ({marks}) {side.or_add}"  # noqa: S608


def _fold(side: Side, finest_s: int, coarse_s: int) -> str:
    """Add rows of the finest span that begin from one second to another to a coarser one."""
    start = f"start_s - start_s % {coarse_s}" if coarse_s else "0"
    folded = {"span_s": str(coarse_s), "start_s": start}
    group = ", ".join(str(at) for at in range(1, len(side.keys) + 1))
    return (
        f"INSERT INTO {side.table} ({side.columns}) "  # noqa: S608
        f"SELECT {', '.join(folded.get(name, name) for name in side.keys)}, {side.sums} "
        f"FROM {side.table} WHERE span_s = {finest_s} AND start_s >= ? AND start_s < ? "
        f"GROUP BY {group} {side.or_add}"
    )


ADD_WORK: Final = _add(WORK)
ADD_USE: Final = _add(USE)
FOLD_WORK: Final = tuple(_fold(WORK, MINUTE_S, span_s) for span_s in (*MACHINE_SPANS_S[1:], LIFE_S))
FOLD_USE: Final = tuple(_fold(USE, HOUR_S, span_s) for span_s in (*USE_SPANS_S[1:], LIFE_S))
FORGET_MINUTES: Final = f"DELETE FROM work_sum WHERE span_s = {MINUTE_S} AND start_s < ?"  # noqa: S608
SELECT_FOLDED: Final = "SELECT to_s, minutes_from_s FROM folded WHERE id = 1"
SELECT_MINUTE: Final = (
    f"SELECT start_s FROM work_sum WHERE span_s = {MINUTE_S} AND start_s >= ? AND start_s < ? "  # noqa: S608
    "ORDER BY start_s LIMIT 1 OFFSET ?"
)
WORK_SINCE: Final = "SELECT min(start_s) FROM work_sum WHERE payee = ? AND span_s = ?"
USE_SINCE: Final = "SELECT min(start_s) FROM use_sum WHERE owner = ? AND span_s = ?"
SELECT_SUMS: Final = {
    side.table: f"SELECT {side.columns} FROM {side.table} WHERE span_s = ? ORDER BY start_s"  # noqa: S608
    for side in SIDES
}
"""Every row of one span, in the order of time."""


def rollup_writes(changes: Changes) -> Iterator[Write]:
    """What a commit adds to the sums, then folds, then forgets; a part without rows is empty."""
    if changes.requests:
        work, use = sums_of(changes.requests, changes.deliveries)
        yield ADD_WORK, [(*key, *measures) for key, measures in work.items()]
        yield ADD_USE, [(*key, *measures) for key, measures in use.items()]
    if changes.fold is not None:
        from_s, to_s = changes.fold
        for statement in FOLD_WORK:
            yield statement, [changes.fold]
        hours = (hours_to(from_s), hours_to(to_s))
        for statement in FOLD_USE:
            yield statement, [hours] if hours[0] < hours[1] else []
    if changes.forget_minutes_s is not None:
        yield FORGET_MINUTES, [(changes.forget_minutes_s,)]


def select_sums(
    side: Side,
    piece: Slice,
    by: Sequence[str],
    bucket_s: int,
    named: Sequence[Named],
    without: Sequence[Named],
    limit: int,
) -> tuple[str, list[Cell]]:
    """Sums over one slice: the bucket, the columns of `by`, the measures.

    `named` are columns with the only values that are wanted, `without` with those that are not.
    """
    cells: list[Cell] = []
    columns = ["start_s - start_s % ?" if bucket_s else "0", *by]
    if bucket_s:
        cells.append(bucket_s)
    where = ["span_s = ?", "start_s >= ?", "start_s < ?"]
    cells += piece
    for word, pairs in (("IN", named), ("NOT IN", without)):
        for column, values in pairs:
            if values:
                where.append(f"{column} {word} ({', '.join('?' * len(values))})")
                cells += values
    # Without anything to tell apart, no row is still no row.
    group = ", ".join(str(at) for at in range(1, len(columns) + 1))
    cells.append(limit)
    return (
        f"SELECT {', '.join(columns)}, {side.sums} FROM {side.table} "  # noqa: S608
        f"WHERE {' AND '.join(where)} GROUP BY {group} LIMIT ?"
    ), cells


def select_paid(payees: int) -> str:
    """Those of so many payees, marked twice, that have ever been paid."""
    some = (
        f"SELECT DISTINCT payee FROM work_sum WHERE payee IN ({', '.join('?' * payees)}) "  # noqa: S608
        "AND span_s = "
    )
    unfolded = " AND start_s >= coalesce((SELECT to_s FROM folded), 0)"
    return f"{some}{LIFE_S} UNION {some}{MINUTE_S}{unfolded}"
