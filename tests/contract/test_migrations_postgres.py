"""The schema on PostgreSQL: both ways, the same as the tables, and never changed uncopied."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection

from storage import postgres as connections
from storage import postgres_migrations
from storage.database import BACKUP_FOLDER, MIGRATIONS, StorageError, alembic_config
from storage.opening import check_ledger
from storage.postgres import Address
from storage.postgres_migrations import dump, migrate
from storage.postgres_schema import OBJECTS
from storage.postgres_store import PostgresLedgerStore
from storage.tables import metadata
from tests.contract.test_migrations import NEXT
from tests.support.places import Place
from tests.support.postgres import Postgres, binaries


@pytest.fixture
async def empty(postgres: Postgres) -> Address:
    """A database in which nothing was ever done."""
    return Address.of(postgres.url(await postgres.new_database()))


async def within(address: Address, work: Callable[[Connection], Any]) -> Any:
    engine = connections.engine(address, "test")
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def objects(connection: Connection) -> list[tuple[str, ...]]:
    """Everything in the schema, whoever made it."""
    rows = connection.exec_driver_sql(OBJECTS).all()
    return sorted(tuple(row) for row in rows if "alembic_version" not in row)


async def test_up_down_and_up_again_is_the_same_schema(empty: Address) -> None:
    """A downgrade leaves nothing behind, function included, and the way up is repeatable."""

    def there_and_back(connection: Connection) -> list[list[tuple[str, ...]]]:
        config, seen = alembic_config(connection), []
        for step, revision in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head")):
            getattr(command, step)(config, revision)
            seen.append(objects(connection))
        return seen

    first, none, again = await within(empty, there_and_back)

    assert none == []
    assert again == first
    assert len([kind for kind, *_ in first if kind == "trigger"]) == 19
    assert ("function", "coster_refuse") in [row[:2] for row in first]


async def test_the_tables_are_what_the_migrations_build(empty: Address, postgres: Postgres) -> None:
    """Autogenerate finds nothing to do; columns, CHECKs and indexes are the tables' own."""

    def up(connection: Connection) -> list[tuple[str, ...]]:
        command.upgrade(alembic_config(connection), "head")
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        return objects(connection)

    def create(connection: Connection) -> list[tuple[str, ...]]:
        metadata.create_all(connection)
        return objects(connection)

    migrated = await within(empty, up)
    other = Address.of(postgres.url(await postgres.new_database()))

    assert await within(other, create) == [
        row for row in migrated if row[0] not in ("trigger", "function")
    ]


@pytest.fixture
async def older(database: str, tmp_path: Path) -> tuple[Place, Path]:
    """A ledger with a customer, and the migrations of a program that is one step ahead."""
    place = Place(tmp_path / "data", database)
    await (await place.start()).accountant.stop()
    scripts = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, scripts)
    (scripts / "versions" / "9999_next.py").write_text(NEXT)
    return place, scripts


async def test_an_older_ledger_is_migrated_after_a_dump(
    older: tuple[Place, Path], postgres: Postgres, tmp_path: Path
) -> None:
    """The next version's program keeps a copy that can be restored, then changes the schema."""
    place, scripts = older
    address, backups = Address.of(place.database), place.data / BACKUP_FOLDER
    before = place.verify()

    await asyncio.to_thread(migrate, address, 1_800_000_000 * 10**9, backups, scripts)

    (copy,) = backups.iterdir()
    assert copy.name == "ledger-0004-1800000000.dump"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert await within(address, has_novelty)
    restored = Place(tmp_path / "other", postgres.url(await postgres.new_database()))
    programs, plain = binaries(), Address.of(restored.database)
    assert programs is not None
    words = [programs / "pg_restore", "--no-owner", "-d", plain.dsn, copy]
    await asyncio.to_thread(subprocess.run, words, check=True)
    assert not await within(plain, has_novelty)
    assert restored.verify() == before


