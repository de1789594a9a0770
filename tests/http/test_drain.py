"""A market that stops: whoever is still served is told so, and nobody pays for half an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from market.messages import Admit, Settle, Void
from serve_app import app as app_module
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market

WHY = "The market is draining."


async def until_running(market: Market, exchange: Exchange, *, writes: int) -> None:
    """Wait until the request is under way and so much of its answer is out."""
    async with asyncio.timeout(5):
        while market.app.running == 0 or exchange.writes < writes:
            await asyncio.sleep(0.002)


async def test_a_stream_ends_in_words_and_nobody_pays(tmp_path: Path) -> None:
    """`error` with code draining, finish_reason error, [DONE]; the Mac stops, the hold is void."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.02))
    exchange = ask(chat(stream=True))
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=3)

    await market.app.end_all(WHY)
    assert market.app.running == 0
    await running

    last = exchange.events[-1]
    assert last["error"]["code"] == "draining"
    assert last["error"]["message"].startswith(WHY)
    assert last["choices"][0]["finish_reason"] == "error"
    assert exchange.content.endswith(b"data: [DONE]\n\n")
    assert 0 < len(exchange.text) < 24
    assert market.fleet.macs[0].cancelled
    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


@pytest.mark.parametrize("slots", [1, 0], ids=["on a silent Mac", "in the queue"])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_has_no_answer_yet_is_503(tmp_path: Path, slots: int, stream: bool) -> None:
    """On a Mac or in the queue, streamed or whole: a status, and when to come again."""
    market = Market(tmp_path, None, Mac("a", slots=slots, silent=True))
    exchange = ask(chat(stream=stream))
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=0)
    await asyncio.sleep(0.02)

    await market.app.end_all(WHY)
    await running

    assert (exchange.status, exchange.error["code"]) == (503, "draining")
    assert exchange.answer_headers["retry-after"] == "5"
    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_whoever_comes_after_the_end_is_refused(market: Market) -> None:
    """503 with the same code, and no hold is made."""
    await market.app.end_all(WHY)

    exchange = await ask().go(market.app)

    assert (exchange.status, exchange.error["code"]) == (503, "draining")
    assert not market.fleet.requests


async def test_an_actor_that_hangs_does_not_keep_the_client(market: Market) -> None:
    """An admission without an answer is left behind, told, and voided if it was made."""
    hang(market, Admit)
    exchange = ask()
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=0)

    await market.app.end_all(WHY)
    await running

    assert (exchange.status, exchange.error["code"]) == (503, "draining")
    await settled(market)


async def test_the_client_is_told_before_the_ledger_is(tmp_path: Path) -> None:
    """A void that hangs does not keep the answer back; it is made in its own time."""
    market = Market(tmp_path, None, Mac("a", silent=True))
    release = hang(market, Void)
    exchange = ask()
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=0)
    await asyncio.sleep(0.02)

    await market.app.end_all(WHY)
    assert market.app.running == 0
    await running
    release.set()

    assert (exchange.status, exchange.error["code"]) == (503, "draining")
    await settled(market)


async def test_a_charge_under_way_is_not_called_free(market: Market) -> None:
    """A complete answer whose charge hangs ends with settlement_delayed, and is charged."""
    release = hang(market, Settle)
    exchange = ask(chat(stream=True))
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=1)
    await asyncio.sleep(0.05)

    await market.app.end_all(WHY)
    await running
    release.set()

    assert exchange.events[-1]["error"]["code"] == "settlement_delayed"
    await settled(market)
    (row,) = market.accountant.rows.values()
    assert (row.status, row.completion_tokens) == ("settled", 24)


async def test_a_reader_that_stands_still_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It is dropped, and pays nothing either."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.005))
    exchange = ask(chat(stream=True), stall_after=2)
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=2)

    await market.app.end_all(WHY)
    await running

    assert market.app.running == 0
    await settled(market)
    assert market.ada.credit_nano == TEN_DOLLARS


async def test_stopping_ends_what_outlasts_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's shutdown event comes to the same terminal event."""
    monkeypatch.setattr(app_module, "CLOSE_S", 0.05)
    market = Market(tmp_path, None, Mac("a", pace_s=0.05))
    exchange = ask(chat(stream=True))
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=1)

    await lifespan_shutdown(market)
    await running

    assert exchange.events[-1]["error"]["code"] == "draining"
    await settled(market)


async def test_stopping_lets_a_short_answer_finish(tmp_path: Path) -> None:
    """Within the grace an answer comes to its own end."""
    market = Market(tmp_path, None, Mac("a", pace_s=0.002))
    exchange = ask(chat(stream=True))
    running = asyncio.create_task(exchange.go(market.app))
    await until_running(market, exchange, writes=1)

    await lifespan_shutdown(market)
    await running

    assert len(exchange.text) == 24
    assert exchange.events[-1]["choices"][0]["finish_reason"] == "stop"


def hang(market: Market, kind: type) -> asyncio.Event:
    """Leave operations of this kind unanswered until the event returned is set."""
    release = asyncio.Event()
    answer = market.accountant.op

    async def op(asked: Any) -> Any:
        if isinstance(asked, kind):
            await release.wait()
        return await answer(asked)

    market.accountant.op = op  # type: ignore[method-assign]
    return release


async def lifespan_shutdown(market: Market) -> None:
    """Tell the app that its server stops, as an ASGI server does."""
    told: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.shutdown"}

    async def send(message: Any) -> None:
        told.append(message["type"])

    await market.app({"type": "lifespan"}, receive, send)
    assert told == ["lifespan.shutdown.complete"]
