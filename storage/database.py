"""Opening the data folder: who may, at which version, and with which guarantees.

One process writes: it holds the folder's lock, migrates the schema and owns the only
read-write connection. (SQLite before 3.51.3 can corrupt a WAL file when two connections
write or checkpoint at the same instant, so a second one never exists.) Everybody else
reads through connections that cannot write.

Durability is a set of pragmas, and they are read back after being set: `WAL` with
`synchronous=FULL` survives a power cut, `NORMAL` loses acknowledged commits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

SQLITE_VERSION: Final = sqlite3.sqlite_version
LEDGER_FILE: Final = "ledger.sqlite3"
LOCK_FILE: Final = "ledger.lock"
BACKUP_FOLDER: Final = "backups"
RESTORING_FILE: Final = "ledger.restoring"
BUSY_TIMEOUT_MS: Final = 5_000
LOCK_POLL_S: Final = 0.1
MIGRATIONS: Final = Path(__file__).parent / "migrations"

_WRITER_PRAGMAS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL
    "fullfsync": 1,  # macOS: fsync alone does not reach the platter
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
}

_COUNT_TABLES: Final = (
    "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name <> 'alembic_version' "
    "AND name NOT LIKE 'sqlite_%'"
)
_HAS_VERSION: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'"
_VERSION: Final = "SELECT version_num FROM alembic_version"

# A damaged schema is reported in a message that may itself not be UTF-8.
SQLITE_FAULTS: Final = (sqlite3.Error, UnicodeDecodeError)

# Alembic keeps the migration in progress in a global of its module.
ONE_MIGRATION: Final = threading.Lock()

Result = TypeVar("Result")


class StorageError(Exception):
    """The data cannot be opened or written. Says what, why and how to fix it."""


class Away(StorageError):
    """The database cannot be reached just now; the books are as they were. Try again."""


class Fenced(StorageError):
    """Another incarnation has taken over the ledger; this one must stop writing."""


def prepare_folder(folder: Path) -> None:
    """Make the data folder, private to its user; raises StorageError when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StorageError(
            f"The data folder {folder} cannot be used: {error.strerror}. "
            "Choose another one with --data, or give your user read and write access to it."
        ) from error


