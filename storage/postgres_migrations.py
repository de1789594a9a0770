"""Bringing a PostgreSQL ledger to this program's schema, after a copy when there is something.

The writer's lock is held meanwhile by the session that asked. A migration is one transaction.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import asyncpg  # type: ignore[import-untyped]
from alembic import command
from sqlalchemy import URL, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage import postgres
from storage.database import (
    MIGRATIONS,
    ONE_MIGRATION,
    StorageError,
    alembic_config,
    known_head,
)
from storage.postgres import FAULTS, Address
from storage.private_loop import PrivateLoop

BACKUP_S_MAX: Final = 3_600.0
_COUNT_TABLES: Final = (
    "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() "
    "AND tablename <> 'alembic_version'"
)
_HAS_VERSION: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"
_VERSION: Final = "SELECT version_num FROM alembic_version"


def migrate(address: Address, now_ns: int, backups: Path, scripts: Path = MIGRATIONS) -> None:
    """Bring the ledger to the newest schema of `scripts`; call it with the writer's lock held.

    A ledger that exists is dumped into `backups` first. Raises StorageError when it is not
    ours, was written by a newer version, or cannot be dumped: then it is left as it is.
    """
    with PrivateLoop() as loop:
        current, head = loop.run(_revision(address, scripts))
        if current == head:
            return
        if current is not None:
            backups.mkdir(mode=0o700, parents=True, exist_ok=True)
            dump(address, backups / f"ledger-{current}-{now_ns // 1_000_000_000}.dump")
        with ONE_MIGRATION:
            loop.run(upgrade(address, scripts))


def check(address: Address, scripts: Path = MIGRATIONS) -> None:
    """Look whether this program can open the ledger, without opening it for writing.

    Takes no lock and changes nothing, so it may run beside a market. Silent when the database
    is still empty; else raises StorageError with the reason and the fix.
    """

    async def look() -> None:
        connection = await postgres.connect(address, "check", read_only=True)
        try:
            await postgres.check_server(connection, address)
            await revision_of(connection, address, scripts)
        except FAULTS as error:
            raise postgres.refused(error, address, "read") from error
        finally:
            connection.terminate()

    with PrivateLoop() as loop:
        loop.run(look())


async def revision_of(
    connection: asyncpg.Connection, address: Address, scripts: Path = MIGRATIONS
) -> str | None:
    """The schema version that a ledger says it has, None for an empty database.

    Raises StorageError when that version is not one of ours.
    """
    tables = await connection.fetchval(_COUNT_TABLES)
    versioned = await connection.fetchval(_HAS_VERSION)
    current: str | None = await connection.fetchval(_VERSION) if versioned else None
    _newest(address, current, tables, scripts)
    return current


def _newest(address: Address, current: str | None, tables: int, scripts: Path) -> str:
    return known_head(
        f"The ledger {address.name}",
        current,
        tables,
        scripts,
        elsewhere="give this one a database of its own",
        way_back="it is damaged: then restore your last backup. Else give the market a database "
        "of its own.",
    )


async def _revision(address: Address, scripts: Path) -> tuple[str | None, str]:
    connection = await postgres.connect(address, "migration", read_only=True)
    try:
        current = await revision_of(connection, address, scripts)
        return current, _newest(address, current, 0, scripts)
    except FAULTS as error:
        raise postgres.refused(error, address, "read") from error
    finally:
        connection.terminate()


async def upgrade(address: Address, scripts: Path = MIGRATIONS) -> None:
    """Run the migrations in one transaction."""

    def run(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        command.upgrade(alembic_config(connection, scripts), "head")

    engine = postgres.engine(address, "migration")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    except DBAPIError as error:
        raise postgres.refused(cause_of(error), address, "migrated") from error
    finally:
        await engine.dispose()


def cause_of(error: DBAPIError) -> BaseException:
    """The driver's own error below SQLAlchemy's two."""
    return getattr(error.orig, "__cause__", None) or error.orig or error


# ── a copy ────────────────────────────────────────────────────────────────────────────


def dump(address: Address, target: Path) -> None:
    """Copy the whole database into one file (`pg_dump` custom format, 0600).

    `pg_restore` reads it. The password travels in the environment, not on the command line.
    Raises StorageError when there is no `pg_dump` or it fails; the file is then not there.
    """
    program = _pg_dump()
    if program is None:
        raise StorageError(
            f"The ledger {address.name} cannot be copied: pg_dump is not installed here. Install "
            "PostgreSQL's client programs of the server's version (Debian: postgresql-client; "
            "macOS: libpq) and do it again."
        )
    plain, secret = _without_password(address)
    draft = target.with_name(f"{target.name}.part")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        done = subprocess.run(  # noqa: S603 - a program of ours with words of ours
            [program, "--format=custom", "--no-password", f"--file={draft}", f"--dbname={plain}"],
            env={**os.environ, **secret},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BACKUP_S_MAX,
            check=False,
        )
        if done.returncode:
            reason = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
            raise StorageError(
                f"The ledger {address.name} could not be copied to {target.parent} by {program}: "
                f"{reason}. Nothing was changed."
            )
        draft.replace(target)
    except subprocess.TimeoutExpired as error:
        raise StorageError(
            f"The ledger {address.name} was not copied to {target.parent} within "
            f"{BACKUP_S_MAX:.0f} s. Nothing was changed."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _without_password(address: Address) -> tuple[str, dict[str, str]]:
    """The address as others may see it, and the environment that completes it."""
    url = make_url(address.dsn)
    query = dict(url.query)
    in_query = query.pop("password", None)
    word = url.password or in_query
    plain = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
    return plain.render_as_string(), {} if word is None else {"PGPASSWORD": str(word)}


def _pg_dump() -> Path | None:
    """The newest `pg_dump` of Debian's packages, else the one on the PATH."""
    found = {
        int(path.parts[-3]): path
        for path in Path("/usr/lib/postgresql").glob("*/bin/pg_dump")
        if re.fullmatch(r"\d+", path.parts[-3])
    }
    on_path = shutil.which("pg_dump")
    return found[max(found)] if found else Path(on_path) if on_path else None
