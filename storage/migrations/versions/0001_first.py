"""The first schema: customers and keys, accounts and journal, holds and finished requests.

A migration is history: it spells out its own names and types and imports no table of the
program, which will go on changing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "meta",
    "owner",
    "api_key",
    "quota",
    "hold",
    "account",
    "transfer",
    "operation",
    "batch",
    "request",
)
_JOURNAL = ("transfer", "request", "operation", "batch")
_FROZEN = {
    "account": "number, code, owner, batch, crc",
    "hold": (
        "request_id, owner, key_id, model, prompt_tokens, asked_max_tokens, max_tokens_cap, n, "
        "max_tokens, promo_nano, cash_nano, earnings_nano, price_in_nano, price_out_nano, "
        "fee_bps, created_ns, crc"
    ),
}


def upgrade() -> None:
    _state()
    _holds()
    _books()
    _requests()
    _guards()


def downgrade() -> None:
    for name in reversed(_TABLES):
        op.drop_table(name)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION coster_refuse()")


def _int(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, autoincrement=False, nullable=null, server_default=default)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    # Compared byte by byte: an index must not depend on what an operating system calls sorted.
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, nullable=null)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=False)


def _table(
    name: str,
    *columns: sa.Column[Any],
    primary: str,
    unique: tuple[str, ...] = (),
    checks: Mapping[str, str] | None = None,
) -> None:
    constraints: list[sa.Constraint] = [sa.PrimaryKeyConstraint(primary, name=op.f(f"pk_{name}"))]
    if unique:
        unique_name = op.f(f"uq_{name}_{'_'.join(unique)}")
        constraints.append(sa.UniqueConstraint(*unique, name=unique_name))
    for label, rule in (checks or {}).items():
        constraints.append(sa.CheckConstraint(rule, name=op.f(f"ck_{name}_{label}")))
    op.create_table(name, *columns, *constraints, sqlite_strict=True)


def _guards() -> None:
    """The journal cannot be rewritten by a slip, not even by our own code."""
    if op.get_bind().dialect.name == "postgresql":
        _refusal()
        for table in (*_JOURNAL, "account"):
            _guard(f"{table}_no_truncate", "TRUNCATE", table, f"{table} rows are final")
    for table in _JOURNAL:
        for verb in ("UPDATE", "DELETE"):
            _guard(f"{table}_no_{verb.lower()}", verb, table, f"{table} rows are final")
    for table, columns in _FROZEN.items():
        message = f"these columns of {table} are final"
        _guard(f"{table}_frozen", f"UPDATE OF {columns}", table, message)
    _guard("account_no_delete", "DELETE", "account", "accounts are never deleted")


def _guard(name: str, event: str, table: str, message: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        body = f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} {body}")
        return
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION coster_refuse('{message}')"
    )
    # Always: also in sessions that have switched ordinary triggers off.
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def _refusal() -> None:
    """What every guard on PostgreSQL does; its message is the trigger's argument."""
    op.execute(
        "CREATE FUNCTION coster_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation'; END $$"
    )


def _state() -> None:
    _table(
        "meta",
        _int("id"),
        _int("epoch"),
        _int("head_number"),
        _blob("head_hash"),
        _int("last_ts_ns"),
        primary="id",
        checks={"one_row": "id = 1"},
    )
    _table(
        "owner",
        _text("id"),
        _text("name"),
        _text("tier"),
        _int("created_ns"),
        primary="id",
    )
    _table(
        "api_key",
        _text("id"),
        _text("owner"),
        _blob("hash"),
        _text("name"),
        _text("prefix"),
        _text("scopes"),
        _int("created_ns"),
        _int("expires_ns", null=True),
        _int("revoked_ns", null=True),
        primary="id",
        unique=("hash",),
    )
    op.create_index(op.f("ix_api_key_owner"), "api_key", ["owner"])
    _table(
        "quota",
        _text("owner"),
        _int("day"),
        _int("used_tokens"),
        primary="owner",
    )


