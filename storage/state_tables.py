"""The present of the market, one table per kind of row in `market.accounting.state_rows`.

Column order is field order. These rows are state: they are replaced as a whole by their
primary key. Nothing here is sealed by the chain, and no sum here is the truth about money.
"""

from __future__ import annotations

from typing import ClassVar, Final

from sqlalchemy import CheckConstraint, Index, Table, UniqueConstraint

from market.accounting import state_rows as rows
from market.accounting.state_rows import StateRow
from storage.tables import (
    STRICT,
    LedgerTable,
    blob_column,
    int_column,
    metadata,
    text_column,
    word_column,
)


class OwnerTable(LedgerTable, table=True):
    """A customer."""

    __tablename__: ClassVar[str] = "owner"
    __table_args__ = (STRICT,)
    id: str = text_column(primary=True)
    name: str = text_column()
    tier: str = text_column()
    created_ns: int = int_column()
    fingerprint: str = word_column()
    promo_nano: int = int_column(default="0")
    paid_ns: int | None = int_column(null=True)
    fee_bps: int | None = int_column(null=True)
    requests_per_min: int | None = int_column(null=True)
    tokens_per_day: int | None = int_column(null=True)
    frozen: str = word_column()


class KeyTable(LedgerTable, table=True):
    """An API key, known by its keyed hash."""

    __tablename__: ClassVar[str] = "api_key"
    __table_args__ = (UniqueConstraint("hash"), Index(None, "owner"), STRICT)
    id: str = text_column(primary=True)
    owner: str = text_column()
    hash: bytes = blob_column()
    name: str = text_column()
    prefix: str = text_column()
    scopes: str = text_column()
    created_ns: int = int_column()
    expires_ns: int | None = int_column(null=True)
    revoked_ns: int | None = int_column(null=True)
    models: str = word_column()
    cap_day_nano: int | None = int_column(null=True)
    cap_week_nano: int | None = int_column(null=True)
    cap_month_nano: int | None = int_column(null=True)
    replaces: str | None = text_column(null=True)


class KeySpendTable(LedgerTable, table=True):
    """What a capped key has spent in its present windows."""

    __tablename__: ClassVar[str] = "key_spend"
    __table_args__ = (STRICT,)
    key_id: str = text_column(primary=True)
    day: int = int_column()
    day_nano: int = int_column()
    week: int = int_column()
    week_nano: int = int_column()
    month: int = int_column()
    month_nano: int = int_column()
    created_ns: int = int_column()


class QuotaTable(LedgerTable, table=True):
    """Tokens an account with a daily limit has used on its latest day."""

    __tablename__: ClassVar[str] = "quota"
    __table_args__ = (STRICT,)
    owner: str = text_column(primary=True)
    day: int = int_column()
    used_tokens: int = int_column()


class PriceTable(LedgerTable, table=True):
    """Prices of a model from a moment on."""

    __tablename__: ClassVar[str] = "price"
    __table_args__ = (
        CheckConstraint(
            "price_in_nano >= 0 AND price_out_nano >= 0 "
            "AND price_cached_nano BETWEEN 0 AND price_in_nano",
            name="prices",
        ),
        STRICT,
    )
    model: str = text_column(primary=True)
    created_ns: int = int_column(primary=True)
    price_in_nano: int = int_column()
    price_cached_nano: int = int_column()
    price_out_nano: int = int_column()
    actor: str = text_column()
    reason: str = text_column()


class LotTable(LedgerTable, table=True):
    """Earnings that become withdrawable on a day."""

    __tablename__: ClassVar[str] = "lot"
    __table_args__ = (CheckConstraint("amount_nano > 0", name="amount"), STRICT)
    payee: str = text_column(primary=True)
    due_day: int = int_column(primary=True)
    amount_nano: int = int_column()


class MachineTable(LedgerTable, table=True):
    """A machine linked to an account."""

    __tablename__: ClassVar[str] = "machine"
    __table_args__ = (STRICT,)
    machine: str = text_column(primary=True)
    owner: str = text_column()
    created_ns: int = int_column()


class IdempotencyTable(LedgerTable, table=True):
    """An inference request under its caller's own key."""

    __tablename__: ClassVar[str] = "idempotency"
    __table_args__ = (CheckConstraint("state IN ('running', 'kept', 'lost')", name="state"), STRICT)
    owner: str = text_column(primary=True)
    key: str = text_column(primary=True)
    fingerprint: str = text_column()
    request_id: str = text_column()
    state: str = text_column()
    created_ns: int = int_column()


class OutcomeTable(LedgerTable, table=True):
    """A sealed answer, kept for a day."""

    __tablename__: ClassVar[str] = "outcome"
    __table_args__ = (STRICT,)
    request_id: str = text_column(primary=True)
    sealed: bytes = blob_column()
    created_ns: int = int_column()


