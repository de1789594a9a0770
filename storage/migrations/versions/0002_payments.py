"""Payments, prices with a history, caps of keys, kept answers, and how far an audit came.

A migration is history: it spells out its own names and types and imports no table of the
program, which will go on changing. Younger columns of sealed tables are NULL in older rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = (
    "key_spend",
    "price",
    "lot",
    "machine",
    "idempotency",
    "outcome",
    "payee",
    "topup",
    "payout",
    "refund",
    "dispute",
    "stripe_event",
    "verified",
)
_ADDED = {
    "owner": (
        ("fingerprint", "text", "''"),
        ("promo_nano", "int", "'0'"),
        ("paid_ns", "int", None),
        ("fee_bps", "int", None),
        ("requests_per_min", "int", None),
        ("tokens_per_day", "int", None),
        ("frozen", "text", "''"),
    ),
    "api_key": (
        ("models", "text", "''"),
        ("cap_day_nano", "int", None),
        ("cap_week_nano", "int", None),
        ("cap_month_nano", "int", None),
        ("replaces", "text", None),
    ),
    "hold": (("price_cached_nano", "int", None), ("idempotency", "text", None)),
    "request": (("price_cached_nano", "int", None),),
}
_HOLD_TERMS = (
    "request_id, owner, key_id, model, prompt_tokens, asked_max_tokens, max_tokens_cap, n, "
    "max_tokens, promo_nano, cash_nano, earnings_nano, price_in_nano, price_out_nano, "
    "fee_bps, created_ns, crc"
)


def upgrade() -> None:
    for table, columns in _ADDED.items():
        for name, kind, default in columns:
            op.add_column(table, _column(name, kind, default))
    _freeze_hold(f"{_HOLD_TERMS}, price_cached_nano, idempotency")
    _index("request", "payee", "seq")
    _customers()
    _answers()
    _payments_in()
    _notices()
    _payments_out()


def downgrade() -> None:
    _freeze_hold("")
    op.drop_index(op.f("ix_request_payee_seq"), "request")
    for name in reversed(_TABLES):
        op.drop_table(name)
    for table, columns in reversed(_ADDED.items()):
        for name, _, _ in reversed(columns):
            op.drop_column(table, name)
    _freeze_hold(_HOLD_TERMS)


def _freeze_hold(columns: str) -> None:
    """The trigger that keeps a hold's terms names its columns; without columns it goes."""
    message = "these columns of hold are final"
    create = f"CREATE TRIGGER hold_frozen BEFORE UPDATE OF {columns} ON hold "
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER IF EXISTS hold_frozen")
        if columns:
            op.execute(f"{create} BEGIN SELECT RAISE(ABORT, '{message}'); END")
        return
    op.execute("DROP TRIGGER IF EXISTS hold_frozen ON hold")
    if columns:
        function = f"coster_refuse('{message}')"
        op.execute(f"{create} FOR EACH STATEMENT EXECUTE FUNCTION {function}")
        op.execute("ALTER TABLE hold ENABLE ALWAYS TRIGGER hold_frozen")


def _column(name: str, kind: str, default: str | None) -> sa.Column[Any]:
    column: sa.Column[Any] = _int(name) if kind == "int" else _text(name)
    column.nullable = default is None
    column.server_default = None if default is None else sa.DefaultClause(sa.text(default))
    return column


def _int(name: str, *, null: bool = False) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, autoincrement=False, nullable=null)


def _text(name: str) -> sa.Column[str]:
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _table(
    name: str,
    *columns: sa.Column[Any],
    primary: tuple[str, ...],
    checks: Mapping[str, str] | None = None,
) -> None:
    constraints: list[sa.Constraint] = [sa.PrimaryKeyConstraint(*primary, name=op.f(f"pk_{name}"))]
    for label, rule in (checks or {}).items():
        constraints.append(sa.CheckConstraint(rule, name=op.f(f"ck_{name}_{label}")))
    op.create_table(name, *columns, *constraints, sqlite_strict=True)


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def _customers() -> None:
    _table(
        "key_spend",
        _text("key_id"),
        _int("day"),
        _int("day_nano"),
        _int("week"),
        _int("week_nano"),
        _int("month"),
        _int("month_nano"),
        _int("created_ns"),
        primary=("key_id",),
    )
    _table(
        "price",
        _text("model"),
        _int("created_ns"),
        _int("price_in_nano"),
        _int("price_cached_nano"),
        _int("price_out_nano"),
        _text("actor"),
        _text("reason"),
        primary=(
            "model",
            "created_ns",
        ),
        checks={
            "prices": "price_in_nano >= 0 AND price_out_nano >= 0 "
            "AND price_cached_nano BETWEEN 0 AND price_in_nano"
        },
    )
    _table(
        "lot",
        _text("payee"),
        _int("due_day"),
        _int("amount_nano"),
        primary=(
            "payee",
            "due_day",
        ),
        checks={"amount": "amount_nano > 0"},
    )
    _table(
        "machine",
        _text("machine"),
        _text("owner"),
        _int("created_ns"),
        primary=("machine",),
    )


