"""Models placed on live actors: loaded once, moved without dropping work, kept where pinned.

Two Macs with room for one of three models each, so that one is always cold; simulated engines,
with their chip's real loads of two to three seconds. Residency and swaps are short here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import httpx2
import pytest

from tests.support.live_market import LiveMarket, live_market
from tests.support.quick_placement import RULES

pytestmark = pytest.mark.cluster

WARM, COLD = "qwen3.5-14b", "mistral-nemo-12b"
MODELS = (WARM, "gemma-4-12b", COLD)
FLEET = '[[macs]]\ncount = 2\nname = "small"\nchip = "M5 Max"\nmemory_gb = 24\n'
RESIDENCY_S = 4.0
SWAPS_PER_HOUR = 6
PLACEMENT = {"residency_s": RESIDENCY_S, "swaps_per_hour": SWAPS_PER_HOUR, "every_s": 5.0}
HUNDRED = 100
TURNS, TURN_S = 8, 2.0
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    """One market for all of it, with a model on each Mac."""
    folder = tmp_path_factory.mktemp("placement")
    fleet = folder / "fleet.toml"
    fleet.write_text(FLEET)
    words = ["--engine", "simulated", "--fleet", str(fleet), "--slots", "16"]
    for model in MODELS:
        words += ["--model", model]
    env = {RULES: json.dumps(PLACEMENT)}
    program = "tests.support.quick_placement"
    with live_market(folder / "data", *words, env=env, program=program) as running:
        running.until(lambda: len(held(running)) == 2)
        yield running


def placement(market: LiveMarket) -> dict[str, Any]:
    answer: dict[str, Any] = market.operate("GET", "/admin/placement")
    return answer


def held(market: LiveMarket) -> dict[str, str]:
    """The model that each Mac serves now, by machine."""
    return {
        mac["machine"]: model["model"]
        for mac in placement(market)["macs"]
        for model in mac["models"]
        if model["state"] == "ready"
    }


def acts(market: LiveMarket, act: str, model: str) -> int:
    """How often the planner has ordered this."""
    return sum(
        change["act"] == act and change["model"] == model and not change["later"]
        for plan in placement(market)["changed"]
        for change in plan["changes"]
    )


def body(model: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "one two three"}
    return {"model": model, "max_tokens": tokens, "messages": [question], **more}


def places(market: LiveMarket, machine: str) -> dict[str, str]:
    """How each model on this Mac stands."""
    macs = {mac["machine"]: mac for mac in placement(market)["macs"]}
    return {model["model"]: model["state"] for model in macs[machine]["models"]}


class Asking:
    """Many requests at once, over one client; `seen` are their models and statuses."""

    def __init__(self, market: LiveMarket) -> None:
        self._limits = httpx2.Limits(max_connections=200)
        self._market = market
        self.seen: list[tuple[str, int]] = []

    async def __aenter__(self) -> Self:
        self.client = httpx2.AsyncClient(
            base_url=self._market.base,
            headers=self._market.headers(),
            timeout=PATIENCE_S,
            limits=self._limits,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def one(self, model: str, **more: Any) -> httpx2.Response:
        answer = await self.client.post("chat/completions", json=body(model, **more))
        self.seen.append((model, answer.status_code))
        return answer

    async def flow(self, model: str, every_s: float, until: asyncio.Event) -> None:
        """Steadily, until told to stop; each is waited for."""
        asked: list[asyncio.Task[httpx2.Response]] = []
        while not until.is_set():
            asked.append(asyncio.create_task(self.one(model)))
            await asyncio.sleep(every_s)
        await asyncio.gather(*asked)


async def until(market: LiveMarket, condition: Callable[[], object]) -> None:
    await asyncio.to_thread(market.until, condition)


async def pin(market: LiveMarket, machine: str, model: str, act: str = "pin") -> None:
    path, asked = f"/admin/placement/{act}", {"mac": machine, "model": model}
    told = await asyncio.to_thread(market.operate, "POST", path, asked)
    assert "error" not in told, told


async def test_a_cold_model_that_a_hundred_ask_for_is_loaded_once_and_no_work_is_dropped(
    market: LiveMarket,
) -> None:
    """A hundred requests make one load, in the place of a model under load: that one's requests
    are all answered, before, while and after one of its two copies gives way.
    """
    for machine in held(market):
        await pin(market, machine, WARM)
    await until(market, lambda: set(held(market).values()) == {WARM})
    for machine in held(market):
        await pin(market, machine, WARM, "unpin")
    before, stop = acts(market, "load", COLD), asyncio.Event()
    async with Asking(market) as asking:
        flow = asyncio.create_task(asking.flow(WARM, 0.15, stop))
        await asyncio.sleep(RESIDENCY_S)
        answers = await asyncio.gather(*(asking.one(COLD) for _ in range(HUNDRED)))
        await asyncio.sleep(1.0)
        stop.set()
        await flow

    assert {answer.json()["model"] for answer in answers} == {COLD}
    assert {status for _, status in asking.seen} == {200}
    assert acts(market, "load", COLD) - before == 1
    assert sorted(held(market).values()) == sorted([WARM, COLD])
    beside = sum(model == WARM for model, _ in asking.seen)
    print(f"{HUNDRED} for a cold model: 1 load; of {beside} beside it none was dropped")


async def test_demand_that_alternates_does_not_make_a_mac_flap(market: LiveMarket) -> None:
    """With one Mac for two models, swaps follow the residency and the budget, not the demand."""
    first, second = sorted(held(market))
    await asyncio.to_thread(market.operate, "POST", f"/admin/drain/{second}", {})
    began_s, before = time.monotonic(), swaps(market, first)
    async with Asking(market) as asking:
        for turn in range(TURNS):
            model = (WARM, COLD)[turn % 2]
            asked = [asyncio.create_task(asking.one(model, deadline_s=3)) for _ in range(6)]
            await asyncio.sleep(TURN_S)
            await asyncio.gather(*asked)
    made, passed_s = swaps(market, first) - before, time.monotonic() - began_s
    assert made <= passed_s / RESIDENCY_S + 1
    assert made < TURNS
    assert swaps(market, first) <= SWAPS_PER_HOUR
    assert {status for _, status in asking.seen} <= {200, 503}
    answered = sum(status == 200 for _, status in asking.seen)
    print(f"{TURNS} turns of {TURN_S} s: {made} swaps, {answered} of {len(asking.seen)} answered")


async def test_a_pinned_model_stays_whatever_else_is_asked_for(market: LiveMarket) -> None:
    """On the only Mac that works it is there all the time; the others' requests are told to come
    back, and pay nothing.
    """
    (machine,) = [m for m, drained in standings(market).items() if not drained]
    (pinned,) = [m for m, state in places(market, machine).items() if state != "failed"]
    await until(market, lambda: places(market, machine).get(pinned) == "ready")
    await pin(market, machine, pinned)
    other = COLD if pinned == WARM else WARM
    seen, stop = [], asyncio.Event()

    async def watch() -> None:
        while not stop.is_set():
            seen.append(await asyncio.to_thread(places, market, machine))
            await asyncio.sleep(0.3)

    watching = asyncio.create_task(watch())
    async with Asking(market) as asking:
        await asyncio.sleep(RESIDENCY_S)
        answers = await asyncio.gather(*(asking.one(other, deadline_s=5) for _ in range(30)))
        still = await asking.one(pinned)
    stop.set()
    await watching

    assert {place.get(pinned) for place in seen} == {"ready"}
    assert {answer.status_code for answer in answers} == {503}
    assert all("retry-after" in answer.headers for answer in answers)
    assert still.status_code == 200
    assert market.verify()["ok"]


def swaps(market: LiveMarket, machine: str) -> int:
    """Models that this Mac has been told to give up."""
    return sum(
        change["act"] == "unload" and change["machine"] == machine and not change["later"]
        for plan in placement(market)["changed"]
        for change in plan["changes"]
    )


def standings(market: LiveMarket) -> dict[str, bool]:
    """Whether each Mac is drained."""
    macs = market.operate("GET", "/admin/status")["machines"]
    return {mac["machine"]: bool(mac["drain"]) for mac in macs}