class PayeeTable(LedgerTable, table=True):
    """How an account is paid."""

    __tablename__: ClassVar[str] = "payee"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'active', 'restricted')", name="state"),
        STRICT,
    )
    owner: str = text_column(primary=True)
    country: str = text_column()
    account: str = text_column()
    state: str = text_column()
    requirements: str = text_column()
    weekly: int = int_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class TopUpTable(LedgerTable, table=True):
    """Money on its way in."""

    __tablename__: ClassVar[str] = "topup"
    __table_args__ = (
        Index(None, "owner", "created_ns"),
        Index(None, "intent"),
        CheckConstraint(
            "amount_cents > 0 AND refunded_cents >= 0 AND disputed_cents >= 0", name="amounts"
        ),
        CheckConstraint("state IN ('asked', 'open', 'paid', 'expired', 'failed')", name="state"),
        STRICT,
    )
    id: str = text_column(primary=True)
    owner: str = text_column()
    amount_cents: int = int_column()
    state: str = text_column()
    session: str = text_column()
    url: str = text_column()
    intent: str = text_column()
    refunded_cents: int = int_column()
    disputed_cents: int = int_column()
    idempotency: str = text_column()
    reason: str = text_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class PayoutTable(LedgerTable, table=True):
    """Money on its way out."""

    __tablename__: ClassVar[str] = "payout"
    __table_args__ = (
        Index(None, "owner", "created_ns"),
        CheckConstraint("amount_cents > 0 AND fee_nano >= 0", name="amounts"),
        CheckConstraint(
            "state IN ('decided', 'sent', 'unknown', 'paid', 'failed', 'reversed')", name="state"
        ),
        STRICT,
    )
    id: str = text_column(primary=True)
    owner: str = text_column()
    week: int = int_column()
    amount_cents: int = int_column()
    fee_nano: int = int_column()
    account: str = text_column()
    state: str = text_column()
    transfer: str = text_column()
    tries: int = int_column()
    next_try_ns: int = int_column()
    idempotency: str = text_column()
    reason: str = text_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class RefundTable(LedgerTable, table=True):
    """Credit on its way back."""

    __tablename__: ClassVar[str] = "refund"
    __table_args__ = (
        Index(None, "owner", "created_ns"),
        CheckConstraint("amount_cents > 0", name="amounts"),
        CheckConstraint(
            "state IN ('decided', 'unknown', 'pending', 'done', 'failed')", name="state"
        ),
        STRICT,
    )
    id: str = text_column(primary=True)
    owner: str = text_column()
    topup: str = text_column()
    intent: str = text_column()
    amount_cents: int = int_column()
    state: str = text_column()
    refund: str = text_column()
    tries: int = int_column()
    next_try_ns: int = int_column()
    idempotency: str = text_column()
    reason: str = text_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class DisputeTable(LedgerTable, table=True):
    """Money that a payer's bank has taken back."""

    __tablename__: ClassVar[str] = "dispute"
    __table_args__ = (
        Index(None, "owner", "created_ns"),
        CheckConstraint("state IN ('open', 'won', 'lost')", name="state"),
        STRICT,
    )
    id: str = text_column(primary=True)
    owner: str = text_column()
    topup: str = text_column()
    amount_cents: int = int_column()
    withdrawn_cents: int = int_column()
    fee_cents: int = int_column()
    cash_nano: int = int_column()
    owed_nano: int = int_column()
    state: str = text_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class EventTable(LedgerTable, table=True):
    """A notice from the payment processor."""

    __tablename__: ClassVar[str] = "stripe_event"
    __table_args__ = (CheckConstraint("state IN ('new', 'done', 'failed')", name="state"), STRICT)
    id: str = text_column(primary=True)
    kind: str = text_column()
    subject: str = text_column()
    state: str = text_column()
    tries: int = int_column()
    reason: str = text_column()
    created_ns: int = int_column()
    changed_ns: int = int_column()


class VerifiedTable(LedgerTable, table=True):
    """Up to where the journal has been audited."""

    __tablename__: ClassVar[str] = "verified"
    __table_args__ = (STRICT,)
    id: int = int_column(primary=True)
    number: int = int_column()
    hash: bytes = blob_column()
    counters: str = text_column()
    created_ns: int = int_column()


class FoldedTable(LedgerTable, table=True):
    """How far minutes have been folded into coarser sums."""

    __tablename__: ClassVar[str] = "folded"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("to_s % 60 = 0 AND minutes_from_s BETWEEN 0 AND to_s", name="minutes"),
        STRICT,
    )
    id: int = int_column(primary=True)
    to_s: int = int_column()
    minutes_from_s: int = int_column()


STATE_TABLES: Final[dict[type[StateRow], Table]] = {
    rows.OwnerRow: metadata.tables["owner"],
    rows.KeyRow: metadata.tables["api_key"],
    rows.KeySpendRow: metadata.tables["key_spend"],
    rows.QuotaRow: metadata.tables["quota"],
    rows.PriceRow: metadata.tables["price"],
    rows.LotRow: metadata.tables["lot"],
    rows.MachineRow: metadata.tables["machine"],
    rows.IdempotencyRow: metadata.tables["idempotency"],
    rows.OutcomeRow: metadata.tables["outcome"],
    rows.PayeeRow: metadata.tables["payee"],
    rows.TopUpRow: metadata.tables["topup"],
    rows.PayoutRow: metadata.tables["payout"],
    rows.RefundRow: metadata.tables["refund"],
    rows.DisputeRow: metadata.tables["dispute"],
    rows.EventRow: metadata.tables["stripe_event"],
    rows.VerifiedRow: metadata.tables["verified"],
    rows.FoldedRow: metadata.tables["folded"],
}
"""The table of each kind of row."""
