"""What a ledger's schema must be: compared with what its migrations build, object by object.

The triggers, CHECKs and unique indexes are guards. A ledger that has lost one still adds
up today and may be rewritten tomorrow, so the audit looks at them too. The reference is
built in memory by the migrations themselves, up to the revision that the file names.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from alembic import command

from storage.database import MIGRATIONS, ONE_MIGRATION, alembic_config, migration_engine

_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
_IN_MEMORY = Path(":memory:")


class SchemaObject(NamedTuple):
    """A table, index, trigger… and the `words` that make it what it is."""

    kind: str
    name: str
    table: str
    words: tuple[str, ...]


Schema = dict[tuple[str, str, str], SchemaObject]
"""By kind, table and name."""

_MEDDLING = ("trigger", "rule")  # what may change rows on their way


def schema_problems(
    connection: sqlite3.Connection, revision: str, scripts: Path = MIGRATIONS
) -> list[str]:
    """What differs from the schema of this revision, in sentences that name it.

    Tables and indexes that an operator has added are nobody's harm; a trigger may be.
    """
    return list(differences(_expected(revision, scripts), _present(connection)))


def differences(wanted: Schema, found: Schema) -> Iterator[str]:
    """Sentences on what is missing, changed, or meddles though it is not ours."""
    for key, thing in wanted.items():
        where = "" if thing.kind in ("table", "function") else f" of the table {thing.table}"
        if key not in found:
            yield f"The {thing.kind} {thing.name}{where} is missing."
        elif found[key] != thing:
            yield f"The {thing.kind} {thing.name}{where} is not what the migrations made."
    for key, thing in found.items():
        if thing.kind in _MEDDLING and key not in wanted:
            where = f"of the table {thing.table}"
            yield f"The {thing.kind} {thing.name} {where} is not one of coster's."


@lru_cache(maxsize=8)
def _expected(revision: str, scripts: Path) -> Schema:
    engine = migration_engine(_IN_MEMORY)
    try:
        with ONE_MIGRATION, engine.begin() as connection:
            command.upgrade(alembic_config(connection, scripts), revision)
            rows = connection.exec_driver_sql(_OBJECTS).all()
    finally:
        engine.dispose()
    return _by_name([tuple(row) for row in rows])


def _present(connection: sqlite3.Connection) -> Schema:
    return _by_name(connection.execute(_OBJECTS).fetchall())


def _by_name(rows: list[tuple[str, ...]]) -> Schema:
    return {
        (kind, table, name): SchemaObject(kind, name, table, _words(kind, text or ""))
        for kind, name, table, text in rows
    }


def _words(kind: str, text: str) -> tuple[str, ...]:
    """The statement without what another release of a library may write differently.

    That is white space, quotes, capitals, and in a table the order of its constraints.
    """
    words = re.findall(r"\w+|[^\w\s\"`]", text.lower())
    return tuple(sorted(words) if kind == "table" else words)
