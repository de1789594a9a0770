"""Several Macs for one answer: who delivered which part of it, at which prices, and was paid what.

A migration is history: it spells out its own names and types and imports no table of the
program, which will go on changing. Younger columns of sealed tables are NULL in older rows.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CHECKS = {
    "number": "number >= 0",
    "ask": "ask_pct BETWEEN 1 AND 100",
    "shares": "cost_nano = provider_nano + fee_nano",
    "funding": "cost_nano = promo_nano + cash_nano + earnings_nano",
    "tokens": "cached_tokens >= 0 AND cached_tokens <= prompt_tokens AND completion_tokens >= 0",
}


def upgrade() -> None:
    op.add_column("request", _int("deliveries", null=True))
    op.add_column("hold", _int("ask_pct", default="100"))
    op.add_column("hold", _text("parts", default="''"))
    _deliveries()
    _guards()


def downgrade() -> None:
    op.drop_table("delivery")  # its triggers and its index go with it
    op.drop_column("hold", "parts")
    op.drop_column("hold", "ask_pct")
    op.drop_column("request", "deliveries")


def _int(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, autoincrement=False, nullable=null, server_default=default)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[str]:
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    given = None if default is None else sa.text(default)
    return sa.Column(name, kind, nullable=null, server_default=given)


def _deliveries() -> None:
    op.create_table(
        "delivery",
        _int("seq"),
        _text("request_id"),
        _int("number"),
        _text("payee"),
        _text("machine", null=True),
        _text("provider", null=True),
        _int("prompt_tokens"),
        _int("cached_tokens"),
        _int("completion_tokens"),
        _int("ask_pct"),
        _int("price_in_nano"),
        _int("price_cached_nano"),
        _int("price_out_nano"),
        _int("cost_nano"),
        _int("provider_nano"),
        _int("fee_nano"),
        _int("promo_nano"),
        _int("cash_nano"),
        _int("earnings_nano"),
        _int("batch"),
        _int("crc"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_delivery")),
        sa.UniqueConstraint("request_id", "number", name=op.f("uq_delivery_request_id_number")),
        *(
            sa.CheckConstraint(rule, name=op.f(f"ck_delivery_{label}"))
            for label, rule in _CHECKS.items()
        ),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_delivery_payee_seq"), "delivery", ["payee", "seq"])


def _guards() -> None:
    """The journal cannot be rewritten by a slip, not even by our own code."""
    message = "delivery rows are final"
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER delivery_no_{verb.lower()} BEFORE {verb} ON delivery "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    for verb in ("UPDATE", "DELETE", "TRUNCATE"):
        name = f"delivery_no_{verb.lower()}"
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {verb} ON delivery "
            f"FOR EACH STATEMENT EXECUTE FUNCTION coster_refuse('{message}')"
        )
        # Always: also in sessions that have switched ordinary triggers off.
        op.execute(f"ALTER TABLE delivery ENABLE ALWAYS TRIGGER {name}")