class FolderLock:
    """The right to write in a data folder: an exclusive `flock`, freed when we die."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._fd: int | None = None

    async def acquire(self, wait_s: float) -> None:
        """Take the lock, waiting for a predecessor that is just going away.

        Raises StorageError, naming the holder's pid, after `wait_s` seconds.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"The lock file {self._path} cannot be opened: {error.strerror}. "
                "Give your user read and write access to the data folder."
            ) from error
        attempts = max(1, int(wait_s / LOCK_POLL_S))
        for attempt in range(attempts):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < attempts:
                    await asyncio.sleep(LOCK_POLL_S)
        else:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StorageError(
                f"The ledger in {self._path.parent} is in use by the process {holder}. "
                "Stop that market first, or choose another folder with --data."
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the next one in. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def alembic_config(connection: Connection | None = None, scripts: Path = MIGRATIONS) -> Config:
    """Alembic, told where the migrations are; no file of its own is read."""
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def migration_engine(path: Path) -> Engine:
    """A short-lived writing engine whose DDL is transactional."""
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _no_implicit_begin(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin_immediate(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def migrate(path: Path, now_ns: int, scripts: Path = MIGRATIONS) -> None:
    """Bring the ledger to this program's schema, after a backup when there is something.

    Raises StorageError when the file is no database of ours or was written by a newer
    version: guessing at an unknown schema could lose money.
    """
    _refuse_half_restored(path.parent)
    existed = path.exists()
    engine = migration_engine(path)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            tables = connection.exec_driver_sql(_COUNT_TABLES).scalar_one()
            head = _refuse_unknown(path, current, tables, scripts)
        if current == head:
            return
        if existed and current is not None:
            _backup(path, f"{current}-{now_ns // 1_000_000_000}")
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection, scripts), "head")
    except SQLITE_FAULTS as error:
        raise unreadable(path, error) from error
    except Exception as error:
        # SQLAlchemy wraps the driver's error; anything else is a defect of a migration.
        cause = getattr(error, "orig", None)
        if isinstance(cause, SQLITE_FAULTS):
            raise unreadable(path, cause) from error
        raise
    finally:
        engine.dispose()
        if path.exists():
            path.chmod(0o600)


def check(folder: Path) -> None:
    """Look whether the ledger of this folder can be opened by this program, without opening it.

    Reads its head only, takes no lock and changes nothing, so it may run beside a market.
    Silent when there is no ledger yet; else raises StorageError when the file is no
    database, its schema is damaged, or a newer version has written it.
    """
    _refuse_half_restored(folder)
    path = folder / LEDGER_FILE
    try:
        exists = path.exists()
    except OSError as error:
        raise unreadable(path, error) from error
    if exists:
        connection = connect_read_only(path)
        try:
            revision_of(connection, path)
        finally:
            connection.close()


def revision_of(
    connection: sqlite3.Connection, path: Path, scripts: Path = MIGRATIONS
) -> str | None:
    """The schema version that a ledger says it has, None for an empty file.

    Raises StorageError when that version is not one of ours or cannot be read.
    """
    try:
        (tables,) = connection.execute(_COUNT_TABLES).fetchone()
        has_version = connection.execute(_HAS_VERSION).fetchone() is not None
        row = connection.execute(_VERSION).fetchone() if has_version else None
    except SQLITE_FAULTS as error:
        raise unreadable(path, error) from error
    current = None if row is None else str(row[0])
    _refuse_unknown(path, current, tables, scripts)
    return current


def _refuse_unknown(path: Path, current: str | None, tables: int, scripts: Path) -> str:
    return known_head(
        f"The ledger {path}",
        current,
        tables,
        scripts,
        elsewhere="choose another folder with --data",
        way_back=f"it is damaged. {way_back(path)}",
    )


def known_head(
    ledger: str,
    current: str | None,
    tables: int,
    scripts: Path,
    *,
    elsewhere: str,
    way_back: str,
) -> str:
    """The newest schema; raises StorageError when the ledger's own is none of ours.

    `tables` counts those that are not Alembic's. `ledger` opens the sentences of the error,
    which end with `elsewhere` and with what it may be instead of ours, and the `way_back`.
    """
    directory = ScriptDirectory.from_config(alembic_config(scripts=scripts))
    known = {script.revision for script in directory.walk_revisions()}
    head = directory.get_current_head()
    assert head is not None
    if current is not None and current not in known:
        raise StorageError(
            f"{ledger} was written by a newer version of coster (schema {current}; "
            f"this one knows up to {head}). Upgrade coster, or {elsewhere}."
        )
    if current is None and tables:
        raise StorageError(
            f"{ledger} holds tables but no schema version, so it is not a ledger that coster "
            f"wrote, or {way_back}"
        )
    return head


def unreadable(path: Path, error: Exception) -> StorageError:
    """What to say of a ledger that SQLite cannot read, with the way back."""
    # The message about a damaged schema may quote the damage.
    why = "its schema is damaged" if isinstance(error, UnicodeDecodeError) else str(error)
    return StorageError(
        f"The ledger {path} cannot be opened: {why}. Check that your user may read and write "
        f"it. {way_back(path)}"
    )


def way_back(path: Path) -> str:
    """What can truly be restored: the copies that lie beside the ledger."""
    folder = path.parent / BACKUP_FOLDER
    copies = sorted(folder.glob("*.sqlite3"), key=lambda copy: copy.stat().st_mtime_ns)
    ours = (
        f"restore your last backup with `coster ledger restore FILE` (the latest is {copies[-1]})"
        if copies
        else "restore your last backup with `coster ledger restore FILE` (coster has made none "
        "here)"
    )
    return f"If it is damaged, {ours}, or choose another folder with --data."


def _refuse_half_restored(folder: Path) -> None:
    if (folder / RESTORING_FILE).exists():
        raise StorageError(
            f"A restore of the ledger in {folder} was interrupted. Do the same `coster ledger "
            "restore` again: it finishes, and deletes nothing."
        )


def _backup(path: Path, label: str) -> None:
    folder = path.parent / BACKUP_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"ledger-{label}.sqlite3"
    connection = sqlite3.connect(path)
    try:
        connection.execute("VACUUM INTO ?", (str(copy),))
    finally:
        connection.close()
    copy.chmod(0o600)


class LedgerConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole transaction in one hop to its thread."""

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call `work` with the raw connection, on the connection's own thread.

        A caller that is cancelled while waiting has not cancelled the work.
        """
        result: Result = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


async def open_writer(path: Path) -> LedgerConnection:
    """The one read-write connection, with durability set and read back."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        for name, value in _WRITER_PRAGMAS.items():
            connection.execute(f"PRAGMA {name}={value}")
        for name, value in _WRITER_PRAGMAS.items():
            (found,) = connection.execute(f"PRAGMA {name}").fetchone()
            if found != value:
                connection.close()
                raise StorageError(
                    f"The ledger {path} cannot be opened safely: SQLite reports {name}={found} "
                    f"where {value} is required. Keep the data on a local disk."
                )
        return connection

    return await _opened(LedgerConnection(connect, 64), path)


async def open_reader(path: Path) -> LedgerConnection:
    """A connection that cannot write."""

    def connect() -> sqlite3.Connection:
        return connect_read_only(path)

    return await _opened(LedgerConnection(connect, 64), path)


async def _opened(connection: LedgerConnection, path: Path) -> LedgerConnection:
    try:
        await connection
    except SQLITE_FAULTS as error:
        raise unreadable(path, error) from error
    return connection


def read_only_uri(path: Path) -> str:
    """The file as SQLite opens it for reading only."""
    return f"{path.absolute().as_uri()}?mode=ro"


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A plain read-only connection, for verification; raises StorageError."""
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            read_only_uri(path), uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA query_only=1")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except SQLITE_FAULTS as error:
        if connection is not None:
            connection.close()
        raise unreadable(path, error) from error
    return connection


def reader_engine(path: Path) -> AsyncEngine:
    """An async engine for read queries: read only, transactions deferred."""

    async def connect(*_: Any, **__: Any) -> aiosqlite.Connection:
        return await open_reader(path)

    return create_async_engine(
        f"sqlite+aiosqlite:///{path}", async_creator=connect, pool_size=4, max_overflow=4
    )