def _answers() -> None:
    _table(
        "idempotency",
        _text("owner"),
        _text("key"),
        _text("fingerprint"),
        _text("request_id"),
        _text("state"),
        _int("created_ns"),
        primary=(
            "owner",
            "key",
        ),
        checks={"state": "state IN ('running', 'kept', 'lost')"},
    )
    _table(
        "outcome",
        _text("request_id"),
        _blob("sealed"),
        _int("created_ns"),
        primary=("request_id",),
    )
    _table(
        "verified",
        _int("id"),
        _int("number"),
        _blob("hash"),
        _text("counters"),
        _int("created_ns"),
        primary=("id",),
    )


def _payments_in() -> None:
    _table(
        "topup",
        _text("id"),
        _text("owner"),
        _int("amount_cents"),
        _text("state"),
        _text("session"),
        _text("url"),
        _text("intent"),
        _int("refunded_cents"),
        _int("disputed_cents"),
        _text("idempotency"),
        _text("reason"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("id",),
        checks={
            "amounts": "amount_cents > 0 AND refunded_cents >= 0 AND disputed_cents >= 0",
            "state": "state IN ('asked', 'open', 'paid', 'expired', 'failed')",
        },
    )
    _index("topup", "owner", "created_ns")
    _index("topup", "intent")
    _table(
        "refund",
        _text("id"),
        _text("owner"),
        _text("topup"),
        _text("intent"),
        _int("amount_cents"),
        _text("state"),
        _text("refund"),
        _int("tries"),
        _int("next_try_ns"),
        _text("idempotency"),
        _text("reason"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("id",),
        checks={
            "amounts": "amount_cents > 0",
            "state": "state IN ('decided', 'unknown', 'pending', 'done', 'failed')",
        },
    )
    _index("refund", "owner", "created_ns")


def _notices() -> None:
    _table(
        "dispute",
        _text("id"),
        _text("owner"),
        _text("topup"),
        _int("amount_cents"),
        _int("withdrawn_cents"),
        _int("fee_cents"),
        _int("cash_nano"),
        _int("owed_nano"),
        _text("state"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("id",),
        checks={"state": "state IN ('open', 'won', 'lost')"},
    )
    _index("dispute", "owner", "created_ns")
    _table(
        "stripe_event",
        _text("id"),
        _text("kind"),
        _text("subject"),
        _text("state"),
        _int("tries"),
        _text("reason"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("id",),
        checks={"state": "state IN ('new', 'done', 'failed')"},
    )


def _payments_out() -> None:
    _table(
        "payee",
        _text("owner"),
        _text("country"),
        _text("account"),
        _text("state"),
        _text("requirements"),
        _int("weekly"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("owner",),
        checks={"state": "state IN ('pending', 'active', 'restricted')"},
    )
    _table(
        "payout",
        _text("id"),
        _text("owner"),
        _int("week"),
        _int("amount_cents"),
        _int("fee_nano"),
        _text("account"),
        _text("state"),
        _text("transfer"),
        _int("tries"),
        _int("next_try_ns"),
        _text("idempotency"),
        _text("reason"),
        _int("created_ns"),
        _int("changed_ns"),
        primary=("id",),
        checks={
            "amounts": "amount_cents > 0 AND fee_nano >= 0",
            "state": "state IN ('decided', 'sent', 'unknown', 'paid', 'failed', 'reversed')",
        },
    )
    _index("payout", "owner", "created_ns")
