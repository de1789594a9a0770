"""The router's process ends in the middle of everything: nobody is lost, nobody pays twice.

Every part is real but Ray; the kill flushes and answers nothing, as SIGKILL would. The same with
real processes is in `tests/chaos`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

import actors.clients
from market.settings import ModelSource, PlacementSettings
from market.types import MachineId, ModelId, RequestId
from serve_app.limits import Limits
from tests.http.asgi_client import Exchange
from tests.http.memory_accountant import ADA, TEN_DOLLARS
from tests.support.whole_macs import simulated
from tests.support.whole_market import Whole, whole_market

SEEDS = range(20 if os.environ.get("COSTER_LONG") else 1)
SMALL, MIDDLE = ModelId("qwen3.5-7b"), ModelId("qwen3.5-14b")
SOURCES = (ModelSource(SMALL), ModelSource(MIDDLE))
LIMITS = Limits(tick_s=0.05, queue_s=20.0)
CALL_S = 1.0
"""How long a call of the router is tried again."""
PATIENCE_S = 5.0
"""For a machine that is busy with other things."""
REQUESTS = 30
TOKENS = 12
DRAINED, PINNED = MachineId("mac_c"), MachineId("mac_b")


def chat(model: ModelId, number: int, *, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"one two three {number % 4}"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": stream,
    }


async def holding(market: Whole, machine: MachineId, model: ModelId) -> None:
    """Until this Mac serves this model."""
    async with asyncio.timeout(20):
        while model not in [facts.model for facts in market.macs[machine[4:]]._state.models]:
            await asyncio.sleep(0.02)


def text_of(exchange: Exchange) -> str:
    if exchange.status != 200:
        return ""
    if exchange.answer_headers["content-type"].startswith("text/event-stream"):
        return exchange.text
    return str(exchange.json["choices"][0]["message"]["content"])


async def unbroken(market: Whole, model: ModelId) -> set[str]:
    """What this model says to each of the questions."""
    asked = (market.ask(chat(model, number, stream=False)) for number in range(4))
    return {text_of(exchange) for exchange in await asyncio.gather(*asked)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_router_killed_under_load_loses_nobody(tmp_path: Path, seed: int) -> None:
    """Every request that runs or waits is answered, whole and charged once; the drain and the pin
    hold, and no Mac is told to let go of what it has.
    """
    random = Random(seed)
    macs = [simulated(name, SMALL, MIDDLE, slots=3) for name in "abc"]
    async with whole_market(
        tmp_path, *macs, sources=SOURCES, limits=LIMITS, placement=PlacementSettings()
    ) as market:
        await market.called("pin", PINNED, MIDDLE, "a customer")
        await holding(market, PINNED, MIDDLE)
        await holding(market, MachineId("mac_a"), SMALL)
        await market.called("drain", DRAINED, "an update")
        had = {name: {f.model for f in mac._state.models} for name, mac in market.macs.items()}
        whole = {model: await unbroken(market, model) for model in (SMALL, MIDDLE)}
        before = len(market.links.dispatched)

        asked = [
            asyncio.create_task(
                market.ask(chat(random.choice([SMALL, MIDDLE]), at, stream=bool(at % 2)))
            )
            for at in range(REQUESTS)
        ]
        for _ in range(2):
            await asyncio.sleep(random.uniform(0.05, 0.3))
            await market.kill_router()
            await asyncio.sleep(random.uniform(0.1, 0.4))
            await market.start_router()
        exchanges = await asyncio.gather(*asked)
        await market.settled()

        for exchange in exchanges:
            assert exchange.status == 200, exchange.content
            row = market.row(exchange)
            assert text_of(exchange) in whole[row.model]
            assert (row.status, row.attempts, row.completion_tokens) == ("settled", 1, TOKENS)
        dispatched = market.links.dispatched[before:]
        ids = [request_id for _, _, request_id in dispatched]
        assert sorted(set(ids)) == sorted(ids)
        assert len(ids) == REQUESTS
        assert DRAINED not in {machine for _, machine, _ in dispatched}
        spent = TEN_DOLLARS - (await market.books.balance(ADA)).promo_nano
        assert spent == sum(row.cost_nano for row in market.ledger.requests.values())

        await asyncio.sleep(1.5)  # plans are made, and orders given, by the new router
        told = await market.called("placement")
        assert [(pin["machine"], pin["model"]) for pin in told["pins"]] == [(PINNED, MIDDLE)]
        assert (await market.called("status"))["drains"] == {DRAINED: "an update"}
        has = {name: {f.model for f in mac._state.models} for name, mac in market.macs.items()}
        assert all(has[name] >= had[name] for name in had)
        assert MIDDLE in has["b"]
    print(f"seed {seed}: {REQUESTS} requests over two kills, {REQUESTS} answered, 1 charge each")


async def test_who_waits_for_a_router_that_stays_away_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the deadline of the queue each is refused with 503 and when to come back, and pays
    nothing; what ran goes on to its end.
    """
    monkeypatch.setattr(actors.clients, "ROUTER_S_MAX", CALL_S)
    limits = Limits(tick_s=0.05, queue_s=1.0)
    macs = [simulated("a", SMALL, slots=2)]
    async with whole_market(tmp_path, *macs, sources=SOURCES[:1], limits=limits) as market:
        body = chat(SMALL, 0, stream=False) | {"max_tokens": 120}
        running = [asyncio.create_task(market.ask(body)) for _ in range(2)]
        while len(market.links.dispatched) < 2:
            await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(market.ask(body)) for _ in range(6)]
        await asyncio.sleep(0.1)
        await market.kill_router()
        async with asyncio.timeout(limits.queue_s + CALL_S + PATIENCE_S):
            refused = await asyncio.gather(*waiting)
        assert {exchange.status for exchange in refused} == {503}
        assert all("retry-after" in exchange.answer_headers for exchange in refused)
        assert {exchange.status for exchange in await asyncio.gather(*running)} == {200}
        await market.start_router()
        await market.beat()
        await market.settled()
        charged = [row for row in market.ledger.requests.values() if row.cost_nano]
        assert {row.request_id for row in charged} == {
            RequestId(exchange.answer_headers["x-coster-request-id"])
            for exchange in (task.result() for task in running)
        }
