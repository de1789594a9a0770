"""The ledger's schema, as SQLModel tables: the books. `storage.state_tables` has the rest.

Used for migrations, for reads and to derive the statements of the hot path; never as ORM
objects on it (1.3 to 3.5 ms of CPU per row against 10 µs). Column order is the field order
of the rows in `market.accounting.rows` and `.chain`, younger columns last: a test holds the
two together.

Journal tables (`account` identities, `transfer`, `request`, `delivery`, `operation`, `batch`)
refuse UPDATE, DELETE and TRUNCATE by trigger; `hold` refuses changes to its frozen terms. All
tables are STRICT on SQLite. Sums are 64-bit integers of nano-USD; times nanoseconds since 1970.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import registry
from sqlalchemy.types import TypeEngine
from sqlmodel import Field, SQLModel

from market.accounting.chart import NO_NEGATIVE

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# STRICT tables know INTEGER (64 bit), REAL, TEXT and BLOB only; PostgreSQL needs BIGINT.
Int64 = BigInteger().with_variant(Integer(), "sqlite")
# Compared byte by byte: an index must not depend on what an operating system calls sorted.
Words: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
Real: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
STRICT = {"sqlite_strict": True}


class LedgerTable(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the ledger's tables: their metadata is no one else's."""


metadata = LedgerTable.metadata


def int_column(*, primary: bool = False, null: bool = False, default: str | None = None) -> Any:
    column: Column[Any] = Column(
        Int64, primary_key=primary, nullable=null, server_default=default, autoincrement=False
    )
    return Field(sa_column=column)


def text_column(*, primary: bool = False, null: bool = False) -> Any:
    return Field(sa_column=Column(Words, primary_key=primary, nullable=null))


def blob_column() -> Any:
    return Field(sa_column=Column(LargeBinary, nullable=False))


def word_column() -> Any:
    """Text that is "" where nothing is said."""
    return Field(sa_column=Column(Words, nullable=False, server_default=""))


def real_column() -> Any:
    return Field(sa_column=Column(Real, nullable=False))


class MetaTable(LedgerTable, table=True):
    """One row: who may write (the epoch), where the chain ends, the last ledger time."""

    __tablename__: ClassVar[str] = "meta"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), STRICT)
    id: int = int_column(primary=True)
    epoch: int = int_column()
    head_number: int = int_column()
    head_hash: bytes = blob_column()
    last_ts_ns: int = int_column()


_PROTECTED = ", ".join(str(int(code)) for code in sorted(NO_NEGATIVE))


class AccountTable(LedgerTable, table=True):
    """A ledger account: identity (journal) and four counters (state)."""

    __tablename__: ClassVar[str] = "account"
    __table_args__ = (
        UniqueConstraint("code", "owner"),
        CheckConstraint("dp >= 0 AND dpo >= 0 AND cp >= 0 AND cpo >= 0", name="counters"),
        CheckConstraint(f"code NOT IN ({_PROTECTED}) OR dp + dpo <= cpo", name="no_negative"),
        STRICT,
    )
    number: int = int_column(primary=True)
    code: int = int_column()
    owner: str = text_column()
    batch: int = int_column()
    crc: int = int_column()
    dp: int = int_column(default="0")
    dpo: int = int_column(default="0")
    cp: int = int_column(default="0")
    cpo: int = int_column(default="0")


