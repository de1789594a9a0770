"""The router's own database, `router.db`: intents, Macs, decisions, outcomes, snapshots.

A second file with its own single writer, never the ledger's: what is written here at a
high rate must not delay or endanger money. It is a log, not a book: bodies are JSON, so a
version number in the file is enough and no migration tool is needed. All work happens on
one thread of its own, so that no statements of two callers can interleave.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Table, create_engine, delete, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from market.errors import Internal
from market.routing.log import (
    DecisionRecord,
    FleetSnapshot,
    Intent,
    LogRecord,
    OutcomeRecord,
    ScoredMac,
)
from market.routing.roster import KnownMac
from market.types import MachineId, ModelId, ProviderId, RequestId
from storage import decision_tables as tables
from storage.database import BUSY_TIMEOUT_MS, SQLITE_FAULTS, read_only_uri

SCHEMA_VERSION = 1
PACKED_KEPT = 100_000
"""Decisions that can be replayed: the newest ones, about 1 KB each over ten Macs."""

MAX_ROWS = 1_000_000
"""Attempts kept however young: about 1.5 KB each, 1.5 GB."""

Result = TypeVar("Result")


class StoreUnusable(Internal):
    """The router's database cannot be opened."""


class DecisionStore:
    """What the router remembers beyond its own life, in one SQLite file.

    Losing the last second of decisions in a crash is acceptable, losing an intent is not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="router-db")
        self._engine: Engine | None = None

    async def open(self) -> None:
        """Open or create the file; raises StoreUnusable with the way out."""
        try:
            await self._on_thread(self._open)
        except (DatabaseError, *SQLITE_FAULTS, OSError) as error:
            raise _unusable(self._path, error) from error

    async def intents(self) -> list[Intent]:
        """Drains, private Macs and pins, in order of machine."""
        drains = select(tables.intents).order_by(tables.intents.c.machine, tables.intents.c.kind)
        pins = select(tables.pins).order_by(tables.pins.c.machine, tables.pins.c.model)
        rows = await self._read(lambda c: (c.execute(drains).all(), c.execute(pins).all()))
        found = [Intent(MachineId(r.machine), r.kind, r.reason, r.since_s) for r in rows[0]]
        return found + [
            Intent(MachineId(r.machine), "pin", r.reason, r.since_s, ModelId(r.model))
            for r in rows[1]
        ]

    async def put_intent(self, intent: Intent) -> None:
        """Remember an intent, replacing the same one; durable when this returns."""
        row = asdict(intent)
        is_pin = intent.kind == "pin"
        table, other = (tables.pins, "kind") if is_pin else (tables.intents, "model")
        del row[other]
        statement = insert(table).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["machine", "model" if is_pin else "kind"],
            set_={"reason": statement.excluded.reason, "since_s": statement.excluded.since_s},
        )
        await self._write(lambda c: c.execute(statement))

    async def drop_drain(self, machine: MachineId) -> None:
        """Forget a drain, if there is one; durable when this returns."""
        await self._drop(machine, "drain")

    async def drop_private(self, machine: MachineId) -> None:
        """A Mac is public again; durable when this returns."""
        await self._drop(machine, "private")

    async def _drop(self, machine: MachineId, kind: str) -> None:
        same = (tables.intents.c.machine == machine) & (tables.intents.c.kind == kind)
        await self._write(lambda c: c.execute(delete(tables.intents).where(same)))

    async def drop_pin(self, machine: MachineId, model: ModelId) -> None:
        """Forget a pin, if there is one; durable when this returns."""
        same = (tables.pins.c.machine == machine) & (tables.pins.c.model == model)
        await self._write(lambda c: c.execute(delete(tables.pins).where(same)))

    async def known_macs(self) -> list[KnownMac]:
        """Every Mac that was put and not dropped, by machine. Nobody has declared it yet."""
        rows = await self._read(
            lambda c: c.execute(select(tables.macs).order_by(tables.macs.c.machine)).all()
        )
        return [
            KnownMac(
                MachineId(r.machine), ProviderId(r.provider), r.name, r.chip, r.memory_gb, r.heard_s
            )
            for r in rows
        ]

    async def put_macs(self, macs: Sequence[KnownMac]) -> None:
        """Remember these, replacing what was known of them. `heard_s` is a Unix time."""
        rows = [asdict(mac) for mac in macs]
        for row in rows:
            del row["declared"]
        if rows:
            await self._write(
                lambda c: c.execute(insert(tables.macs).prefix_with("OR REPLACE"), rows)
            )

    async def drop_macs(self, machines: Sequence[MachineId]) -> None:
        """Forget these."""
        gone = tables.macs.c.machine.in_(machines)
        if machines:
            await self._write(lambda c: c.execute(delete(tables.macs).where(gone)))

    async def append(self, records: Sequence[LogRecord]) -> None:
        """Store a batch in one transaction; a newer record of one attempt replaces it."""
        if records:
            await self._write(lambda c: _append(c, records))

    async def records_of(self, request_id: RequestId) -> list[DecisionRecord | OutcomeRecord]:
        """Everything stored about one request, in order of attempt."""

        def read(connection: Connection) -> list[DecisionRecord | OutcomeRecord]:
            found: list[DecisionRecord | OutcomeRecord] = [
                _decision(orjson.loads(row.body))
                for row in connection.execute(_of_request(tables.decisions, request_id))
            ]
            found += [
                OutcomeRecord(**orjson.loads(row.body))
                for row in connection.execute(_of_request(tables.outcomes, request_id))
            ]
            return sorted(found, key=lambda r: (r.attempt, isinstance(r, OutcomeRecord)))

        return await self._read(read)

    async def packed_of(self, request_id: RequestId, attempt: int) -> bytes | None:
        """What replaying this decision needs, if it is still kept."""
        same = (tables.packed.c.request_id == request_id) & (tables.packed.c.attempt == attempt)
        query = select(tables.packed.c.body).where(same)
        return await self._read(lambda c: c.execute(query).scalar_one_or_none())

    async def prune(self, before_s: float) -> int:
        """Delete what is older than this, and the oldest beyond `MAX_ROWS`."""
        return await self._write(lambda c: sum(_prune(c, t, before_s) for t in _LOGS))

    async def close(self) -> None:
        """Idempotent."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, engine.dispose)
        self._thread.shutdown(wait=True)

    # ── on the thread ─────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.touch(mode=0o600)
        with closing(sqlite3.connect(self._path)) as connection:
            _refuse_newer(connection)
        engine = create_engine(f"sqlite:///{self._path}", poolclass=StaticPool)
        event.listen(engine, "connect", _set_pragmas)
        try:
            with engine.begin() as made:
                tables.metadata.create_all(made)
                made.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
                # What the router reads first must be readable before it says it is ready.
                for query in _FIRST_READS:
                    made.exec_driver_sql(query).all()
        except BaseException:
            engine.dispose()
            raise
        self._engine = engine

    async def _write(self, work: Callable[[Connection], Result]) -> Result:
        def run() -> Result:
            with self._opened().begin() as connection:
                return work(connection)

        return await self._on_thread(run)

    async def _read(self, work: Callable[[Connection], Result]) -> Result:
        def run() -> Result:
            with self._opened().connect() as connection:
                return work(connection)

        return await self._on_thread(run)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _opened(self) -> Engine:
        if self._engine is None:
            raise StoreUnusable(f"The router's log {self._path} is not open.")
        return self._engine


