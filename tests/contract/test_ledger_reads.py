"""The two kinds of connections: the writer's is durable, the readers' cannot write."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from market.types import RequestId
from storage.database import LEDGER_FILE, open_writer
from storage.opening import open_reads
from tests.support.ledger_bench import start


async def test_gateways_read_what_the_accountant_wrote(tmp_path: Path) -> None:
    """The read-only engine sees each commit and gives the same records."""
    data = tmp_path / "data"
    bench = await start(data)
    await bench.do(*(bench.admit(f"req_{number}") for number in range(3)))
    await bench.do(bench.settle("req_0"), bench.settle("req_1"))
    reads = open_reads(data)
    try:
        for limit in (0, 1, 10):
            mine = await bench.accountant.usage(bench.consumer, limit)
            assert await reads.usage(bench.consumer, limit) == mine
        row = await reads.generation(RequestId("req_1"))
        assert row == await bench.accountant.generation(None, RequestId("req_1"))
        assert await reads.generation(RequestId("req_2")) is None
    finally:
        await reads.close()
        await bench.accountant.stop()


async def test_the_read_side_cannot_write(tmp_path: Path) -> None:
    """Not by a slip either: SQLite itself refuses."""
    data = tmp_path / "data"
    bench = await start(data)
    reads = open_reads(data)
    try:
        async with reads._engine.connect() as connection:
            with pytest.raises(OperationalError, match="readonly"):
                await connection.execute(text("DELETE FROM hold"))
    finally:
        await reads.close()
        await bench.accountant.stop()


async def test_commits_survive_a_power_cut(tmp_path: Path) -> None:
    """The writer syncs its log at each commit: WAL with synchronous=FULL, macOS included."""

    def read(connection: sqlite3.Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "fullfsync")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    bench = await start(tmp_path / "data")
    writer = await open_writer(tmp_path / "data" / LEDGER_FILE)
    found = await writer.run(read)
    await writer.close()
    await bench.accountant.stop()

    assert found == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}
