"""The hot path's SQL, derived once from the tables.

SQLAlchemy Core writes the statements, so a column cannot be forgotten; SQLite then gets
plain text and tuples, which is the fastest way there is (10 µs a row, measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Table, bindparam, delete, select
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import ClauseElement

from market.accounting.chain import BatchRow
from market.accounting.rows import (
    AccountRow,
    CheckpointRow,
    HoldRow,
    OperationRow,
    RequestRow,
    TransferRow,
)
from market.accounting.state_rows import ENDED, KEY_FIELDS, StateRow, newest
from storage.state_tables import STATE_TABLES
from storage.tables import metadata

T: Final = metadata.tables
_DIALECT: Final = sqlite_dialect(paramstyle="qmark")


def sql(statement: Executable) -> str:
    """A Core statement as text with `?` marks, in the order the columns were named."""
    assert isinstance(statement, ClauseElement)
    return str(statement.compile(dialect=_DIALECT))


def _insert(table: Table, columns: Iterable[str]) -> str:
    # By hand: SQLAlchemy would put the columns into the table's order, and rows are tuples.
    names = [table.c[name].name for name in columns]
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608


def _names(table: str) -> list[str]:
    return [column.name for column in T[table].columns]


JOURNALS: Final = {
    "account": [*AccountRow._fields, "batch", "crc"],
    "transfer": ["seq", *TransferRow._fields, "batch", "crc"],
    "request": ["seq", *RequestRow._fields, "batch", "crc"],
    "operation": ["seq", *OperationRow._fields, "batch", "crc"],
}
"""The columns of each journal in the order they are sealed in: number, fields, batch, crc."""
HOLD_TERMS: Final = [*HoldRow._fields, "crc"]

INSERT_ACCOUNT: Final = _insert(T["account"], JOURNALS["account"])
INSERT_TRANSFER: Final = _insert(T["transfer"], JOURNALS["transfer"])
INSERT_REQUEST: Final = _insert(T["request"], JOURNALS["request"])
INSERT_OPERATION: Final = _insert(T["operation"], JOURNALS["operation"])
INSERT_BATCH: Final = _insert(T["batch"], _names("batch"))
INSERT_HOLD: Final = _insert(T["hold"], HOLD_TERMS)
DELETE_HOLD: Final = sql(delete(T["hold"]).where(T["hold"].c.request_id == bindparam("r")))

# Written out: SQLAlchemy orders SET by its own rules, and these are executed with tuples.
UPDATE_ACCOUNT: Final = "UPDATE account SET dp=?, dpo=?, cp=?, cpo=? WHERE number=?"
UPDATE_CHECKPOINT: Final = (
    "UPDATE hold SET ckpt_prompt_tokens=?, ckpt_completion_tokens=?, ckpt_cached_tokens=?, "
    "ckpt_reasoning_tokens=?, payee=?, machine=?, provider=? WHERE request_id=?"
)
ADVANCE: Final = "UPDATE meta SET head_number=?, head_hash=?, last_ts_ns=? WHERE id=1 AND epoch=?"
ENSURE_META: Final = (
    "INSERT INTO meta (id, epoch, head_number, head_hash, last_ts_ns) VALUES (1, 0, 0, ?, 0) "
    "ON CONFLICT (id) DO NOTHING"
)
CLAIM_EPOCH: Final = "UPDATE meta SET epoch = epoch + 1 WHERE id = 1"
SELECT_META: Final = "SELECT epoch, head_number, head_hash, last_ts_ns FROM meta WHERE id = 1"
SELECT_NEXT: Final = (
    "SELECT coalesce((SELECT max(seq) FROM transfer), 0) + 1, "
    "coalesce((SELECT max(seq) FROM request), 0) + 1, "
    "coalesce((SELECT max(seq) FROM operation), 0) + 1"
)


def select_rows(table: str, fields: Iterable[str], order: str) -> str:
    """Every row of a table as a market record's fields."""
    columns = T[table].c
    return sql(select(*(columns[name] for name in fields)).order_by(columns[order]))