_LOGS = (tables.decisions, tables.outcomes, tables.snapshots, tables.packed)


# Every intent is read at start; of the logs, the ends of table and index are looked at.
_FIRST_READS = (
    "SELECT * FROM intents",
    "SELECT * FROM pins",
    "SELECT * FROM macs",
    *(f"SELECT * FROM {table.name} ORDER BY at_s LIMIT 1" for table in _LOGS),  # noqa: S608
    *(f"SELECT * FROM {table.name} ORDER BY at_s DESC LIMIT 1" for table in _LOGS),  # noqa: S608
)


def check(path: Path) -> None:
    """Look whether the router's log can be used, without changing it, beside a market too.

    Silent when there is no such file yet; else raises StoreUnusable when it is no
    database, is damaged at its head, or a newer version has written it.
    """
    try:
        if not path.exists():
            return
        with closing(sqlite3.connect(read_only_uri(path), uri=True)) as connection:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            if _refuse_newer(connection):
                present = {name for (name,) in connection.execute(_TABLE_NAMES)}
                for table, query in zip(
                    (tables.intents, tables.pins, tables.macs, *_LOGS, *_LOGS),
                    _FIRST_READS,
                    strict=True,
                ):
                    if table.name in present:  # open() makes the ones that are not
                        connection.execute(query).fetchall()
    except (*SQLITE_FAULTS, OSError) as error:
        raise _unusable(path, error) from error


