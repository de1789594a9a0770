"""The real store over an SQLite whose disk is ours: it records writes, or fails them.

`storage.ledger_store` runs as it is, its `_write` and its pragmas too; only the connection
underneath is another one. It comes from apsw, which lets a test be the file system, and it
locks exclusively, because shared memory cannot be simulated. Nothing here ever waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import apsw

from storage.database import _WRITER_PRAGMAS
from storage.ledger_store import SqliteLedgerStore, _claim

Result = TypeVar("Result")


class Rows:
    """The part of a cursor that the store uses."""

    def __init__(self, cursor: apsw.Cursor, changed: int) -> None:
        self._cursor = cursor
        self.rowcount = changed

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)


class LabConnection:
    """An apsw connection as `sqlite3` would offer it, errors included."""

    def __init__(self, raw: apsw.Connection) -> None:
        self.raw = raw

    def execute(self, statement: str, values: Iterable[Any] = ()) -> Rows:
        try:
            return Rows(self.raw.execute(statement, tuple(values)), self.raw.changes())
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    def executemany(self, statement: str, rows: Iterable[Iterable[Any]]) -> None:
        try:
            self.raw.executemany(statement, [tuple(row) for row in rows])
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    @property
    def in_transaction(self) -> bool:
        return not self.raw.get_autocommit()


class Direct:
    """Runs work on the caller's own thread, at once; for `LedgerConnection`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, work: Callable[[Any], Result]) -> Result:
        return work(self._connection)

    async def close(self) -> None:
        """Nothing: whoever made the connection ends it."""


def store_over(connection: Any, path: Path) -> SqliteLedgerStore:
    """The store on this connection, with the next epoch claimed."""
    runner: Any = Direct(connection)
    return SqliteLedgerStore(runner, runner, None, _claim(connection), path)


def plain_connection(path: Path) -> sqlite3.Connection:
    """The standard library's SQLite under the store's own pragmas."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name, value in _WRITER_PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={value}")
    return connection


def lab_connection(
    path: Path, disk: LabDisk, *, checkpoint_pages: int, **pragmas: object
) -> LabConnection:
    """An SQLite of its own on this disk, under the store's own pragmas unless told otherwise."""
    connection = LabConnection(apsw.Connection(str(path), vfs=disk.vfs_name))
    connection.execute("PRAGMA locking_mode=exclusive")
    for name, value in {**_WRITER_PRAGMAS, **pragmas}.items():
        connection.execute(f"PRAGMA {name}={value}")

    def checkpoint(raw: apsw.Connection, _: str, pages: int) -> int:
        # As SQLite does by itself: a commit is not undone by a checkpoint that fails after it.
        if pages >= checkpoint_pages:
            with suppress(apsw.Error):
                raw.wal_checkpoint()
        return apsw.SQLITE_OK

    connection.raw.set_wal_hook(checkpoint)
    return connection


@dataclass
class Act:
    """One thing SQLite asked of the disk: a write, a truncation or a sync of a file."""

    kind: str
    file: str
    at: int = 0
    data: bytes = b""


@dataclass
class LabDisk:
    """A disk that remembers every act, and from a chosen one on refuses all of a kind."""

    name: str
    acts: list[Act] = field(default_factory=list)
    refused: int = 0
    _left: int | None = None
    _kind: str = ""
    _error: type[apsw.Error] = apsw.FullError

    def __post_init__(self) -> None:
        self._vfs = _Vfs(self)

    @property
    def vfs_name(self) -> str:
        return f"lab-{self.name}"

    def refuse(self, kind: str, after: int, error: type[apsw.Error]) -> None:
        """Let `after` more acts of this kind pass, and fail every one that follows."""
        self._kind, self._left, self._error = kind, after, error

    def heed(self, act: Act) -> None:
        """Note the act, or fail it."""
        if self._left is not None and act.kind == self._kind:
            if self._left == 0:
                self.refused += 1
                raise self._error(f"the disk refuses to {act.kind}")
            self._left -= 1
        self.acts.append(act)


class _Vfs(apsw.VFS):
    def __init__(self, disk: LabDisk) -> None:
        self._disk = disk
        super().__init__(disk.vfs_name, "")

    def xOpen(  # noqa: N802  SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _File(self._disk, name, flags)


class _File(apsw.VFSFile):
    def __init__(
        self, disk: LabDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._disk = disk
        kinds = {apsw.SQLITE_OPEN_MAIN_DB: "", apsw.SQLITE_OPEN_WAL: "-wal"}
        self._kind = next((kinds[bit] for bit in kinds if flags[0] & bit), "-temporary")
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.heed(Act("write", self._kind, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.heed(Act("truncate", self._kind, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.heed(Act("sync", self._kind))
        super().xSync(flags)
