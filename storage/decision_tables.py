"""The tables of the router's own database; see `storage.decision_store`."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()
intents = Table(
    "intents",
    metadata,
    Column("machine", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("since_s", Float, nullable=False),
)

pins = Table(
    "pins",
    metadata,
    Column("machine", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("since_s", Float, nullable=False),
)

macs = Table(
    "macs",
    metadata,
    Column("machine", String, primary_key=True),
    Column("provider", String, nullable=False),
    Column("name", String, nullable=False),
    Column("chip", String, nullable=False),
    Column("memory_gb", Integer, nullable=False),
    Column("heard_s", Float),
)


def _log_table(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("request_id", String, primary_key=True),
        Column("attempt", Integer, primary_key=True),
        Column("at_s", Float, nullable=False),
        Column("machine", String),
        Column("body", LargeBinary, nullable=False),
        Index(f"{name}_at_s", "at_s"),
    )


decisions = _log_table("decisions")
outcomes = _log_table("outcomes")
packed = _log_table("packed")
snapshots = Table(
    "snapshots",
    metadata,
    Column("at_s", Float, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
