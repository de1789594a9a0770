"""Served against paid: each complete answer is in the books, or named, on both databases."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coster.main import app
from coster.paths import MarketPaths
from market.accounting.served import SETTLED_S, Served
from market.messages import Void
from market.routing.log import OutcomeRecord
from market.types import MachineId, RequestId
from storage.database import StorageError
from storage.decision_store import DecisionStore
from storage.opening import open_rows
from storage.served import PAGE, ROUTER_FILE, compare_served
from tests.support.places import Place

NOW_S = 2_000_000_000.0
OLD_S = NOW_S - SETTLED_S - 10


def outcome(
    request: str, tokens: int = 187, *, result: str = "ok", final: bool = True, at_s: float = OLD_S
) -> OutcomeRecord:
    return OutcomeRecord(
        RequestId(request), 1, MachineId("mac_1"), None, result, final, tokens, 0, 1.0, 2.0, at_s
    )


async def log(place: Place, *outcomes: OutcomeRecord) -> None:
    store = DecisionStore(place.data / ROUTER_FILE)
    await store.open()
    await store.append(outcomes)
    await store.close()


def compared(place: Place, since_s: float = 0.0) -> Served:
    rows = open_rows(place.data, place.database)
    try:
        return compare_served(place.data, rows, since_s=since_s, now_s=NOW_S)
    finally:
        rows.close()


@pytest.fixture
async def filled(place: Place) -> Place:
    """Two settled answers, one voided, one still on hold, one that expired early."""
    bench = await place.start(lease_ttl_s=3_600.0)
    for name in ("paid", "less", "void", "held", "short"):
        await bench.do(bench.admit(f"req_{name}"))
    await bench.do(bench.settle("req_paid"), bench.settle("req_less", 100))
    await bench.do(bench.settle("req_short", 64))
    await bench.do(Void(RequestId("req_void"), "gateway"))
    await bench.accountant.stop()
    return place


async def test_what_was_served_and_paid_is_not_named(filled: Place) -> None:
    """Nor what failed, was cancelled, is too young, or was before the time asked about."""
    await log(
        filled,
        outcome("req_paid"),
        outcome("req_less", 100),
        outcome("req_held"),
        outcome("req_failed", 5, result="failed"),
        outcome("req_left", 5, result="cancelled"),
        outcome("req_part", 5, final=False),
        outcome("req_young", at_s=NOW_S - SETTLED_S + 1),
        outcome("req_ancient", at_s=5.0),
    )

    found = compared(filled, since_s=10.0)

    assert found.ok
    assert (found.waiting, found.unpaid) == (1, [])
    assert found.as_json()["answers"] == found.as_json()["paid_answers"] == 2
    mac = found.machines[MachineId("mac_1")]
    assert (mac.tokens, mac.paid_tokens) == (287, 287)


async def test_what_was_served_and_not_paid_is_named(filled: Place) -> None:
    """Voided, unknown to the books, or paid for fewer tokens than were delivered."""
    await log(
        filled,
        outcome("req_paid"),
        outcome("req_void"),
        outcome("req_short", 100),
        outcome("req_nowhere"),
    )

    found = compared(filled)

    assert not found.ok
    told = {
        one.request_id: (one.status, one.served_tokens, one.paid_tokens) for one in found.unpaid
    }
    assert told == {
        "req_void": ("voided", 187, 0),
        "req_short": ("settled", 100, 64),
        "req_nowhere": ("unknown", 187, 0),
    }
    assert found.unpaid_count == 3


async def test_a_long_log_is_read_in_pages(filled: Place) -> None:
    """Every answer once, however many there are."""
    await log(filled, *(outcome(f"req_{n}", at_s=OLD_S - n / 10) for n in range(2 * PAGE + 7)))

    assert compared(filled).unpaid_count == 2 * PAGE + 7


async def test_without_a_log_there_is_nothing_to_compare(filled: Place) -> None:
    """It is said, and not called a success."""
    with pytest.raises(StorageError, match="no log of the router"):
        compared(filled)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", "reconcile", "--served", *words])
    return result.exit_code, result.output


def test_the_command_says_how_it_stands(tmp_path: Path) -> None:
    """0 when all is paid, 6 and the answer by name when not; with --json the whole of it."""
    place = Place(tmp_path / "data", "")

    async def fill() -> None:
        bench = await place.start()
        await bench.do(bench.admit("req_paid"))
        await bench.do(bench.settle("req_paid"))
        await bench.accountant.stop()
        await log(place, outcome("req_paid", at_s=time.time() - 3_600))

    asyncio.run(fill())
    MarketPaths(place.data).prepare()
    data = ("--data", str(place.data))
    code, text = run(*data)
    assert (code, text.splitlines()[0]) == (
        0,
        "✓ 1 answers served, 1 paid, 0 not or not wholly",
    )
    asyncio.run(log(place, outcome("req_nowhere", at_s=time.time() - 3_600)))
    code, text = run(*data)
    assert code == 6
    assert "request_id req_nowhere" in text
    code, text = run(*data, "--json")
    assert json.loads(text)["unpaid"][0]["status"] == "unknown"
    code, text = run("--data", str(tmp_path / "empty"))
    assert code == 1
