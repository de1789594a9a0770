"""The read side of the ledger, from another connection than the writer's."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from market.types import RequestId
from storage.reads import LedgerReads
from tests.support.ledger_bench import start


async def test_gateways_read_what_the_accountant_wrote(tmp_path: Path) -> None:
    """The read-only engine sees each commit and gives the same records."""
    data = tmp_path / "data"
    bench = await start(data)
    await bench.do(*(bench.admit(f"req_{number}") for number in range(3)))
    await bench.do(bench.settle("req_0"), bench.settle("req_1"))
    reads = LedgerReads(data)
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
    reads = LedgerReads(data)
    try:
        async with reads._engine.connect() as connection:
            with pytest.raises(OperationalError, match="readonly"):
                await connection.execute(text("DELETE FROM hold"))
    finally:
        await reads.close()
        await bench.accountant.stop()