_TABLE_NAMES = "SELECT name FROM sqlite_schema WHERE type = 'table'"


def _refuse_newer(connection: sqlite3.Connection) -> bool:
    """Whether the file holds anything; raises OSError when it is a newer version's."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (present,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if present and version > SCHEMA_VERSION:
        raise OSError(f"it was written by a newer version (schema {version})")
    return bool(present)


def _unusable(path: Path, error: Exception) -> StoreUnusable:
    reason = str(getattr(error, "orig", None) or error)
    if isinstance(error, UnicodeDecodeError):
        reason = "its schema is damaged"
    return StoreUnusable(
        f"The router's log {path} cannot be opened: {reason}. It holds no money: move it away "
        "to start an empty one, or make its folder writable.",
        "data",
        "store_unusable",
    )


def _set_pragmas(connection: Any, _record: Any) -> None:
    """WAL; FULL, because an intent must outlive a power cut once it is acknowledged."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=2000"):
        connection.execute(f"PRAGMA {pragma}")


def _append(connection: Connection, records: Sequence[LogRecord]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in _LOGS}
    for record in records:
        values = asdict(record)
        packed = values.pop("packed", None)
        body = orjson.dumps(values)
        if isinstance(record, FleetSnapshot):
            rows["snapshots"].append({"at_s": record.taken_s, "body": body})
            continue
        is_decision = isinstance(record, DecisionRecord)
        row = {
            "request_id": record.request_id,
            "attempt": record.attempt,
            "at_s": record.decided_s if isinstance(record, DecisionRecord) else record.ended_s,
            "machine": record.chosen if isinstance(record, DecisionRecord) else record.machine,
            "body": body,
        }
        rows["decisions" if is_decision else "outcomes"].append(row)
        if packed is not None:
            rows["packed"].append({**row, "body": packed})
    for table in _LOGS:
        if rows[table.name]:
            connection.execute(table.insert().prefix_with("OR REPLACE"), rows[table.name])


def _of_request(table: Table, request_id: RequestId) -> Any:
    return select(table.c.body).where(table.c.request_id == request_id)


def _prune(connection: Connection, table: Table, before_s: float) -> int:
    gone = connection.execute(delete(table).where(table.c.at_s < before_s)).rowcount
    most = PACKED_KEPT if table is tables.packed else MAX_ROWS
    excess = connection.execute(select(func.count()).select_from(table)).scalar_one() - most
    if excess > 0:
        times = select(table.c.at_s).order_by(table.c.at_s).offset(excess).limit(1)
        cut_s = connection.execute(times).scalar_one()
        gone += connection.execute(delete(table).where(table.c.at_s < cut_s)).rowcount
    return int(gone)


def _decision(body: dict[str, Any]) -> DecisionRecord:
    body["narrowed"] = tuple(body.get("narrowed", ()))
    body["faults"] = tuple(body.get("faults", ()))
    body["counts"] = tuple((name, count) for name, count in body["counts"])
    body["top"] = tuple(
        ScoredMac(
            MachineId(mac["machine"]),
            ProviderId(mac["provider"]) if mac["provider"] is not None else None,
            mac["total_ms"],
            tuple((name, ms) for name, ms in mac["terms_ms"]),
        )
        for mac in body["top"]
    )
    return DecisionRecord(**body)
