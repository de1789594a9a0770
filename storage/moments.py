"""What one moment of the ledger is for a reader: a transaction that only reads, and short.

Histories and figures have a connection of their own on SQLite, and at most a few of the
readers' sessions on PostgreSQL, so that a long question never stands before the short ones of
the hot path, and neither of them before the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from market.accounting.state_rows import Cell
from storage import postgres
from storage.database import LedgerConnection, StorageError
from storage.postgres import FAULTS, Address
from storage.rollup_reads import Read
from storage.statements import numbered

SESSIONS_MAX: Final = 2
"""PostgreSQL sessions that read the past at once; the others are the hot path's."""


class SqliteMoments:
    """Read transactions on one connection, one after the other."""

    def __init__(self, connection: LedgerConnection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Read]:
        async with self._turn:
            await self._run("BEGIN", ())
            try:
                yield self._run
            finally:
                await self._run("COMMIT", ())

    async def _run(self, query: str, cells: Sequence[Cell]) -> list[tuple[Any, ...]]:
        try:
            return await self._connection.run(
                lambda connection: connection.execute(query, cells).fetchall()
            )
        except sqlite3.Error as error:
            raise StorageError(f"The ledger {self._path} could not be read: {error}.") from error


class PostgresMoments:
    """Read transactions on the readers' sessions, few at once."""

    def __init__(self, readers: asyncpg.Pool, address: Address) -> None:
        self._readers = readers
        self._address = address
        self._turns = asyncio.Semaphore(SESSIONS_MAX)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Read]:
        async with self._turns:
            try:
                async with self._readers.acquire(timeout=postgres.ANSWER_S_MAX) as session:

                    async def read(query: str, cells: Sequence[Cell]) -> Sequence[Sequence[Any]]:
                        found: Sequence[Sequence[Any]] = await session.fetch(
                            numbered(query), *cells
                        )
                        return found

                    async with session.transaction(isolation="repeatable_read", readonly=True):
                        yield read
            except FAULTS as error:
                raise postgres.refused(error, self._address, "read") from error
