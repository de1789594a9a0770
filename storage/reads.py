"""The read side: finished requests of an account, one request by its id.

For whoever is not the accountant, and for its slow methods. Read only, each query a
transaction of its own, far below a second: a long reader would keep SQLite's WAL from
shrinking, and PostgreSQL from tidying up. Records leave this room, tables never do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from market.accounting.ledger import PROMO_LEG
from market.accounting.rows import (
    AccountRow,
    CheckpointRow,
    HoldRow,
    OperationRow,
    RequestRow,
    Revenue,
    Snapshot,
)
from market.accounting.state_rows import LOADED, Cell, StateRow
from market.types import AccountId, RequestId
from storage import statements as sql

USAGE_MAX: Final = 1_000  # rows one answer may hold
ROWS_MAX: Final = 10_000  # state rows in one answer

_REQUEST: Final = sql.T["request"]
_COLUMNS: Final = [_REQUEST.c[name] for name in RequestRow._fields]
_CHARGED: Final = or_(_REQUEST.c.status == "settled", _REQUEST.c.cost_nano > 0)
_TERMS: Final = len(HoldRow._fields)

LOAD: Final = (
    sql.SELECT_META,
    sql.SELECT_ACCOUNTS,
    sql.SELECT_HOLDS,
    sql.SELECT_OPERATIONS,
    *(sql.SELECT_LIVE[kind] for kind in LOADED),
)
"""The queries whose answers are a `Snapshot`."""


def snapshot_of(found: Mapping[str, Sequence[Sequence[Any]]]) -> Snapshot:
    """The present state, from the rows that each query of LOAD has found."""
    ((_, _, _, last_ts_ns),) = found[sql.SELECT_META]
    return Snapshot(
        state=tuple(kind(*row) for kind in LOADED for row in found[sql.SELECT_LIVE[kind]]),
        accounts=tuple(
            (AccountRow(*row[:3]), (row[3], row[4], row[5], row[6]))
            for row in found[sql.SELECT_ACCOUNTS]
        ),
        holds=tuple(
            (HoldRow(*row[:_TERMS]), CheckpointRow(*row[_TERMS:]))
            for row in found[sql.SELECT_HOLDS]
        ),
        operations=tuple(OperationRow(*row) for row in found[sql.SELECT_OPERATIONS]),
        last_ts_ns=last_ts_ns,
    )


def usage_query(owner: AccountId, limit: int) -> tuple[str, tuple[Cell, ...]]:
    """The owner's charged requests, newest first, at most USAGE_MAX of them."""
    return sql.SELECT_USAGE, (owner, max(0, min(limit, USAGE_MAX)))


def rows_query(
    kind: type[StateRow],
    *,
    limit: int,
    before_ns: int | None,
    by: str,
    equal: Mapping[str, Cell],
) -> tuple[str, tuple[Cell, ...]]:
    """State rows whose columns have these values, newest first, at most ROWS_MAX of them."""
    query = sql.select_state(kind, equal, by=by, paged=before_ns is not None)
    page: tuple[int, ...] = () if before_ns is None else (before_ns,)
    return query, (*equal.values(), *page, max(0, min(limit, ROWS_MAX)))


Read = Callable[[str, Sequence[Cell]], Awaitable[Sequence[Sequence[Any]]]]
"""One query of a store's own, with its cells."""


async def promo_paid_of(read: Read, owner: AccountId, payee: AccountId) -> int:
    """What this owner's promo credit has ever paid to that payee, in nano-USD."""
    ((whole_nano,),) = await read(sql.SELECT_PROMO_PAID, (payee, owner, PROMO_LEG))
    ((parts_nano,),) = await read(sql.SELECT_PROMO_DELIVERED, (PROMO_LEG, payee, owner))
    return int(whole_nano) + int(parts_nano)


async def revenue_of(read: Read, since_ns: int, limit: int) -> list[Revenue]:
    """Who earned from whom since then, over at most the `limit` newest requests.

    Requests are numbered in the order of their ends, so where `since_ns` begins is found by
    halving: the table has no index on time, and needs none.
    """
    low, high = 0, int((await read(sql.SELECT_LAST_REQUEST, ()))[0][0])
    low = max(low, high - max(0, limit))
    while low < high:
        middle = (low + high) // 2
        found = await read(sql.SELECT_FINISHED_AFTER, (middle,))
        if found and found[0][1] < since_ns:
            low = found[0][0]
        else:
            high = middle
    sums: Counter[tuple[AccountId, AccountId]] = Counter()
    for query in (sql.SELECT_REVENUE, sql.SELECT_REVENUE_DELIVERED):
        for payee, owner, earned_nano in await read(query, (low,)):
            sums[payee, owner] += int(earned_nano)
    return [Revenue(payee, owner, nano) for (payee, owner), nano in sums.items()]


class LedgerReads:
    """Reads of a ledger that another process writes. `storage.opening` makes one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def usage(self, owner: AccountId, limit: int) -> list[RequestRow]:
        """The owner's charged requests, newest first, at most USAGE_MAX of them."""
        query = (
            select(*_COLUMNS)
            .where(_REQUEST.c.owner == owner, _CHARGED)
            .order_by(_REQUEST.c.seq.desc())
            .limit(max(0, min(limit, USAGE_MAX)))
        )
        async with self._engine.connect() as connection:
            return [RequestRow(*row) for row in await connection.execute(query)]

    async def generation(self, request_id: RequestId) -> RequestRow | None:
        """One finished request, whoever owns it: the caller checks that."""
        query = select(*_COLUMNS).where(_REQUEST.c.request_id == request_id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else RequestRow(*row)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._engine.dispose()
