"""What a ledger's schema must be: compared with what its migrations build, object by object.

The triggers, CHECKs and unique indexes are guards. A ledger that has lost one still adds
up today and may be rewritten tomorrow, so the audit looks at them too. The reference is
built in memory by the migrations themselves, up to the revision that the file names.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from alembic import command

from storage.database import MIGRATIONS, alembic_config, migration_engine

_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
_IN_MEMORY = Path(":memory:")
# Alembic keeps the migration in progress in a global of its module.
_one_at_a_time = threading.Lock()


class _Object(NamedTuple):
    kind: str
    name: str
    table: str
    words: tuple[str, ...]


def schema_problems(
    connection: sqlite3.Connection, revision: str, scripts: Path = MIGRATIONS
) -> list[str]:
    """What differs from the schema of this revision, in sentences that name it.

    Tables and indexes that an operator has added are nobody's harm; a trigger may be.
    """
    return list(_differences(_expected(revision, scripts), _present(connection)))


_Schema = dict[tuple[str, str], _Object]


def _differences(wanted: _Schema, found: _Schema) -> Iterator[str]:
    for key, thing in wanted.items():
        where = "" if thing.kind == "table" else f" of the table {thing.table}"
        if key not in found:
            yield f"The {thing.kind} {thing.name}{where} is missing."
        elif found[key] != thing:
            yield f"The {thing.kind} {thing.name}{where} is not what the migrations made."
    for (kind, name), thing in found.items():
        if kind == "trigger" and (kind, name) not in wanted:
            yield f"The trigger {name} of the table {thing.table} is not one of coster's."


@lru_cache(maxsize=8)
def _expected(revision: str, scripts: Path) -> _Schema:
    engine = migration_engine(_IN_MEMORY)
    try:
        with _one_at_a_time, engine.begin() as connection:
            command.upgrade(alembic_config(connection, scripts), revision)
            rows = connection.exec_driver_sql(_OBJECTS).all()
    finally:
        engine.dispose()
    return _by_name([tuple(row) for row in rows])


def _present(connection: sqlite3.Connection) -> _Schema:
    return _by_name(connection.execute(_OBJECTS).fetchall())


def _by_name(rows: list[tuple[str, ...]]) -> _Schema:
    return {
        (kind, name): _Object(kind, name, table, _words(kind, text or ""))
        for kind, name, table, text in rows
    }


def _words(kind: str, text: str) -> tuple[str, ...]:
    """The statement without what another release of a library may write differently.

    That is white space, quotes, capitals, and in a table the order of its constraints.
    """
    words = re.findall(r"\w+|[^\w\s\"`]", text.lower())
    return tuple(sorted(words) if kind == "table" else words)
