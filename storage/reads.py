"""The read side: finished requests of an account, one request by its id.

For gateways on the ledger's own node, and for the accountant's slow methods. Read only,
each query a transaction of its own, far below a second: a long reader would keep the WAL
from shrinking. Records leave this room, tables never do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import or_, select

from market.accounting.rows import RequestRow, Revenue
from market.accounting.state_rows import Cell, Row
from market.types import AccountId, RequestId
from storage import statements as sql
from storage.database import LEDGER_FILE, reader_engine

USAGE_MAX: Final = 1_000  # rows one answer may hold
ROWS_MAX: Final = 10_000  # state rows in one answer

_REQUEST: Final = sql.T["request"]
_COLUMNS: Final = [_REQUEST.c[name] for name in RequestRow._fields]
_CHARGED: Final = or_(_REQUEST.c.status == "settled", _REQUEST.c.cost_nano > 0)


def usage_rows(connection: sqlite3.Connection, owner: AccountId, limit: int) -> list[RequestRow]:
    """The owner's charged requests, newest first, at most USAGE_MAX of them."""
    bound = max(0, min(limit, USAGE_MAX))
    return [RequestRow(*row) for row in connection.execute(sql.SELECT_USAGE, (owner, bound))]


def state_rows(
    connection: sqlite3.Connection,
    kind: type[Row],
    *,
    limit: int,
    before_ns: int | None,
    equal: Mapping[str, Cell],
) -> list[Row]:
    """State rows whose columns have these values, newest first, at most ROWS_MAX of them."""
    query = sql.select_state(kind, equal, paged=before_ns is not None)
    page: tuple[int, ...] = () if before_ns is None else (before_ns,)
    bound = max(0, min(limit, ROWS_MAX))
    return [kind(*row) for row in connection.execute(query, (*equal.values(), *page, bound))]


def revenue_rows(connection: sqlite3.Connection, since_ns: int, limit: int) -> list[Revenue]:
    """Who earned from whom since then, over at most the `limit` newest requests.

    Requests are numbered in the order of their ends, so where `since_ns` begins is found by
    halving: the table has no index on time, and needs none.
    """
    low, high = 0, int(connection.execute(sql.SELECT_LAST_REQUEST).fetchone()[0])
    low = max(low, high - max(0, limit))
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(sql.SELECT_FINISHED_AFTER, (middle,)).fetchone()
        if row is not None and row[1] < since_ns:
            low = row[0]
        else:
            high = middle
    return [Revenue(*row) for row in connection.execute(sql.SELECT_REVENUE, (low,))]


class LedgerReads:
    """Reads of a ledger that another process writes."""

    def __init__(self, folder: Path) -> None:
        self._engine = reader_engine(folder / LEDGER_FILE)

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
