"""The ledger's SQL, derived once from the tables, as plain text for plain tuples.

SQLAlchemy Core writes the statements, so a column cannot be forgotten, but it does not carry
them out: a driver with text and tuples is the fastest way there is (10 µs a row on SQLite,
measured). Both databases understand the same words; SQLite marks a value with `?`, and
`numbered` gives PostgreSQL its `$1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete, select
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import ClauseElement

from market.accounting.chain import BatchRow, Sealed
from market.accounting.chart import LEGS_PER_MAC
from market.accounting.rows import (
    AccountRow,
    Changes,
    CheckpointRow,
    DeliveryRow,
    HoldRow,
    OperationRow,
    RequestRow,
    TransferRow,
)
from market.accounting.state_rows import ENDED, KEY_FIELDS, StateRow, newest
from storage.rollup_statements import rollup_writes
from storage.state_tables import STATE_TABLES
from storage.tables import metadata

T: Final = metadata.tables
_DIALECT: Final = sqlite_dialect(paramstyle="qmark")


@lru_cache(maxsize=512)
def numbered(statement: str) -> str:
    """The statement as PostgreSQL wants it. None of ours holds a `?` that is not a mark."""
    numbers = count(1)
    return "".join(f"${next(numbers)}" if letter == "?" else letter for letter in statement)


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
    "delivery": ["seq", *DeliveryRow._fields, "batch", "crc"],
    "operation": ["seq", *OperationRow._fields, "batch", "crc"],
}
"""The columns of each journal in the order they are sealed in: number, fields, batch, crc."""
HOLD_TERMS: Final = [*HoldRow._fields, "crc"]

INSERT_ACCOUNT: Final = _insert(T["account"], JOURNALS["account"])
INSERT_TRANSFER: Final = _insert(T["transfer"], JOURNALS["transfer"])
INSERT_REQUEST: Final = _insert(T["request"], JOURNALS["request"])
INSERT_DELIVERY: Final = _insert(T["delivery"], JOURNALS["delivery"])
INSERT_OPERATION: Final = _insert(T["operation"], JOURNALS["operation"])
INSERT_BATCH: Final = _insert(T["batch"], _names("batch"))
INSERT_HOLD: Final = _insert(T["hold"], HOLD_TERMS)
INSERTED: Final[dict[str, tuple[str, list[str]]]] = {
    INSERT_TRANSFER: ("transfer", JOURNALS["transfer"]),
    INSERT_REQUEST: ("request", JOURNALS["request"]),
    INSERT_DELIVERY: ("delivery", JOURNALS["delivery"]),
    INSERT_HOLD: ("hold", HOLD_TERMS),
}
"""Table and columns of the inserts that bring many rows, for databases that take a stream."""
DELETE_HOLD: Final = sql(delete(T["hold"]).where(T["hold"].c.request_id == bindparam("r")))

# Written out: SQLAlchemy orders SET by its own rules, and these are executed with tuples.
UPDATE_ACCOUNT: Final = "UPDATE account SET dp=?, dpo=?, cp=?, cpo=? WHERE number=?"
UPDATE_CHECKPOINT: Final = (
    "UPDATE hold SET ckpt_prompt_tokens=?, ckpt_completion_tokens=?, ckpt_cached_tokens=?, "
    "ckpt_reasoning_tokens=?, payee=?, machine=?, provider=?, ask_pct=?, parts=? "
    "WHERE request_id=?"
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
    "coalesce((SELECT max(seq) FROM operation), 0) + 1, "
    "coalesce((SELECT max(seq) FROM delivery), 0) + 1"
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
SELECT_BATCHES: Final = (
    f"SELECT {', '.join(BatchRow._fields)} FROM batch WHERE number > ? ORDER BY number"  # noqa: S608
)
SELECT_JOURNAL: Final = {
    kind: f"SELECT {', '.join(names)} FROM {kind} WHERE {names[0]} > ? ORDER BY {names[0]}"  # noqa: S608
    for kind, names in JOURNALS.items()
}
REQUEST_COLUMNS: Final = ", ".join(RequestRow._fields)
SELECT_USAGE: Final = (
    f"SELECT {REQUEST_COLUMNS} FROM request WHERE owner = ? "  # noqa: S608
    "AND (status = 'settled' OR cost_nano > 0) ORDER BY seq DESC LIMIT ?"
)

SELECT_PROMO_PAID: Final = (
    "SELECT coalesce(sum(transfer.amount_nano), 0) FROM request "
    "JOIN transfer ON transfer.id = request.request_id "
    "WHERE request.payee = ? AND request.owner = ? AND transfer.leg = ? "
    "AND request.deliveries IS NULL"
)
_DELIVERED: Final = "FROM delivery JOIN request ON request.request_id = delivery.request_id"
SELECT_PROMO_DELIVERED: Final = (
    f"SELECT coalesce(sum(transfer.amount_nano), 0) {_DELIVERED} "
    "JOIN transfer ON transfer.id = delivery.request_id "
    f"AND transfer.leg = delivery.number * {LEGS_PER_MAC} + ? "
    "WHERE delivery.payee = ? AND request.owner = ?"
)
SELECT_LAST_REQUEST: Final = "SELECT coalesce(max(seq), 0) FROM request"
SELECT_FINISHED_AFTER: Final = (
    "SELECT seq, finished_ns FROM request WHERE seq > ? ORDER BY seq LIMIT 1"
)
SELECT_REVENUE: Final = (
    "SELECT payee, owner, sum(provider_nano) FROM request WHERE seq > ? AND provider_nano > 0 "
    "AND deliveries IS NULL GROUP BY payee, owner"
)
# Deliveries are numbered in the order of their requests, so the first one bounds the search.
SELECT_REVENUE_DELIVERED: Final = (
    f"SELECT delivery.payee, request.owner, sum(delivery.provider_nano) {_DELIVERED} "  # noqa: S608
    "WHERE delivery.seq >= (SELECT begun.seq FROM request AS late JOIN delivery AS begun "
    "ON begun.request_id = late.request_id AND begun.number = 0 "
    "WHERE late.seq > ? AND late.deliveries IS NOT NULL ORDER BY late.seq LIMIT 1) "
    "AND delivery.provider_nano > 0 GROUP BY request.owner, delivery.payee"
)
DELIVERY_COLUMNS: Final = ", ".join(DeliveryRow._fields)


def select_requests(ids: int) -> str:
    """The finished requests among this many ids."""
    marks = ", ".join("?" * ids)
    # Only column names of our own and marks are put together here.
    return f"SELECT {REQUEST_COLUMNS} FROM request WHERE request_id IN ({marks})"  # noqa: S608


def select_deliveries(ids: int) -> str:
    """The deliveries of this many requests, in the order of delivery."""
    marks = ", ".join("?" * ids)
    return (
        f"SELECT {DELIVERY_COLUMNS} FROM delivery WHERE request_id IN ({marks}) "  # noqa: S608
        "ORDER BY seq"
    )


TRANSFER_COLUMNS: Final = ", ".join(TransferRow._fields)


def select_transfers(count: int) -> str:
    """The postings whose id is among `count` marks."""
    marks = ", ".join("?" * count)
    return (
        f"SELECT {TRANSFER_COLUMNS} FROM transfer WHERE id IN ({marks}) "  # noqa: S608
        "ORDER BY id, leg"
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


def _select_state(kind: type[StateRow], *, ended: bool) -> str:
    columns = STATE_TABLES[kind].c
    query = select(*(columns[name] for name in kind._fields)).order_by(
        columns[newest(kind)], *(columns[name] for name in kind._fields[: KEY_FIELDS[kind]])
    )
    if kind in ENDED and not ended:
        query = query.where(columns["state"].not_in(ENDED[kind]))
    return str(query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


def select_state(kind: type[StateRow], equal: Iterable[str], *, by: str, paged: bool) -> str:
    """Rows with these columns equal to the marks, newest first; last marks: page, limit.

    Raises KeyError for a column that this kind does not have.
    """
    columns = STATE_TABLES[kind].c
    order = columns[by or newest(kind)].name
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
SELECT_LIVE: Final = {kind: _select_state(kind, ended=False) for kind in STATE_TABLES}
SELECT_EVERY: Final = {kind: _select_state(kind, ended=True) for kind in STATE_TABLES}


# ── one commit ────────────────────────────────────────────────────────────────────────


def writes(changes: Changes, sealed: Sealed) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    """What a commit writes after `ADVANCE`, in order: a statement and its rows, never none.

    Inserts come before the updates and deletes that refer to them.
    """
    for statement, rows in _writes(changes, sealed):
        if rows:
            yield statement, rows


def _writes(changes: Changes, sealed: Sealed) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    if sealed.batch is not None:
        yield INSERT_ACCOUNT, sealed.accounts
        yield INSERT_TRANSFER, sealed.transfers
        yield INSERT_REQUEST, sealed.requests
        yield INSERT_DELIVERY, sealed.deliveries
        yield INSERT_OPERATION, sealed.operations
        yield INSERT_BATCH, [sealed.batch]
    yield INSERT_HOLD, sealed.holds
    yield UPDATE_CHECKPOINT, [(*row, key) for key, row in changes.checkpoints.items()]
    yield DELETE_HOLD, [(request_id,) for request_id in changes.closed]
    yield UPDATE_ACCOUNT, [(*row, number) for number, row in changes.counters.items()]
    yield from rollup_writes(changes)
    for kind, rows in changes.state.items():
        yield UPSERT[kind], [row for row in rows.values() if row is not None]
        yield DELETE[kind], [key for key, row in rows.items() if row is None]
