"""Clients that leave, stall or read slowly: they pay for what they were sent, no more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app import metric_names
from serve_app.limits import Limits
from tests.http.asgi_client import ask, chat, settled
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market

QUICK = Limits(
    tick_s=0.01,
    heartbeat_s=0.03,
    settle_wait_s=0.1,
    settle_background_s=5.0,
    settle_pause_s=0.01,
    write_s=0.05,
    checkpoint_s=0.02,
    checkpoint_tokens=8,
)


@pytest.fixture
def quick(tmp_path: Path) -> Market:
    """A market whose bounds are milliseconds."""
    return Market(tmp_path, QUICK)


async def test_a_client_that_leaves_pays_for_what_it_was_sent(tmp_path: Path) -> None:
    """The Mac is stopped at once and the bill ends at the last write."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.005))

    exchange = await ask(chat(stream=True), leave_after=4).go(market.app)

    await settled(market)
    (row,) = market.accountant.rows.values()
    received = len(exchange.text)
    assert (row.status, row.finish_reason) == ("settled", "cancelled")
    assert received <= row.completion_tokens <= received + 1
    assert set(market.fleet.macs[0].cancelled) == {row.request_id}
    assert market.fleet.outcomes[-1].result == "cancelled"


async def test_a_client_that_leaves_before_the_first_token_pays_nothing(
    tmp_path: Path,
) -> None:
    """Nothing was delivered, so the hold is void."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.02))
    exchange = ask(chat(stream=True))
    running = asyncio.create_task(exchange.go(market.app))
    await asyncio.sleep(0.01)

    exchange.left.set()
    await running

    await settled(market)
    assert exchange.out == []
    assert market.ada.credit_nano == TEN_DOLLARS
    assert market.fleet.macs[0].cancelled


async def test_a_client_that_leaves_the_queue_leaves_nothing(tmp_path: Path) -> None:
    """Its place, its hold and a slot it may still be given are all released."""
    market = Market(tmp_path, None, Mac("only", slots=0))
    exchange = ask()
    running = asyncio.create_task(exchange.go(market.app))
    await asyncio.sleep(0.03)

    exchange.left.set()
    await running
    market.fleet.macs[0].slots = 1

    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_cancelling_the_task_at_any_moment_closes_the_books(tmp_path: Path) -> None:
    """A server that cancels instead of telling us loses neither money nor a slot."""
    for delay_ms in range(0, 40, 2):
        market = Market(tmp_path, QUICK, Mac("a", pace_s=0.001), Mac("b"))
        market.accountant.away = delay_ms % 3
        running = asyncio.create_task(ask(chat(stream=bool(delay_ms % 4))).go(market.app))
        await asyncio.sleep(delay_ms / 1000)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await settled(market)


async def test_a_reader_that_stands_still_is_cut_off(quick: Market) -> None:
    """One blocked write ends the request; what was sent is charged, the rest is not."""
    quick.fleet.macs[0].pace_s = 0.01

    exchange = await ask(chat(stream=True), stall_after=3).go(quick.app)

    await settled(quick)
    (row,) = quick.accountant.rows.values()
    assert (row.status, row.finish_reason) == ("settled", "cancelled")
    assert row.completion_tokens < 24
    assert quick.app.counters()[metric_names.SLOW_READERS] == 1
    assert b"[DONE]" not in exchange.content
    assert quick.fleet.macs[0].cancelled


async def test_even_the_last_write_is_not_waited_for_for_ever(quick: Market) -> None:
    """A reader that stands still at the end has been charged, once, and is let go."""
    await ask(stall_after=1).go(quick.app)

    await settled(quick)
    (row,) = quick.accountant.rows.values()
    assert (row.status, row.completion_tokens) == ("settled", 24)


async def test_a_slow_readers_buffer_is_bounded(tmp_path: Path) -> None:
    """Past the bound the Mac is stopped and the stream ends with a reason."""
    market = Market(tmp_path, replace(QUICK, buffer_bytes=1_000, write_s=5.0))
    exchange = ask(chat(stream=True), stall_after=1)
    running = asyncio.create_task(exchange.go(market.app))
    await asyncio.sleep(0.1)
    assert market.fleet.macs[0].cancelled

    exchange.stall_after = None
    exchange.resume.set()
    await running

    assert exchange.events[-1]["error"]["code"] == "slow_reader"
    await settled(market)
    (row,) = market.accountant.rows.values()
    assert row.completion_tokens == len(exchange.text)


async def test_a_stuck_client_that_leaves_stops_its_mac_at_once(tmp_path: Path) -> None:
    """Not only after the write that is under way has failed."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.005))
    exchange = ask(chat(stream=True), stall_after=2)
    running = asyncio.create_task(exchange.go(market.app))
    while exchange.writes < 2:
        await asyncio.sleep(0.005)
    assert not market.fleet.macs[0].cancelled

    exchange.left.set()
    await asyncio.sleep(0.01)
    assert market.fleet.macs[0].cancelled
    exchange.stall_after = None
    exchange.resume.set()
    await running

    await settled(market)
