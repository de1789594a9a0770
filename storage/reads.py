"""The read side: finished requests of an account, one request by its id.

For gateways on the ledger's own node, and for the accountant's slow methods. Read only,
each query a transaction of its own, far below a second: a long reader would keep the WAL
from shrinking. Records leave this room, tables never do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import or_, select

from market.accounting.rows import Earned, RequestRow
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


def earned_rows(connection: sqlite3.Connection, payees: Sequence[AccountId], limit: int) -> Earned:
    """What the payees were paid for requests, with at most USAGE_MAX of those, newest first."""
    totals, newest = sql.select_earned(len(payees))
    total_nano, jobs = connection.execute(totals, tuple(payees)).fetchone()
    bound = max(0, min(limit, USAGE_MAX))
    rows = [RequestRow(*row) for row in connection.execute(newest, (*payees, bound))]
    return Earned(total_nano, jobs, tuple(rows))


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
