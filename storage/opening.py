"""The one front to the books, wherever they are kept: in the data folder or in PostgreSQL.

`database` is what `--database` says: "" is SQLite in the data folder, `sqlite:///FILE` one file
of its own (to read only: a copy or a backup), and a `postgresql+asyncpg://` URL a database.
The data folder is needed in any case: the pepper of the API keys is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic.script import ScriptDirectory

from market.accounting.audit import VerifyReport
from market.accounting.store import LedgerStore
from storage import database as sqlite
from storage.database import BACKUP_FOLDER, LEDGER_FILE, StorageError, prepare_folder
from storage.folder_lock import LOCK_FILE
from storage.ledger_rows import LedgerRows
from storage.ledger_store import SqliteLedgerStore
from storage.pepper import PEPPER_FILE, SECRETS_FOLDER
from storage.reads import LedgerReads
from storage.sqlite_rows import SqliteRows
from storage.verify import verify_file, verify_rows

SQLITE: Final = "sqlite:///"


def is_postgres(database: str) -> bool:
    """Whether the books are kept by a server; what is no such URL is a file's or nothing."""
    return bool(database) and not database.startswith(SQLITE)


async def open_ledger(
    data: Path, database: str, *, now_ns: int, lock_wait_s: float = 10.0
) -> LedgerStore:
    """Open the books for writing: lock, migrate, claim a new epoch.

    Waits `lock_wait_s` seconds for a predecessor to let go. Raises StorageError with the
    reason and the fix.
    """
    if not database:
        return await SqliteLedgerStore.open(data, now_ns=now_ns, lock_wait_s=lock_wait_s)
    from storage.postgres import Address
    from storage.postgres_store import PostgresLedgerStore

    prepare_folder(data)
    return await PostgresLedgerStore.open(
        Address.of(database), data / BACKUP_FOLDER, now_ns=now_ns, lock_wait_s=lock_wait_s
    )


def check_ledger(data: Path, database: str) -> None:
    """Raise StorageError unless this program can open the books; changes nothing.

    Books that do not exist yet are fine. A folder that holds books of its own is refused a
    database: nothing would move there, and the market would seem to have forgotten everything.
    """
    if not database:
        sqlite.check(data)
        _refuse_missing(data)
        return
    from storage.postgres import Address
    from storage.postgres_migrations import check

    address = Address.of(database)
    if (data / LEDGER_FILE).exists():
        raise StorageError(
            f"The data folder {data} already holds books of its own ({LEDGER_FILE}), which are "
            f"not moved to {address.name}. Choose another folder with --data, or leave out "
            "--database."
        )
    check(address)


def _refuse_missing(data: Path) -> None:
    """Books that were here and are gone: to begin anew would forget everybody without a word."""
    ledger, were = data / LEDGER_FILE, (data / LOCK_FILE, data / SECRETS_FOLDER / PEPPER_FILE)
    if not ledger.exists() and all(path.exists() for path in were):
        raise StorageError(
            f"The ledger {ledger} is missing, though a market has kept its books here. Put it "
            f"back. {sqlite.way_back(ledger)}"
        )


def open_rows(data: Path, database: str = "") -> LedgerRows:
    """The whole ledger for reading, as one consistent picture; close it. Raises StorageError."""
    if not is_postgres(database):
        return SqliteRows(_file(data, database))
    from storage.postgres import Address
    from storage.postgres_rows import PostgresRows

    return PostgresRows(Address.of(database))


def verify_ledger(
    data: Path, database: str = "", *, full: bool = True, rollups: bool = False
) -> VerifyReport:
    """Audit the books beside whoever writes them.

    `full` also counts the sums by time again, which `rollups` does alone, and asks the database
    for its own opinion of the storage. Books that cannot be read
    are a finding, not an exception; StorageError is raised where there are none, and for a
    server that cannot be reached.
    """
    if not is_postgres(database):
        return verify_file(_file(data, database), full=full, rollups=rollups)
    rows = open_rows(data, database)
    try:
        return verify_rows(rows, name_of(data, database), full=full, rollups=rollups)
    finally:
        rows.close()


def audit_before_start(data: Path, database: str = "") -> VerifyReport | None:
    """What the accountant will find when it opens these books; None when it makes them first.

    Books of an older schema are brought forward before they can be audited, so they are left
    to it too. Reads only what is new since the last audit.
    """
    if not (is_postgres(database) or (data / LEDGER_FILE).exists()):
        return None
    rows = open_rows(data, database)
    try:
        newest = ScriptDirectory.from_config(sqlite.alembic_config()).get_current_head()
        if rows.revision() != newest or rows.meta() is None:
            return None
        return verify_rows(rows, name_of(data, database), full=False)
    finally:
        rows.close()


def open_reads(data: Path, database: str = "") -> LedgerReads:
    """Short read queries beside the writer; connects when first asked."""
    if not is_postgres(database):
        return LedgerReads(sqlite.reader_engine(_file(data, database)))
    from storage import postgres

    address = postgres.Address.of(database)
    return LedgerReads(postgres.engine(address, "reading", read_only=True))


def check_url(database: str) -> None:
    """Raise StorageError unless books could be kept there; asks nobody."""
    if database:
        from storage.postgres import Address

        Address.of(database)


def name_of(data: Path, database: str = "") -> str:
    """The books' place, without a password."""
    if not is_postgres(database):
        return str(_file(data, database))
    from storage.postgres import Address

    return Address.of(database).name


def _file(data: Path, database: str) -> Path:
    """The SQLite file; raises StorageError when there is none."""
    path = Path(database.removeprefix(SQLITE)) if database else data / LEDGER_FILE
    if not path.exists():
        raise StorageError(
            f"There is no ledger file {path}."
            if database
            else f"There is no ledger in {data}. Name the market's data folder with --data."
        )
    return path
