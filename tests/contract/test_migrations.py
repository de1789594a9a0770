"""The schema: migrations and tables agree, both ways, and the statements fit the rows."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from market.accounting.chain import OPTIONAL
from market.accounting.rows import HoldRow
from storage.database import (
    BACKUP_FOLDER,
    LEDGER_FILE,
    MIGRATIONS,
    StorageError,
    alembic_config,
    migrate,
    migration_engine,
)
from storage.state_tables import STATE_TABLES
from storage.statements import JOURNALS
from storage.tables import metadata
from storage.verify import verify
from tests.support.ledger_bench import start


def schema(path: Path) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema "
        "WHERE name <> 'alembic_version' AND name NOT LIKE 'sqlite_%' ORDER BY type, name"
    ).fetchall()
    connection.close()
    return rows


def run(path: Path, step: str, revision: str) -> None:
    engine = migration_engine(path)
    with engine.begin() as connection:
        getattr(command, step)(alembic_config(connection), revision)
    engine.dispose()


def test_up_down_and_up_again_is_the_same_schema(tmp_path: Path) -> None:
    """A downgrade leaves nothing behind, and upgrading once more gives the same tables."""
    path = tmp_path / LEDGER_FILE
    run(path, "upgrade", "head")
    first = schema(path)
    run(path, "downgrade", "base")
    assert schema(path) == []
    run(path, "upgrade", "head")

    assert schema(path) == first
    assert len(first) > 20


def test_the_tables_are_what_the_migrations_build(tmp_path: Path) -> None:
    """Autogenerate finds nothing to do, and every CHECK and STRICT is there too."""
    path = tmp_path / LEDGER_FILE
    run(path, "upgrade", "head")
    engine = migration_engine(path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    built = tmp_path / "built.sqlite3"
    engine = migration_engine(built)
    metadata.create_all(engine)
    engine.dispose()

    def words(file: Path) -> dict[str, list[str]]:
        """Each table's constraints, whatever their order."""
        return {
            name: sorted(re.findall(r"[^\s,()]+", sql))
            for kind, name, sql in schema(file)
            if kind == "table"
        }

    assert words(path) == words(built)
    assert all("STRICT" in " ".join(lines) for lines in words(path).values())


def test_rows_have_the_columns_of_their_tables() -> None:
    """Tuples are written as they are, so field order is column order."""
    columns = {name: [c.name for c in table.columns] for name, table in metadata.tables.items()}

    for kind, table in STATE_TABLES.items():
        assert columns[table.name] == list(kind._fields)
    for journal, sealed in JOURNALS.items():
        younger = OPTIONAL.get(journal, 0)
        fields = sealed[:-2]
        old = [*fields[: len(fields) - younger], "batch", "crc", *fields[len(fields) - younger :]]
        assert [name for name in columns[journal] if name in sealed] == old
    assert set(HoldRow._fields) < set(columns["hold"])


NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9999", "0004", None, None


def upgrade():
    op.create_table("novelty", sa.Column("x", sa.Integer()))


def downgrade():
    op.drop_table("novelty")
"""


async def test_an_older_ledger_is_migrated_after_a_backup(tmp_path: Path) -> None:
    """The next version's program keeps the old file beside, then changes only the schema."""
    data, scripts = tmp_path / "data", tmp_path / "migrations"
    await make(data)
    shutil.copytree(MIGRATIONS, scripts)
    (scripts / "versions" / "9999_next.py").write_text(NEXT)
    before = verify(data)

    migrate(data / LEDGER_FILE, 1_800_000_000 * 10**9, scripts)

    assert verify(data, scripts=scripts) == before
    assert "novelty" in [name for _, name, _ in schema(data / LEDGER_FILE)]
    (backup,) = (data / BACKUP_FOLDER).iterdir()
    assert backup.name == "ledger-0004-1800000000.sqlite3"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert "novelty" not in [name for _, name, _ in schema(backup)]


async def test_a_ledger_from_the_future_is_left_alone(tmp_path: Path) -> None:
    """The program of today refuses what the next one wrote, and changes nothing."""
    data, scripts = tmp_path / "data", tmp_path / "migrations"
    await make(data)
    shutil.copytree(MIGRATIONS, scripts)
    (scripts / "versions" / "9999_next.py").write_text(NEXT)
    migrate(data / LEDGER_FILE, 0, scripts)
    before = (data / LEDGER_FILE).read_bytes()

    with pytest.raises(StorageError, match="newer version"):
        migrate(data / LEDGER_FILE, 0)
    assert (data / LEDGER_FILE).read_bytes() == before


async def make(data: Path) -> None:
    await (await start(data)).accountant.stop()


async def test_an_up_to_date_ledger_is_not_copied(tmp_path: Path) -> None:
    """A plain restart makes no backup."""
    for _ in range(2):
        await make(tmp_path / "data")

    assert not (tmp_path / "data" / BACKUP_FOLDER).exists()
