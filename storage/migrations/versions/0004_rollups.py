"""Sums by time, kept up as requests are settled: what Macs did by the minute, callers by the hour.

A migration is history: it spells out its own names and types and imports no table of the
program, which will go on changing. Books that exist already are counted here once, from their
first request on, and all minutes that are over are folded; afterwards
`coster ledger verify --rollups` finds them as if they had always been kept.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_WORK_KEYS = ("span_s", "start_s", "model", "machine", "payee")
_WORK = (
    *("requests", "jobs", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("reasoning_tokens", "cost_nano", "earned_nano", "timed", "ttft_us", "decode_us"),
    "decode_tokens",
)
_USE_KEYS = ("owner", "span_s", "start_s", "model", "key_id")
_USE = (
    *("requests", "failures", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("reasoning_tokens", "cost_nano"),
)
_SERVED = "(request.status = 'settled' OR request.cost_nano > 0)"
_JOB = "(delivery.completion_tokens > 0 OR delivery.number = request.deliveries - 1)"
# Known only where one Mac delivered all of it, and only if it can be true.
_TIMED = (
    "coalesce(request.deliveries, 1) = 1 AND request.total_ms > 0 AND request.ttft_ms >= 0 "
    "AND request.ttft_ms <= request.total_ms AND request.total_ms <= 86400000"
)
_ALL = "(SELECT to_s FROM folded)"


def upgrade() -> None:
    _tables()
    _count_work()
    _count_use()
    # The minute of the last request may still get more.
    op.execute(
        "INSERT INTO folded (id, to_s, minutes_from_s) "
        "SELECT 1, last_ts_ns / 1000000000 - (last_ts_ns / 1000000000) % 60, 0 FROM meta"
    )
    for span_s in (3600, 86400, 0):
        _fold("work_sum", _WORK_KEYS, _WORK, 60, span_s, _ALL)
    for span_s in (86400, 0):
        _fold("use_sum", _USE_KEYS, _USE, 3600, span_s, f"{_ALL} - {_ALL} % 3600")


def downgrade() -> None:
    for name in ("folded", "use_sum", "work_sum"):
        op.drop_table(name)  # its index goes with it


def _int(name: str) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, autoincrement=False, nullable=False)


def _text(name: str) -> sa.Column[str]:
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=False)


def _tables() -> None:
    words = ("model", "machine", "payee", "owner", "key_id")
    for name, keys, measures, spans in (
        ("work_sum", _WORK_KEYS, _WORK, "0, 60, 3600, 86400"),
        ("use_sum", _USE_KEYS, _USE, "0, 3600, 86400"),
    ):
        op.create_table(
            name,
            *(_text(column) if column in words else _int(column) for column in keys),
            *(_int(column) for column in measures),
            sa.PrimaryKeyConstraint(*keys, name=op.f(f"pk_{name}")),
            sa.CheckConstraint(f"span_s IN ({spans})", name=op.f(f"ck_{name}_span")),
            sqlite_strict=True,
            sqlite_with_rowid=False,
        )
    op.create_index(
        op.f("ix_work_sum_payee_span_s_start_s"), "work_sum", ["payee", "span_s", "start_s"]
    )
    op.create_table(
        "folded",
        _int("id"),
        _int("to_s"),
        _int("minutes_from_s"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folded")),
        sa.CheckConstraint("id = 1", name=op.f("ck_folded_one_row")),
        sa.CheckConstraint(
            "to_s % 60 = 0 AND minutes_from_s BETWEEN 0 AND to_s", name=op.f("ck_folded_minutes")
        ),
        sqlite_strict=True,
    )


def _whole(column: str) -> str:
    """Milliseconds in whole microseconds, rounded down."""
    if op.get_bind().dialect.name == "sqlite":
        return f"CAST({column} * 1000 AS INTEGER)"
    return f"CAST(trunc({column} * 1000) AS BIGINT)"


def _start(span_s: int) -> str:
    end_s = "request.finished_ns / 1000000000"
    return f"{end_s} - ({end_s}) % {span_s}"


def _count_work() -> None:
    """Every job by its minute: of requests that have none, the deliveries' own are read."""
    ttft, total = _whole("request.ttft_ms"), _whole("request.total_ms")
    # Reasoning tokens are the last Macs' as far as their completion tokens reach.
    after = (
        "coalesce(sum(delivery.completion_tokens) OVER (PARTITION BY delivery.request_id "
        "ORDER BY delivery.number DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)"
    )
    left = f"(request.reasoning_tokens - {after})"
    reasoning = (
        f"CASE WHEN {left} <= 0 THEN 0 WHEN {left} < delivery.completion_tokens THEN {left} "
        "ELSE delivery.completion_tokens END"
    )
    last = "delivery.number = request.deliveries - 1"

    def timed(measure: str, only: str = "") -> str:
        return f"CASE WHEN {_TIMED}{only} THEN {measure} ELSE 0 END"

    measured = ("1", ttft, f"{total} - {ttft}", "request.completion_tokens")
    whole = (
        *("1", "1", "request.prompt_tokens", "request.completion_tokens"),
        *("request.cached_tokens", "request.reasoning_tokens"),
        *("request.cost_nano", "request.provider_nano"),
        *(timed(measure) for measure in measured),
    )
    part = (
        f"CASE WHEN {last} THEN 1 ELSE 0 END",
        *(f"CASE WHEN {_JOB} THEN 1 ELSE 0 END", "delivery.prompt_tokens"),
        *("delivery.completion_tokens", "delivery.cached_tokens", reasoning),
        *("delivery.cost_nano", "delivery.provider_nano"),
        *(timed(measure, f" AND {last}") for measure in measured),
    )
    for source, whose, row, where in (
        ("request", "request", whole, "request.deliveries IS NULL"),
        (
            "delivery JOIN request ON request.request_id = delivery.request_id",
            "delivery",
            part,
            "TRUE",
        ),
    ):
        told = ", ".join(f"{cell} AS {name}" for name, cell in zip(_WORK, row, strict=True))
        counted = (
            f"SELECT {_start(60)} AS start_s, request.model, "  # noqa: S608
            f"coalesce({whose}.machine, '') AS machine, {whose}.payee AS payee, {told} "
            f"FROM {source} WHERE {_SERVED} AND {where}"
        )
        _add("work_sum", _WORK_KEYS, _WORK, 60, counted, "jobs > 0")