SELECT_OPERATIONS: Final = select_rows("operation", OperationRow._fields, "seq")
SELECT_ACCOUNTS: Final = "SELECT number, code, owner, dp, dpo, cp, cpo FROM account ORDER BY number"
_CHECKPOINT: Final = [
    f"ckpt_{name}" if name.endswith("_tokens") else name for name in CheckpointRow._fields
]
SELECT_HOLDS: Final = select_rows("hold", [*HoldRow._fields, *_CHECKPOINT], "created_ns")
SELECT_HOLDS_TO_VERIFY: Final = (
    f"SELECT {', '.join(HoldRow._fields)}, crc, "  # noqa: S608
    "EXISTS (SELECT 1 FROM request WHERE request.request_id = hold.request_id) "
    "FROM hold ORDER BY created_ns"
)
SELECT_BATCHES: Final = select_rows("batch", BatchRow._fields, "number")
REQUEST_COLUMNS: Final = ", ".join(RequestRow._fields)
SELECT_USAGE: Final = (
    f"SELECT {REQUEST_COLUMNS} FROM request WHERE owner = ? "  # noqa: S608
    "AND (status = 'settled' OR cost_nano > 0) ORDER BY seq DESC LIMIT ?"
)


def select_requests(count: int) -> str:
    """The finished requests among `count` ids."""
    marks = ", ".join("?" * count)
    # Only column names of our own and marks are put together here.
    return f"SELECT {REQUEST_COLUMNS} FROM request WHERE request_id IN ({marks})"  # noqa: S608


def select_earned(count: int) -> tuple[str, str]:
    """For `count` payees: the sum and number of what they were paid for, and the newest rows."""
    where = (
        f"FROM request WHERE payee IN ({', '.join('?' * count)}) "
        "AND (status = 'settled' OR cost_nano > 0)"
    )
    # Only column names of our own and marks are put together here.
    return (
        f"SELECT coalesce(sum(provider_nano), 0), count(*) {where}",
        f"SELECT {REQUEST_COLUMNS} {where} ORDER BY seq DESC LIMIT ?",
    )


# ── state rows: every kind alike ──────────────────────────────────────────────────────


def _upsert(kind: type[StateRow]) -> str:
    table = STATE_TABLES[kind]
    keys, rest = kind._fields[: KEY_FIELDS[kind]], kind._fields[KEY_FIELDS[kind] :]
    # Only names of our own tables and columns are put together here.
    return (
        f"INSERT INTO {table.name} ({', '.join(kind._fields)}) "  # noqa: S608
        f"VALUES ({', '.join('?' * len(kind._fields))}) ON CONFLICT ({', '.join(keys)}) "
        f"DO UPDATE SET {', '.join(f'{name}=excluded.{name}' for name in rest)}"
    )


def _delete(kind: type[StateRow]) -> str:
    keys = kind._fields[: KEY_FIELDS[kind]]
    where = " AND ".join(f"{name}=?" for name in keys)
    return f"DELETE FROM {STATE_TABLES[kind].name} WHERE {where}"  # noqa: S608


def _select_live(kind: type[StateRow]) -> str:
    columns = STATE_TABLES[kind].c
    query = select(*(columns[name] for name in kind._fields)).order_by(
        columns[newest(kind)], *(columns[name] for name in kind._fields[: KEY_FIELDS[kind]])
    )
    if kind in ENDED:
        query = query.where(columns["state"].not_in(ENDED[kind]))
    return str(query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


def select_state(kind: type[StateRow], equal: Iterable[str], *, paged: bool) -> str:
    """Rows with these columns equal to the marks, newest first; last marks: page, limit.

    Raises KeyError for a column that this kind does not have.
    """
    columns, order = STATE_TABLES[kind].c, newest(kind)
    where = [f"{columns[name].name} = ?" for name in equal]
    if paged:
        where.append(f"{order} < ?")
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return (
        f"SELECT {', '.join(kind._fields)} FROM {STATE_TABLES[kind].name}{condition} "  # noqa: S608
        f"ORDER BY {order} DESC, {kind._fields[0]} DESC LIMIT ?"
    )


UPSERT: Final = {kind: _upsert(kind) for kind in STATE_TABLES}
DELETE: Final = {kind: _delete(kind) for kind in STATE_TABLES}
SELECT_LIVE: Final = {kind: _select_live(kind) for kind in STATE_TABLES}
