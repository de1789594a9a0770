"""Reads a whole ledger for the audit, without ever writing, while the market runs or after.

One read transaction gives one consistent picture. Rows stream in batch order, so memory
stays small however long the history is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from market.accounting.audit import Audit, BatchContents, VerifyReport
from market.accounting.chain import BatchRow
from market.accounting.chart import Account, Code
from market.accounting.rows import HoldRow
from storage import statements as sql
from storage.database import (
    LEDGER_FILE,
    MIGRATIONS,
    SQLITE_FAULTS,
    StorageError,
    connect_read_only,
    revision_of,
)
from storage.schema import schema_problems

_INTEGRITY_MAX: Final = 20  # findings asked of SQLite's own check


def verify(folder: Path, *, full: bool = True, scripts: Path = MIGRATIONS) -> VerifyReport:
    """Audit the ledger of a data folder.

    `full` also runs SQLite's own integrity check over every page and index. A file that
    cannot even be read is a finding, not an exception; a folder without a ledger raises
    StorageError. `scripts` are the migrations that say what its schema must be.
    """
    path = folder / LEDGER_FILE
    if not path.exists():
        raise StorageError(
            f"There is no ledger in {folder}. Name the market's data folder with --data."
        )
    return verify_file(path, full=full, scripts=scripts)


def verify_file(path: Path, *, full: bool = True, scripts: Path = MIGRATIONS) -> VerifyReport:
    """Audit one file, wherever it is: a copy or a backup too. See `verify`."""
    if not path.exists():
        raise StorageError(f"There is no ledger file {path}.")
    try:
        connection = connect_read_only(path)
    except StorageError as error:
        return _damaged([str(error)])
    problems: list[str] = []
    try:
        connection.execute("BEGIN")
        revision = revision_of(connection, path, scripts)
        if revision is None:
            return _damaged([f"The ledger {path} is empty: all its tables are missing."])
        problems = schema_problems(connection, revision, scripts)
        return _audit(connection, problems, full=full)
    except StorageError as error:
        return _damaged([str(error)])
    except (*SQLITE_FAULTS, ValueError, TypeError) as error:
        return _damaged([*problems, f"The ledger {path} cannot be read to its end: {error}."])
    finally:
        connection.close()


def _damaged(problems: list[str]) -> VerifyReport:
    report = VerifyReport()
    for problem in problems:
        report.add(problem)
    return report


def _audit(connection: sqlite3.Connection, problems: Iterable[str], *, full: bool) -> VerifyReport:
    audit = Audit(
        Account(number, Code(code), owner, *counters)
        for number, code, owner, *counters in connection.execute(sql.SELECT_ACCOUNTS)
    )
    for problem in problems:
        audit.report.add(problem)
    if full:
        for (finding,) in connection.execute(f"PRAGMA integrity_check({_INTEGRITY_MAX})"):
            if finding != "ok":
                audit.report.add(f"SQLite finds the file damaged: {finding}.")
    journals = {kind: _Journal(connection, kind) for kind in _JOURNALS}
    for row in connection.execute(sql.SELECT_BATCHES):
        batch = BatchRow(*row)
        for kind, journal in journals.items():
            for stray in journal.before(batch.number):
                audit.stray(kind, stray)
        contents = {kind: list(journal.of(batch.number)) for kind, journal in journals.items()}
        audit.batch(batch, BatchContents(**{f"{kind}s": rows for kind, rows in contents.items()}))
    for kind, journal in journals.items():
        for stray in journal.rest():
            audit.stray(kind, stray)
    for row in connection.execute(sql.SELECT_HOLDS_TO_VERIFY):
        *terms, crc, ended = row
        audit.hold(HoldRow(*terms), crc, ended=bool(ended))
    meta = connection.execute(sql.SELECT_META).fetchone()
    if meta is None:
        audit.report.add("The ledger's head is missing.")
    else:
        audit.head(meta[1], meta[2])
    return audit.finish()


_JOURNALS: Final = {
    kind: sql.select_rows(kind, columns, columns[0]) for kind, columns in sql.JOURNALS.items()
}


class _Journal:
    """One journal's rows in order, handed out batch by batch."""

    def __init__(self, connection: sqlite3.Connection, kind: str) -> None:
        self._rows: Iterator[tuple[Any, ...]] = iter(connection.execute(_JOURNALS[kind]))
        self._ahead: tuple[Any, ...] | None = next(self._rows, None)

    def _while(self, bound: float) -> Iterator[tuple[Any, ...]]:
        while self._ahead is not None and self._ahead[-2] <= bound:
            yield self._ahead
            self._ahead = next(self._rows, None)

    def before(self, number: int) -> Iterator[tuple[Any, ...]]:
        return self._while(number - 1)

    def of(self, number: int) -> Iterator[tuple[Any, ...]]:
        return self._while(number)

    def rest(self) -> Iterator[tuple[Any, ...]]:
        return self._while(float("inf"))
