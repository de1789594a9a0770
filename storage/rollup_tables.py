"""Sums of the journal by time: rows that are added to, and can be counted again at any time.

Column order is that of the keys and measures in `market.accounting.rollups`. Nothing here is
sealed by the chain: `coster ledger verify --rollups` compares it with what is.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index

from storage.tables import STRICT, LedgerTable, int_column, text_column

# Rows are found by their key alone, so on SQLite the key is where they are.
BY_KEY = {**STRICT, "sqlite_with_rowid": False}


class WorkSumTable(LedgerTable, table=True):
    """What a payee's machine did with a model in a minute, an hour, a day, or ever."""

    __tablename__: ClassVar[str] = "work_sum"
    __table_args__ = (
        Index(None, "payee", "span_s", "start_s"),
        CheckConstraint("span_s IN (0, 60, 3600, 86400)", name="span"),
        BY_KEY,
    )
    span_s: int = int_column(primary=True)
    start_s: int = int_column(primary=True)
    model: str = text_column(primary=True)
    machine: str = text_column(primary=True)
    payee: str = text_column(primary=True)
    requests: int = int_column()
    jobs: int = int_column()
    prompt_tokens: int = int_column()
    completion_tokens: int = int_column()
    cached_tokens: int = int_column()
    reasoning_tokens: int = int_column()
    cost_nano: int = int_column()
    earned_nano: int = int_column()
    timed: int = int_column()
    ttft_us: int = int_column()
    decode_us: int = int_column()
    decode_tokens: int = int_column()


class UseSumTable(LedgerTable, table=True):
    """What an owner's key used of a model in an hour, a day, or ever."""

    __tablename__: ClassVar[str] = "use_sum"
    __table_args__ = (CheckConstraint("span_s IN (0, 3600, 86400)", name="span"), BY_KEY)
    owner: str = text_column(primary=True)
    span_s: int = int_column(primary=True)
    start_s: int = int_column(primary=True)
    model: str = text_column(primary=True)
    key_id: str = text_column(primary=True)
    requests: int = int_column()
    failures: int = int_column()
    prompt_tokens: int = int_column()
    completion_tokens: int = int_column()
    cached_tokens: int = int_column()
    reasoning_tokens: int = int_column()
    cost_nano: int = int_column()
