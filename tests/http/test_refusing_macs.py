"""Macs that say no to everything, over the real wire: few are asked, none is asked for ever.

The router's clock runs faster than ours here, so that minutes of its cool-downs pass in seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import actors.clients
import actors.router
import actors.router_core
import actors.router_operator
from actors.engines.echo import EchoEngine
from actors.engines.factory import DEMO_FOLDER
from market.catalogue import DEMO_MODEL
from market.errors import Unavailable
from market.types import Event, Job, JobFailure, MachineId, RequestId
from serve_app.limits import Limits
from tests.http.memory_accountant import ADA, TEN_DOLLARS
from tests.support.whole_macs import OneMac
from tests.support.whole_market import Whole, whole_market

SPEED = 20.0
MINUTE_S = 60.0 / SPEED
BAD_S = 75.0 / SPEED
GOOD_S_MAX = 130.0 / SPEED
"""The longest cool-down is a minute; one good answer ends it."""

EVERY_S = 0.02
DISPATCHES_A_MINUTE_MAX = 9
ATTEMPTS_MAX = 3


class FastTime:
    """The clocks, running `SPEED` times as fast."""

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() * SPEED

    @staticmethod
    def time() -> float:
        return time.time()


class Moody(EchoEngine):
    """An engine that has no room, or fails at each job's first step, while it is told so."""

    def __init__(self) -> None:
        super().__init__(DEMO_MODEL, folder=DEMO_FOLDER)
        self.refuses = False
        self.breaks = False

    def submit(self, job: Job) -> None:
        if self.refuses:
            raise Unavailable("There is no room for this.", None, "rejected", 1.0)
        if not self.breaks:
            super().submit(job)
            return
        assert self._sink is not None
        fault = JobFailure("engine", "A step of the model failed.")
        failed = Event(job.request_id, 0, (), "", 0, "error", error=fault)
        asyncio.get_running_loop().call_soon(self._sink, [failed])


def chat(first: str) -> dict[str, Any]:
    return {
        "model": DEMO_MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "provider": {"order": [f"prv_{first}", "prv_good"]},
    }


def most_a_minute(market: Whole, machine: MachineId) -> int:
    """The most jobs that this Mac was given within any minute of the router's clock."""
    times = [at_s for at_s, asked, _ in market.links.dispatched if asked == machine]
    return max((sum(t <= s < t + MINUTE_S for s in times) for t in times), default=0)


def attempts(market: Whole) -> dict[RequestId, int]:
    found: dict[RequestId, int] = {}
    for _, _, request_id in market.links.dispatched:
        found[request_id] = found.get(request_id, 0) + 1
    return found


@asynccontextmanager
async def beating(market: Whole) -> AsyncIterator[None]:
    """Every Mac beats once a second of the router's clock."""

    async def beat() -> None:
        while True:
            await market.beat()
            await asyncio.sleep(0.8 / SPEED)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router in a hurry, and a gateway that declares itself as often."""
    for module in (actors.router, actors.router_core, actors.router_operator):
        monkeypatch.setattr(module, "time", FastTime)
    monkeypatch.setattr(actors.clients, "POLL_S", 1.0 / SPEED)


@pytest.mark.usefixtures("fast")
async def test_a_mac_that_refuses_everything_is_left_alone_and_taken_back(tmp_path: Path) -> None:
    """One has no room, one breaks and one cannot be reached: each gets fewer than ten jobs a
    minute although every request wishes for it, every request is answered in three attempts at
    most, and once they work all of them serve again.
    """
    engines = {name: Moody() for name in ("full", "broken", "away", "good")}
    macs = [OneMac(name, lambda _, name=name: engines[name]) for name in engines]  # type: ignore[misc]
    bad = ("full", "broken", "away")
    limits = Limits(tick_s=0.02, queue_s=600.0)
    async with whole_market(tmp_path, *macs, limits=limits) as market, beating(market):
        loop = asyncio.get_running_loop()
        engines["full"].refuses = True
        engines["broken"].breaks = True
        away = market.macs["away"]
        host, port = away._endpoint.host, away._endpoint.port
        await away._server.close()

        asked = []
        ends_s = loop.time() + BAD_S
        while loop.time() < ends_s:
            asked.append(asyncio.create_task(market.ask(chat(bad[len(asked) % 3]))))
            await asyncio.sleep(EVERY_S)
        statuses = {exchange.status for exchange in await asyncio.gather(*asked)}
        most = {name: most_a_minute(market, MachineId(f"mac_{name}")) for name in bad}
        assert statuses == {200}
        assert all(0 < count <= DISPATCHES_A_MINUTE_MAX for count in most.values()), most
        assert max(attempts(market).values()) <= ATTEMPTS_MAX
        print(f"{len(asked)} requests in 75 s; most jobs a minute: {most}")

        engines["full"].refuses = engines["broken"].breaks = False
        await away._server.listen(host, port)
        served: set[str] = set()
        ends_s = loop.time() + GOOD_S_MAX
        while not served >= set(bad) and loop.time() < ends_s:
            for name in sorted(set(bad) - served):
                exchange = await market.ask(chat(name))
                assert exchange.status == 200
                served |= {exchange.answer_headers["x-coster-provider"].removeprefix("prv_")}
            await asyncio.sleep(EVERY_S)
        assert served >= set(bad)


async def test_where_every_mac_refuses_nobody_is_tried_for_ever(tmp_path: Path) -> None:
    """Each request ends in 503 after three attempts at most, says when to come back, costs
    nothing, and leaves no slot held; the Macs are asked a few times in all.
    """
    engines = {name: Moody() for name in "abcd"}
    macs = [OneMac(name, lambda _, name=name: engines[name]) for name in engines]  # type: ignore[misc]
    async with whole_market(tmp_path, *macs, limits=Limits(tick_s=0.02, queue_s=1.0)) as market:
        for engine in engines.values():
            engine.refuses = True
        exchanges = await asyncio.gather(*(market.ask(chat("a")) for _ in range(40)))
        await market.settled()

        assert {exchange.status for exchange in exchanges} == {503}
        assert all("retry-after" in exchange.answer_headers for exchange in exchanges)
        codes = {exchange.error["code"] for exchange in exchanges}
        assert codes <= {"attempts_exhausted", "queue_timeout", "deadline_infeasible"}
        assert max(attempts(market).values()) <= ATTEMPTS_MAX
        assert (await market.books.balance(ADA)).promo_nano == TEN_DOLLARS
