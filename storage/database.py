"""Opening the data folder: who may, at which version, and with which guarantees.

One process writes: it holds the folder's lock, migrates the schema and owns the only
read-write connection. (SQLite before 3.51.3 can corrupt a WAL file when two connections
write or checkpoint at the same instant, so a second one never exists.) Everybody else
reads through connections that cannot write.

Durability is a set of pragmas, and they are read back after being set: `WAL` with
`synchronous=FULL` survives a power cut, `NORMAL` loses acknowledged commits.
"""

from __future__ import annotations

import os
import shutil
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

from storage.durable import sync_to_disk

SQLITE_VERSION: Final = sqlite3.sqlite_version
LEDGER_FILE: Final = "ledger.sqlite3"
BACKUP_FOLDER: Final = "backups"
RESTORING_FILE: Final = "ledger.restoring"
BUSY_TIMEOUT_MS: Final = 5_000
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

PRIMARY_CODE: Final = 0xFF
"""Of SQLite's extended error codes, the part that says what kind it is."""
ROOM_BYTES: Final = 2**20
"""With less than this free on a disk, its faults are put down to that."""

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
    version: guessing at an unknown schema could lose money. New books get their name once they
    are whole, so a file that is empty is never one that was just begun.
    """
    _refuse_half_restored(path.parent)
    if path.exists():
        _migrate(path, now_ns, scripts)
        return
    draft = path.with_name(f".{path.name}.new")
    for left in path.parent.glob(f"{draft.name}*"):  # by a process that was ended
        left.unlink()
    _migrate(draft, now_ns, scripts)
    draft.rename(path)
    sync_to_disk(path.parent)


def _migrate(path: Path, now_ns: int, scripts: Path) -> None:
    existed = path.exists()
    engine = migration_engine(path)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            tables = connection.exec_driver_sql(_COUNT_TABLES).scalar_one()
            head = _refuse_unknown(path, current, tables, scripts)
        if current == head:
            return
        if existed and current is None:
            raise emptied(path)
        if existed:
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
            if revision_of(connection, path) is None:
                raise emptied(path)
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


def emptied(path: Path) -> StorageError:
    """What to say of a file without any table: to begin anew there would forget everybody."""
    return StorageError(
        f"The ledger {path} is empty: all its tables are missing. {way_back(path)} If this market "
        "was never used, delete the file."
    )


def unreadable(path: Path, error: Exception, what: str = "cannot be opened") -> StorageError:
    """What to say of a ledger that SQLite cannot read, with what mends it."""
    # The message about a damaged schema may quote the damage.
    why = "its schema is damaged" if isinstance(error, UnicodeDecodeError) else str(error)
    return StorageError(f"The ledger {path} {what}: {why}. {remedy(path, error)}")


def remedy(path: Path, error: Exception) -> str:
    """What to do about a fault of SQLite or of the disk: a backup is for damage alone."""
    code = getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "Another program has locked it: end that one and try again; the books are sound."
    if code == sqlite3.SQLITE_FULL or _free_bytes(path.parent) < ROOM_BYTES:
        return "Make room on its disk and try again; nothing in the books is lost."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return "Give your user read and write access to it and to its folder."
    return f"Check that your user may read and write it. {way_back(path)}"


def _free_bytes(folder: Path) -> int:
    """What is free on its disk; plenty where nobody can say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return ROOM_BYTES


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
