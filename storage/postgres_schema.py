"""What a PostgreSQL ledger's schema must be: compared with what its migrations build.

The reference is built by the same server, in a schema of its own within a transaction that
is rolled back: so another release of PostgreSQL, which words things differently, words both
sides alike. Triggers, CHECKs, unique indexes, the guards' function, whether a trigger is
switched off, whether a table survives a crash and hides no row: all of it is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]
from alembic import command
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage import postgres
from storage.database import MIGRATIONS, ONE_MIGRATION, alembic_config
from storage.postgres import Address
from storage.postgres_migrations import cause_of
from storage.private_loop import PrivateLoop
from storage.schema import Schema, SchemaObject, differences

_TABLES: Final = """
SELECT 'table', c.relname, c.relname, concat_ws(' ',
  c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
  (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
      pg_get_expr(d.adbin, d.adrelid), o.collname), ', ' ORDER BY a.attname)
   FROM pg_attribute a
   LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
   LEFT JOIN pg_collation o ON o.oid = a.attcollation
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
FROM pg_class c JOIN n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""
_CONSTRAINTS: Final = """
SELECT 'constraint', k.conname, c.relname,
  concat_ws(' ', pg_get_constraintdef(k.oid), k.convalidated)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN n ON n.oid = c.relnamespace
WHERE k.contype IN ('c', 'p', 'u')
"""
_INDEXES: Final = """
SELECT 'index', i.relname, c.relname, concat_ws(' ', pg_get_indexdef(x.indexrelid), x.indisvalid)
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid
JOIN n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = x.indexrelid)
"""
_TRIGGERS: Final = """
SELECT 'trigger', t.tgname, c.relname, concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal
"""
_RULES: Final = """
SELECT 'rule', r.rulename, c.relname, concat_ws(' ', pg_get_ruledef(r.oid), r.ev_enabled)
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
"""
_FUNCTIONS: Final = """
SELECT 'function', p.proname, '', concat_ws(' ', l.lanname, p.prosrc, p.prosecdef, p.proconfig)
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN n ON n.oid = p.pronamespace
"""
# Definitions name the schema that they are in; only that may differ.
OBJECTS: Final = (
    "WITH n AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = current_schema()), "  # noqa: S608
    f"o (kind, name, tbl, said) AS ({' UNION ALL '.join((_TABLES, _CONSTRAINTS, _INDEXES))} "
    f"UNION ALL {' UNION ALL '.join((_TRIGGERS, _RULES, _FUNCTIONS))}) "
    "SELECT kind, name::text, tbl::text, "
    "replace(said, (SELECT quote_ident(nspname) || '.' FROM n), '') FROM o"
)

_expected: dict[tuple[str, str, Path], Schema] = {}


def schema_problems(
    loop: PrivateLoop,
    connection: asyncpg.Connection,
    address: Address,
    revision: str,
    scripts: Path = MIGRATIONS,
) -> list[str]:
    """What differs from the schema of this revision, in sentences that name it.

    What an operator has added beside ours is nobody's harm, but a trigger or a rule on a table
    of ours may be. The reference is built by another session and rolled back, which takes
    the database's owner: raises StorageError for anybody else, and on a standby.
    """
    version = loop.run(connection.fetchval("SELECT current_setting('server_version')"))
    key = (str(version), revision, scripts)
    if key not in _expected:
        with ONE_MIGRATION:
            _expected[key] = loop.run(_build(address, revision, scripts))
    wanted = _expected[key]
    ours = {thing.table for thing in wanted.values()}
    found = _by_name(loop.run(connection.fetch(OBJECTS)))
    near = {key: thing for key, thing in found.items() if thing.table in ours}
    return list(differences(wanted, near))


async def _build(address: Address, revision: str, scripts: Path) -> Schema:
    """The schema of this revision as this server describes it; leaves nothing behind."""

    def run(connection: Connection) -> Sequence[Any]:
        place = connection.execute(text("SELECT 'coster_audit_' || pg_backend_pid()")).scalar_one()
        connection.exec_driver_sql(f"CREATE SCHEMA {place}")
        connection.exec_driver_sql(f"SET LOCAL search_path = {place}")
        command.upgrade(alembic_config(connection, scripts), revision)
        return connection.exec_driver_sql(OBJECTS).all()

    engine = postgres.engine(address, "audit of the schema")
    try:
        async with engine.connect() as connection:
            transaction = await connection.begin()
            try:
                return _by_name(await connection.run_sync(run))
            finally:
                await transaction.rollback()
    except DBAPIError as error:
        raise postgres.refused(cause_of(error), address, "compared with its schema") from error
    finally:
        await engine.dispose()


def _by_name(rows: Sequence[Any]) -> Schema:
    return {
        (kind, table, name): SchemaObject(kind, name, table, (said,))
        for kind, name, table, said in rows
    }
