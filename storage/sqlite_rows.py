"""A whole ledger read from one SQLite file: a market's own, a copy or a backup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from market.accounting.chain import BatchRow
from market.accounting.chart import Account, Code
from market.accounting.rows import HoldRow, RequestRow
from market.accounting.state_rows import Row
from market.types import RequestId
from storage import statements as sql
from storage.database import (
    MIGRATIONS,
    SQLITE_FAULTS,
    StorageError,
    connect_read_only,
    revision_of,
    unreadable,
)
from storage.ledger_rows import Journal, Meta, OpenHold
from storage.rollup_statements import SELECT_SUMS, Side
from storage.schema import schema_problems

_INTEGRITY_MAX: Final = 20  # findings asked of SQLite's own check


class SqliteRows:
    """The `LedgerRows` port on one file. One read transaction, from opening to `close`."""

    def __init__(self, path: Path, scripts: Path = MIGRATIONS) -> None:
        """Open the file for reading only; raises StorageError.

        `scripts` are the migrations that say what its schema must be.
        """
        if not path.exists():
            raise StorageError(f"There is no ledger file {path}.")
        self._path = path
        self._scripts = scripts
        self._connection = connect_read_only(path)
        self._connection.execute("BEGIN")

    def revision(self) -> str | None:
        return revision_of(self._connection, self._path, self._scripts)

    def findings(self, *, full: bool) -> Iterator[str]:
        try:
            revision = self.revision()
            if revision is not None:
                yield from schema_problems(self._connection, revision, self._scripts)
        except SQLITE_FAULTS as error:
            raise self._unreadable(error) from error
        if full:
            for (finding,) in self._query(f"PRAGMA integrity_check({_INTEGRITY_MAX})"):
                if finding != "ok":
                    yield f"SQLite finds the file damaged: {finding}."

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
            yield OpenHold(HoldRow(*terms), crc, bool(ended))

    def state(self, kind: type[Row]) -> Iterator[Row]:
        for row in self._query(sql.SELECT_EVERY[kind]):
            yield kind(*row)

    def sums(self, side: Side, span_s: int) -> Iterator[tuple[Any, ...]]:
        return self._query(SELECT_SUMS[side.table], span_s)

    def meta(self) -> Meta | None:
        row = next(self._query(sql.SELECT_META), None)
        return None if row is None else Meta(*row)

    def close(self) -> None:
        self._connection.close()

    def _query(self, statement: str, *cells: int | str) -> Iterator[tuple[Any, ...]]:
        try:
            # No `yield from`: it would close the cursor, maybe after its connection.
            for row in self._connection.execute(statement, cells):  # noqa: UP028
                yield row
        except SQLITE_FAULTS as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StorageError:
        return unreadable(self._path, error, "cannot be read to its end")
