"""A whole ledger read from PostgreSQL, in one transaction that sees one moment.

The port is for plain functions in a thread, the driver is not: a loop of our own stands
between. Cursors stay on the server; a page of rows at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from market.accounting.chain import BatchRow
from market.accounting.chart import Account, Code
from market.accounting.rows import HoldRow, RequestRow
from market.accounting.state_rows import Row
from market.types import RequestId
from storage import postgres
from storage import statements as sql
from storage.database import MIGRATIONS, StorageError
from storage.ledger_rows import Journal, Meta, OpenHold
from storage.postgres import FAULTS, Address
from storage.postgres_migrations import revision_of
from storage.postgres_schema import schema_problems
from storage.private_loop import PrivateLoop
from storage.rollup_statements import SELECT_SUMS, Side

PAGE_ROWS: Final = 2_000

Result = TypeVar("Result")


class PostgresRows:
    """The `LedgerRows` port on one database."""

    def __init__(self, address: Address, scripts: Path = MIGRATIONS) -> None:
        """Connect and begin; raises StorageError with the reason and the fix."""
        self._address = address
        self._scripts = scripts
        self._closed = False
        self._loop = PrivateLoop()
        try:
            self._connection = self._loop.run(postgres.connect(address, "audit", read_only=True))
            self._run(self._begin())
        except BaseException:
            self._loop.close()
            raise

    async def _begin(self) -> None:
        await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def revision(self) -> str | None:
        return self._run(revision_of(self._connection, self._address, self._scripts))

    def findings(self, *, full: bool) -> Iterator[str]:
        revision = self.revision()
        if revision is not None:
            try:
                yield from schema_problems(
                    self._loop, self._connection, self._address, revision, self._scripts
                )
            except FAULTS as error:
                raise self._unreadable(error) from error
        if full:
            for setting in self._run(postgres.unsafe_settings(self._connection)):
                yield f"The server has {setting}: it may lose what it has acknowledged."

    def accounts(self) -> Iterator[Account]:
        for number, code, owner, *counters in self._query(sql.SELECT_ACCOUNTS):
            yield Account(number, Code(code), owner, *counters)

    def batches(self, after: int = 0) -> Iterator[BatchRow]:
        for row in self._query(sql.SELECT_BATCHES, after):
            yield BatchRow(*row)

    def journal(self, kind: Journal, after: int = 0) -> Iterator[tuple[Any, ...]]:
        return self._query(sql.SELECT_JOURNAL[kind], after)

    def ended(self, request_ids: Sequence[RequestId]) -> Iterator[RequestRow]:
        for row in self._query(sql.select_requests(len(request_ids)), *request_ids):
            yield RequestRow(*row)

    def holds(self) -> Iterator[OpenHold]:
        for *terms, crc, ended in self._query(sql.SELECT_HOLDS_TO_VERIFY):
            yield OpenHold(HoldRow(*terms), crc, ended)

    def state(self, kind: type[Row]) -> Iterator[Row]:
        for row in self._query(sql.SELECT_EVERY[kind]):
            yield kind(*row)

    def sums(self, side: Side, span_s: int) -> Iterator[tuple[Any, ...]]:
        return self._query(SELECT_SUMS[side.table], span_s)

    def meta(self) -> Meta | None:
        row = next(self._query(sql.SELECT_META), None)
        return None if row is None else Meta(*row)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.run(self._end())
            self._loop.close()

    async def _end(self) -> None:
        self._connection.terminate()  # a read-only transaction has nothing to be told

    def _query(self, statement: str, *cells: int | str) -> Iterator[tuple[Any, ...]]:
        cursor = self._run(self._open(sql.numbered(statement), cells))
        while page := self._run(cursor.fetch(PAGE_ROWS)):
            for row in page:
                yield tuple(row)

    async def _open(self, statement: str, cells: tuple[int | str, ...]) -> Any:
        return await self._connection.cursor(statement, *cells)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._loop.run(work)
        except FAULTS as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> StorageError:
        return postgres.refused(error, self._address, "read to its end")