class TransferTable(LedgerTable, table=True):
    """One posting. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "transfer"
    __table_args__ = (
        UniqueConstraint("id", "leg"),
        CheckConstraint("amount_nano > 0", name="amount"),
        STRICT,
    )
    seq: int = int_column(primary=True)
    id: str = text_column()
    leg: int = int_column()
    debit: int = int_column()
    credit: int = int_column()
    amount_nano: int = int_column()
    code: int = int_column()
    ts_ns: int = int_column()
    batch: int = int_column()
    crc: int = int_column()


class HoldTable(LedgerTable, table=True):
    """An open hold: frozen terms and the last checkpoint.

    Gone when the request ends: the `request` row then carries the terms, so this table
    stays as small as the load.
    """

    __tablename__: ClassVar[str] = "hold"
    __table_args__ = (
        CheckConstraint(
            "promo_nano >= 0 AND cash_nano >= 0 AND earnings_nano >= 0", name="funding"
        ),
        CheckConstraint("max_tokens >= 1 AND n >= 1 AND prompt_tokens >= 0", name="tokens"),
        CheckConstraint("fee_bps BETWEEN 0 AND 10000", name="fee"),
        STRICT,
    )
    request_id: str = text_column(primary=True)
    owner: str = text_column()
    key_id: str = text_column()
    model: str = text_column()
    prompt_tokens: int = int_column()
    asked_max_tokens: int | None = int_column(null=True)
    max_tokens_cap: int = int_column()
    n: int = int_column()
    max_tokens: int = int_column()
    promo_nano: int = int_column()
    cash_nano: int = int_column()
    earnings_nano: int = int_column()
    price_in_nano: int = int_column()
    price_out_nano: int = int_column()
    fee_bps: int = int_column()
    created_ns: int = int_column()
    crc: int = int_column()
    ckpt_prompt_tokens: int = int_column(default="0")
    ckpt_completion_tokens: int = int_column(default="0")
    ckpt_cached_tokens: int = int_column(default="0")
    ckpt_reasoning_tokens: int = int_column(default="0")
    payee: str | None = text_column(null=True)
    machine: str | None = text_column(null=True)
    provider: str | None = text_column(null=True)
    price_cached_nano: int | None = int_column(null=True)
    idempotency: str | None = text_column(null=True)
    ask_pct: int = int_column(default="100")
    parts: str = word_column()


class RequestTable(LedgerTable, table=True):
    """One finished request. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "request"
    __table_args__ = (
        UniqueConstraint("request_id"),
        Index(None, "owner", "seq"),
        Index(None, "payee", "seq"),
        CheckConstraint("status IN ('settled', 'voided', 'expired')", name="status"),
        CheckConstraint("cost_nano = provider_nano + fee_nano", name="shares"),
        CheckConstraint("cost_nano = promo_nano + cash_nano + earnings_nano", name="funding"),
        CheckConstraint("cost_nano BETWEEN 0 AND held_nano", name="covered"),
        CheckConstraint(
            "cached_tokens <= prompt_tokens AND reasoning_tokens <= completion_tokens",
            name="tokens",
        ),
        STRICT,
    )
    seq: int = int_column(primary=True)
    request_id: str = text_column()
    owner: str = text_column()
    key_id: str = text_column()
    model: str = text_column()
    status: str = text_column()
    prompt_tokens: int = int_column()
    completion_tokens: int = int_column()
    cached_tokens: int = int_column()
    reasoning_tokens: int = int_column()
    cost_nano: int = int_column()
    provider_nano: int = int_column()
    fee_nano: int = int_column()
    promo_nano: int = int_column()
    cash_nano: int = int_column()
    earnings_nano: int = int_column()
    held_nano: int = int_column()
    price_in_nano: int = int_column()
    price_out_nano: int = int_column()
    fee_bps: int = int_column()
    max_tokens: int = int_column()
    n: int = int_column()
    payee: str | None = text_column(null=True)
    machine: str | None = text_column(null=True)
    provider: str | None = text_column(null=True)
    finish_reason: str = text_column()
    attempts: int = int_column()
    ttft_ms: float = real_column()
    total_ms: float = real_column()
    created_ns: int = int_column()
    finished_ns: int = int_column()
    batch: int = int_column()
    crc: int = int_column()
    price_cached_nano: int | None = int_column(null=True)
    deliveries: int | None = int_column(null=True)


class DeliveryTable(LedgerTable, table=True):
    """What one of several Macs delivered of a request. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "delivery"
    __table_args__ = (
        UniqueConstraint("request_id", "number"),
        Index(None, "payee", "seq"),
        CheckConstraint("number >= 0", name="number"),
        CheckConstraint("ask_pct BETWEEN 1 AND 100", name="ask"),
        CheckConstraint("cost_nano = provider_nano + fee_nano", name="shares"),
        CheckConstraint("cost_nano = promo_nano + cash_nano + earnings_nano", name="funding"),
        CheckConstraint(
            "cached_tokens >= 0 AND cached_tokens <= prompt_tokens AND completion_tokens >= 0",
            name="tokens",
        ),
        STRICT,
    )
    seq: int = int_column(primary=True)
    request_id: str = text_column()
    number: int = int_column()
    payee: str = text_column()
    machine: str | None = text_column(null=True)
    provider: str | None = text_column(null=True)
    prompt_tokens: int = int_column()
    cached_tokens: int = int_column()
    completion_tokens: int = int_column()
    ask_pct: int = int_column()
    price_in_nano: int = int_column()
    price_cached_nano: int = int_column()
    price_out_nano: int = int_column()
    cost_nano: int = int_column()
    provider_nano: int = int_column()
    fee_nano: int = int_column()
    promo_nano: int = int_column()
    cash_nano: int = int_column()
    earnings_nano: int = int_column()
    batch: int = int_column()
    crc: int = int_column()


class OperationTable(LedgerTable, table=True):
    """An administrative operation under its caller's idempotency key."""

    __tablename__: ClassVar[str] = "operation"
    __table_args__ = (UniqueConstraint("key"), STRICT)
    seq: int = int_column(primary=True)
    key: str = text_column()
    fingerprint: str = text_column()
    result: str = text_column()
    ts_ns: int = int_column()
    batch: int = int_column()
    crc: int = int_column()


class BatchTable(LedgerTable, table=True):
    """One commit's seal. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "batch"
    __table_args__ = (STRICT,)
    number: int = int_column(primary=True)
    ts_ns: int = int_column()
    epoch: int = int_column()
    accounts: int = int_column()
    transfers: int = int_column()
    requests: int = int_column()
    operations: int = int_column()
    hash: bytes = blob_column()