def has_novelty(connection: Connection) -> bool:
    return bool(
        connection.exec_driver_sql("SELECT to_regclass('novelty') IS NOT NULL").scalar_one()
    )


async def test_without_a_copy_nothing_is_changed(
    older: tuple[Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no pg_dump, or it fails, the schema stays and the reason is told."""
    place, scripts = older
    address, backups = Address.of(place.database), place.data / BACKUP_FOLDER

    for program, sentence in ((None, "pg_dump is not installed"), (Path("/bin/false"), "copied")):
        monkeypatch.setattr(postgres_migrations, "_pg_dump", lambda program=program: program)
        with pytest.raises(StorageError, match=sentence):
            await asyncio.to_thread(migrate, address, 0, backups, scripts)
    assert not await within(address, has_novelty)
    assert list(backups.iterdir()) == []
    assert place.verify().problems == []


async def test_a_password_is_on_nobodys_command_line(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that copies gets it in its environment, wherever in the URL it was."""
    said, program = tmp_path / "said", tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\necho "$PGPASSWORD" >> {said}\n')
    program.chmod(0o700)
    monkeypatch.setattr(postgres_migrations, "_pg_dump", lambda: program)
    plain, query = (
        postgres.url("x"),
        "postgresql+asyncpg://coster@h/x?password=w0rd&sslmode=require",
    )

    for url, word in ((plain, postgres.password), (query, "w0rd")):
        await asyncio.to_thread(dump, Address.of(url), tmp_path / "copy")
        words, environment = said.read_text().splitlines()
        assert word not in words
        assert environment == word
    assert "sslmode=require" in words


async def test_a_failing_migration_changes_nothing(older: tuple[Place, Path]) -> None:
    """All steps are one transaction; the error says what the server said."""
    place, scripts = older
    create = 'op.create_table("novelty", sa.Column("x", sa.Integer()))'
    broken = NEXT.replace(create, 'op.drop_table("batch"); op.drop_table("nowhere")')
    (scripts / "versions" / "9999_next.py").write_text(broken)

    with pytest.raises(StorageError, match="could not be migrated"):
        await asyncio.to_thread(
            migrate, Address.of(place.database), 0, place.data / BACKUP_FOLDER, scripts
        )
    assert place.verify().problems == []


async def test_a_ledger_from_the_future_is_left_alone(older: tuple[Place, Path]) -> None:
    """The program of today refuses what the next one wrote: to look at it and to open it."""
    place, scripts = older
    address = Address.of(place.database)
    await asyncio.to_thread(migrate, address, 0, place.data / BACKUP_FOLDER, scripts)

    with pytest.raises(StorageError, match=r"newer version of coster \(schema 9999;"):
        check_ledger(place.data, place.database)
    with pytest.raises(StorageError, match="newer version"):
        await PostgresLedgerStore.open(address, place.data, now_ns=1)
    assert "newer version" in place.verify().problems[0]


async def test_a_database_of_something_else_is_left_alone(empty: Address, tmp_path: Path) -> None:
    """Tables without a schema version are not ours to add to; an empty database is welcome."""
    url = empty.dsn.replace("postgresql://", "postgresql+asyncpg://")
    check_ledger(tmp_path, url)
    await within(empty, lambda c: c.exec_driver_sql("CREATE TABLE photos (x int)"))

    with pytest.raises(StorageError, match="not a ledger that coster wrote"):
        check_ledger(tmp_path, url)
    with pytest.raises(StorageError, match="not a ledger that coster wrote"):
        await PostgresLedgerStore.open(empty, tmp_path, now_ns=1)


async def test_an_up_to_date_ledger_is_not_copied(database: str, tmp_path: Path) -> None:
    """A plain restart makes no dump."""
    place = Place(tmp_path / "data", database)
    for _ in range(2):
        await (await place.start()).accountant.stop()

    assert not (place.data / BACKUP_FOLDER).exists()
