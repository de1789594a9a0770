"""The ledger's schema, as SQLModel tables.

Used for migrations, for reads and to derive the statements of the hot path; never as ORM
objects on it (1.3 to 3.5 ms of CPU per row against 10 µs). Column order is the field order
of the rows in `market.accounting.rows` and `market.accounting.chain`: a test holds the two together.

Journal tables (`account` identities, `transfer`, `request`, `operation`, `batch`) refuse
UPDATE and DELETE by trigger; `hold` refuses changes to its frozen terms. All tables are
STRICT. Sums are 64-bit integers of nano-USD; times are nanoseconds since 1970.
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
Real: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
STRICT = {"sqlite_strict": True}


class LedgerTable(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """Base of the ledger's tables: their metadata is no one else's."""


metadata = LedgerTable.metadata


def _int(*, primary: bool = False, null: bool = False, default: str | None = None) -> Any:
    column: Column[Any] = Column(
        Int64, primary_key=primary, nullable=null, server_default=default, autoincrement=False
    )
    return Field(sa_column=column)


def _text(*, primary: bool = False, null: bool = False) -> Any:
    return Field(sa_column=Column(Text, primary_key=primary, nullable=null))


def _blob() -> Any:
    return Field(sa_column=Column(LargeBinary, nullable=False))


def _real() -> Any:
    return Field(sa_column=Column(Real, nullable=False))


class MetaTable(LedgerTable, table=True):
    """One row: who may write (the epoch), where the chain ends, the last ledger time."""

    __tablename__: ClassVar[str] = "meta"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), STRICT)
    id: int = _int(primary=True)
    epoch: int = _int()
    head_number: int = _int()
    head_hash: bytes = _blob()
    last_ts_ns: int = _int()


class OwnerTable(LedgerTable, table=True):
    """A customer."""

    __tablename__: ClassVar[str] = "owner"
    __table_args__ = (STRICT,)
    id: str = _text(primary=True)
    name: str = _text()
    tier: str = _text()
    created_ns: int = _int()


class KeyTable(LedgerTable, table=True):
    """An API key, known by its keyed hash."""

    __tablename__: ClassVar[str] = "api_key"
    __table_args__ = (UniqueConstraint("hash"), Index(None, "owner"), STRICT)
    id: str = _text(primary=True)
    owner: str = _text()
    hash: bytes = _blob()
    name: str = _text()
    prefix: str = _text()
    scopes: str = _text()
    created_ns: int = _int()
    expires_ns: int | None = _int(null=True)
    revoked_ns: int | None = _int(null=True)


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
    number: int = _int(primary=True)
    code: int = _int()
    owner: str = _text()
    batch: int = _int()
    crc: int = _int()
    dp: int = _int(default="0")
    dpo: int = _int(default="0")
    cp: int = _int(default="0")
    cpo: int = _int(default="0")


class TransferTable(LedgerTable, table=True):
    """One posting. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "transfer"
    __table_args__ = (
        UniqueConstraint("id", "leg"),
        CheckConstraint("amount_nano > 0", name="amount"),
        STRICT,
    )
    seq: int = _int(primary=True)
    id: str = _text()
    leg: int = _int()
    debit: int = _int()
    credit: int = _int()
    amount_nano: int = _int()
    code: int = _int()
    ts_ns: int = _int()
    batch: int = _int()
    crc: int = _int()


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
    request_id: str = _text(primary=True)
    owner: str = _text()
    key_id: str = _text()
    model: str = _text()
    prompt_tokens: int = _int()
    asked_max_tokens: int | None = _int(null=True)
    max_tokens_cap: int = _int()
    n: int = _int()
    max_tokens: int = _int()
    promo_nano: int = _int()
    cash_nano: int = _int()
    earnings_nano: int = _int()
    price_in_nano: int = _int()
    price_out_nano: int = _int()
    fee_bps: int = _int()
    created_ns: int = _int()
    crc: int = _int()
    ckpt_prompt_tokens: int = _int(default="0")
    ckpt_completion_tokens: int = _int(default="0")
    ckpt_cached_tokens: int = _int(default="0")
    ckpt_reasoning_tokens: int = _int(default="0")
    payee: str | None = _text(null=True)
    machine: str | None = _text(null=True)
    provider: str | None = _text(null=True)


class RequestTable(LedgerTable, table=True):
    """One finished request. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "request"
    __table_args__ = (
        UniqueConstraint("request_id"),
        Index(None, "owner", "seq"),
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
    seq: int = _int(primary=True)
    request_id: str = _text()
    owner: str = _text()
    key_id: str = _text()
    model: str = _text()
    status: str = _text()
    prompt_tokens: int = _int()
    completion_tokens: int = _int()
    cached_tokens: int = _int()
    reasoning_tokens: int = _int()
    cost_nano: int = _int()
    provider_nano: int = _int()
    fee_nano: int = _int()
    promo_nano: int = _int()
    cash_nano: int = _int()
    earnings_nano: int = _int()
    held_nano: int = _int()
    price_in_nano: int = _int()
    price_out_nano: int = _int()
    fee_bps: int = _int()
    max_tokens: int = _int()
    n: int = _int()
    payee: str | None = _text(null=True)
    machine: str | None = _text(null=True)
    provider: str | None = _text(null=True)
    finish_reason: str = _text()
    attempts: int = _int()
    ttft_ms: float = _real()
    total_ms: float = _real()
    created_ns: int = _int()
    finished_ns: int = _int()
    batch: int = _int()
    crc: int = _int()


class OperationTable(LedgerTable, table=True):
    """An administrative operation under its caller's idempotency key."""

    __tablename__: ClassVar[str] = "operation"
    __table_args__ = (UniqueConstraint("key"), STRICT)
    seq: int = _int(primary=True)
    key: str = _text()
    fingerprint: str = _text()
    result: str = _text()
    ts_ns: int = _int()
    batch: int = _int()
    crc: int = _int()


class QuotaTable(LedgerTable, table=True):
    """Tokens an account with a daily limit has used on its latest day."""

    __tablename__: ClassVar[str] = "quota"
    __table_args__ = (STRICT,)
    owner: str = _text(primary=True)
    day: int = _int()
    used_tokens: int = _int()


class BatchTable(LedgerTable, table=True):
    """One commit's seal. Never changed, never deleted."""

    __tablename__: ClassVar[str] = "batch"
    __table_args__ = (STRICT,)
    number: int = _int(primary=True)
    ts_ns: int = _int()
    epoch: int = _int()
    accounts: int = _int()
    transfers: int = _int()
    requests: int = _int()
    operations: int = _int()
    hash: bytes = _blob()
