"""Reading the past beside the writer: sums from the rollups, pages of requests by their index.

Whatever one answer needs is read in one moment, so that folding, which moves minutes into
coarser rows, is either wholly seen or not at all. The text of the queries is the same for
SQLite and PostgreSQL; a store says only what a moment is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, get_args

from market.accounting.histories import (
    Bounds,
    JobPage,
    UsagePage,
    UseColumn,
    UseSum,
    UseWhere,
    WorkColumn,
    WorkSum,
    WorkWhere,
)
from market.accounting.periods import Slice, Stretch
from market.accounting.reading import UNFOLDED, check_count, use_slices, work_slices
from market.accounting.rollups import HOUR_S, MINUTE_S, Use, Work
from market.accounting.state_rows import Cell, FoldedRow
from market.accounting.statistics import ROWS_MAX
from market.types import AccountId, KeyId, MachineId, ModelId
from storage import history_pages as pages
from storage import rollup_statements as sql
from storage.rollup_statements import Named, Side

Read = Callable[[str, Sequence[Cell]], Awaitable[Sequence[Sequence[Any]]]]
Moment = Callable[[], AbstractAsyncContextManager[Read]]
"""Queries that all see the ledger as it is at one moment. Raises StorageError."""

_WORK_COLUMNS: Final[tuple[WorkColumn, ...]] = get_args(WorkColumn)
_USE_COLUMNS: Final[tuple[UseColumn, ...]] = get_args(UseColumn)


class RollupReads:
    """The `HistoryStore` port over SQL."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment

    async def work(
        self, stretch: Stretch, by: Sequence[WorkColumn], bucket_s: int, where: WorkWhere
    ) -> list[WorkSum]:
        named = [("model", where.models), ("machine", where.machines), ("payee", where.payees)]
        without = [("machine", where.without_machines)]
        async with self._moment() as read:
            slices = work_slices(stretch, bucket_s, await _folded(read))
            found = await _sums(read, sql.WORK, slices, by, bucket_s, named, without)
        return [
            WorkSum(start_s, model, machine, payee, Work(*measures))
            for start_s, (model, machine, payee), measures in _told(found, by, _WORK_COLUMNS)
        ]

    async def use(
        self, stretch: Stretch, by: Sequence[UseColumn], bucket_s: int, where: UseWhere
    ) -> list[UseSum]:
        named = [("model", where.models), ("key_id", where.keys), ("owner", where.owners)]
        async with self._moment() as read:
            slices = use_slices(stretch, bucket_s, await _folded(read))
            found = await _sums(read, sql.USE, slices, by, bucket_s, named, ())
        return [
            UseSum(start_s, model, key_id, owner, Use(*measures))
            for start_s, (model, key_id, owner), measures in _told(found, by, _USE_COLUMNS)
        ]

    async def work_since_s(self, payees: Sequence[AccountId]) -> int | None:
        async with self._moment() as read:
            found = [
                (await read(sql.WORK_SINCE, (payee, span_s)))[0][0]
                for payee in payees
                for span_s in (HOUR_S, MINUTE_S)
            ]
        return min((int(since_s) for since_s in found if since_s is not None), default=None)

    async def use_since_s(self, owner: AccountId) -> int | None:
        async with self._moment() as read:
            ((since_s,),) = await read(sql.USE_SINCE, (owner, HOUR_S))
        return None if since_s is None else int(since_s)

    async def minutes_within(self, begin_s: int, end_s: int, rows: int) -> int:
        async with self._moment() as read:
            found = await read(sql.SELECT_MINUTE, (begin_s, end_s, rows))
        return min(end_s, max(int(found[0][0]), begin_s + MINUTE_S)) if found else end_s

    async def bounds(self, begin_ns: int | None, end_ns: int | None) -> Bounds:
        async with self._moment() as read:
            return await pages.bounds(read, begin_ns, end_ns)

    async def usage(
        self,
        owner: AccountId,
        bounds: Bounds,
        models: Sequence[ModelId],
        keys: Sequence[KeyId],
        limit: int,
    ) -> UsagePage:
        async with self._moment() as read:
            return await pages.usage(read, owner, bounds, models, keys, limit)

    async def jobs(
        self,
        payees: Sequence[AccountId],
        bounds: Bounds,
        models: Sequence[ModelId],
        machines: Sequence[MachineId],
        limit: int,
    ) -> JobPage:
        async with self._moment() as read:
            return await pages.jobs(read, payees, bounds, models, machines, limit)


async def _folded(read: Read) -> FoldedRow:
    found = await read(sql.SELECT_FOLDED, ())
    return FoldedRow(1, *found[0]) if found else UNFOLDED


async def _sums(
    read: Read,
    side: Side,
    slices: Sequence[Slice],
    by: Sequence[str],
    bucket_s: int,
    named: Sequence[Named],
    without: Sequence[Named],
) -> dict[tuple[Any, ...], list[int]]:
    """What the slices add up to, by bucket and the columns of `by`."""
    found: dict[tuple[Any, ...], list[int]] = {}
    keys = 1 + len(by)
    for piece in slices:
        query, cells = sql.select_sums(side, piece, by, bucket_s, named, without, ROWS_MAX + 1)
        for row in await read(query, cells):
            key, measures = tuple(row[:keys]), row[keys:]
            have = found.get(key)
            found[key] = (
                list(measures)
                if have is None
                else [one + other for one, other in zip(have, measures, strict=True)]
            )
        check_count(len(found))
    return found


def _told(
    found: Mapping[tuple[Any, ...], list[int]], by: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...], list[int]]]:
    """Each sum with its bucket and the cells of all columns, "" for those not asked for."""
    for (start_s, *cells), measures in found.items():
        known = dict(zip(by, cells, strict=True))
        yield start_s, tuple(known.get(column, "") for column in columns), measures