def _count_use() -> None:
    """Every ended request by its hour; one without a charge only as a failure."""
    tokens = [f"request.{name}" for name in _USE[2:]]
    row = (
        f"CASE WHEN {_SERVED} THEN 1 ELSE 0 END",
        f"CASE WHEN {_SERVED} THEN 0 ELSE 1 END",
        *(f"CASE WHEN {_SERVED} THEN {cell} ELSE 0 END" for cell in tokens),
    )
    told = ", ".join(f"{cell} AS {name}" for name, cell in zip(_USE, row, strict=True))
    counted = (
        f"SELECT request.owner, {_start(3600)} AS start_s, request.model, request.key_id, "  # noqa: S608
        f"{told} FROM request"
    )
    _add("use_sum", _USE_KEYS, _USE, 3600, counted, "TRUE")


def _or_add(table: str, keys: tuple[str, ...], measures: tuple[str, ...]) -> str:
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in measures)
    return f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"


def _sums(measures: tuple[str, ...]) -> str:
    return ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in measures)


def _add(
    table: str, keys: tuple[str, ...], measures: tuple[str, ...], span_s: int, rows: str, where: str
) -> None:
    group = ", ".join(name for name in keys if name != "span_s")
    told = ", ".join(str(span_s) if name == "span_s" else name for name in keys)
    op.execute(
        f"INSERT INTO {table} ({', '.join((*keys, *measures))}) "  # noqa: S608
        f"SELECT {told}, {_sums(measures)} FROM ({rows}) AS counted WHERE {where} GROUP BY {group} "
        f"{_or_add(table, keys, measures)}"
    )


def _fold(
    table: str,
    keys: tuple[str, ...],
    measures: tuple[str, ...],
    finest_s: int,
    span_s: int,
    before: str,
) -> None:
    start = f"start_s - start_s % {span_s}" if span_s else "0"
    cells = {"span_s": str(span_s), "start_s": start}
    told = ", ".join(cells.get(name, name) for name in keys)
    group = ", ".join(str(at) for at in range(1, len(keys) + 1))
    op.execute(
        f"INSERT INTO {table} ({', '.join((*keys, *measures))}) "  # noqa: S608
        f"SELECT {told}, {_sums(measures)} FROM {table} "
        f"WHERE span_s = {finest_s} AND start_s < {before} GROUP BY {group} "
        f"{_or_add(table, keys, measures)}"
    )
