"""Where a market's books are: in its data folder, or in the database it was opened with.

`coster up --database URL` is remembered in the folder's secrets (a URL may hold a password), so
that later commands on the same folder look at the same books, whoever types them.
"""

from __future__ import annotations

from coster.paths import MarketPaths, write_private
from market.errors import InvalidRequest

DATABASE_FILE = "database"
HELP = "postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE instead of the data folder."


def database_of(paths: MarketPaths, given: str | None) -> str:
    """The URL that was given, else the one this folder was opened with, else "" for SQLite."""
    return given or paths.text_secret(DATABASE_FILE) or ""


def check_books(paths: MarketPaths, database: str) -> None:
    """Refuse books that cannot be opened or do not add up before anything starts.

    Remembers where they are.
    """
    from actors.accounting.auditing import verdict
    from storage.database import StorageError
    from storage.opening import audit_before_start, check_ledger

    try:
        check_ledger(paths.data, database)
        report = audit_before_start(paths.data, database)
        if report is not None and not report.ok:
            raise StorageError(verdict(report))
    except StorageError as error:
        raise InvalidRequest(
            str(error), "database" if database else "data", "data_unusable"
        ) from error
    if database:
        write_private(paths.secret_file(DATABASE_FILE), database + "\n")


def shown_books(paths: MarketPaths, database: str) -> str:
    """Where the books are, for people: without a password."""
    from storage.opening import name_of

    return name_of(paths.data, database) if database else str(paths.data)