def _holds() -> None:
    _table(
        "hold",
        _text("request_id"),
        _text("owner"),
        _text("key_id"),
        _text("model"),
        _int("prompt_tokens"),
        _int("asked_max_tokens", null=True),
        _int("max_tokens_cap"),
        _int("n"),
        _int("max_tokens"),
        _int("promo_nano"),
        _int("cash_nano"),
        _int("earnings_nano"),
        _int("price_in_nano"),
        _int("price_out_nano"),
        _int("fee_bps"),
        _int("created_ns"),
        _int("crc"),
        _int("ckpt_prompt_tokens", default="0"),
        _int("ckpt_completion_tokens", default="0"),
        _int("ckpt_cached_tokens", default="0"),
        _int("ckpt_reasoning_tokens", default="0"),
        _text("payee", null=True),
        _text("machine", null=True),
        _text("provider", null=True),
        primary="request_id",
        checks={
            "fee": "fee_bps BETWEEN 0 AND 10000",
            "funding": "promo_nano >= 0 AND cash_nano >= 0 AND earnings_nano >= 0",
            "tokens": "max_tokens >= 1 AND n >= 1 AND prompt_tokens >= 0",
        },
    )


def _books() -> None:
    _table(
        "account",
        _int("number"),
        _int("code"),
        _text("owner"),
        _int("batch"),
        _int("crc"),
        _int("dp", default="0"),
        _int("dpo", default="0"),
        _int("cp", default="0"),
        _int("cpo", default="0"),
        primary="number",
        unique=("code", "owner"),
        checks={
            "counters": "dp >= 0 AND dpo >= 0 AND cp >= 0 AND cpo >= 0",
            "no_negative": ("code NOT IN (2100, 2110, 2300, 2310, 2400) OR dp + dpo <= cpo"),
        },
    )
    _table(
        "transfer",
        _int("seq"),
        _text("id"),
        _int("leg"),
        _int("debit"),
        _int("credit"),
        _int("amount_nano"),
        _int("code"),
        _int("ts_ns"),
        _int("batch"),
        _int("crc"),
        primary="seq",
        unique=("id", "leg"),
        checks={"amount": "amount_nano > 0"},
    )
    _table(
        "operation",
        _int("seq"),
        _text("key"),
        _text("fingerprint"),
        _text("result"),
        _int("ts_ns"),
        _int("batch"),
        _int("crc"),
        primary="seq",
        unique=("key",),
    )
    _table(
        "batch",
        _int("number"),
        _int("ts_ns"),
        _int("epoch"),
        _int("accounts"),
        _int("transfers"),
        _int("requests"),
        _int("operations"),
        _blob("hash"),
        primary="number",
    )


def _requests() -> None:
    _table(
        "request",
        _int("seq"),
        _text("request_id"),
        _text("owner"),
        _text("key_id"),
        _text("model"),
        _text("status"),
        _int("prompt_tokens"),
        _int("completion_tokens"),
        _int("cached_tokens"),
        _int("reasoning_tokens"),
        _int("cost_nano"),
        _int("provider_nano"),
        _int("fee_nano"),
        _int("promo_nano"),
        _int("cash_nano"),
        _int("earnings_nano"),
        _int("held_nano"),
        _int("price_in_nano"),
        _int("price_out_nano"),
        _int("fee_bps"),
        _int("max_tokens"),
        _int("n"),
        _text("payee", null=True),
        _text("machine", null=True),
        _text("provider", null=True),
        _text("finish_reason"),
        _int("attempts"),
        _real("ttft_ms"),
        _real("total_ms"),
        _int("created_ns"),
        _int("finished_ns"),
        _int("batch"),
        _int("crc"),
        primary="seq",
        unique=("request_id",),
        checks={
            "covered": "cost_nano BETWEEN 0 AND held_nano",
            "funding": "cost_nano = promo_nano + cash_nano + earnings_nano",
            "shares": "cost_nano = provider_nano + fee_nano",
            "status": "status IN ('settled', 'voided', 'expired')",
            "tokens": ("cached_tokens <= prompt_tokens AND reasoning_tokens <= completion_tokens"),
        },
    )
    op.create_index(op.f("ix_request_owner_seq"), "request", ["owner", "seq"])
