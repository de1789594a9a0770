"""A Mac at work: the provider's shell with echo engines, a router that only gives orders, and a
gateway that writes down what it hears. Without Ray, on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from actors import hosting
from actors.engines.echo import EchoEngine
from actors.hosting import together
from actors.provider import Provider, ProviderConfig
from market.errors import InvalidRequest
from market.ports import Engine, EventSink
from market.provider_places import LEAVING_GRACE_S, Offer
from market.routing.messages import ProviderBeat, ProviderOrders
from market.settings import MacSettings
from market.types import (
    AccountId,
    EngineStats,
    Event,
    GatewayId,
    Hardware,
    Job,
    MachineId,
    ModelFacts,
    ModelId,
    ProviderId,
    RequestId,
)
from tests.support.virtual_time import run_virtually

A, B, C, BAD = (ModelId(name) for name in ("A", "B", "C", "bad"))
SIZES = {A: 4, B: 4, C: 3, BAD: 1}
MAC = MacSettings(
    MachineId("mac_1"),
    ProviderId("prv_1"),
    "mac",
    AccountId("acct_1"),
    Hardware("M4 Max", 128, 40, 16, 546.0),
    ask_pct=80,
    trust="verified",
)
GATEWAY = GatewayId("gw")
TOKENS = 40
PACE_MS = 50.0


class SizedEcho(EchoEngine):
    """An echo engine that takes memory, and a while to load."""

    load_s = 0.0

    async def load(self, sink: EventSink) -> ModelFacts:
        await asyncio.sleep(self.load_s)
        return replace(await super().load(sink), weight_bytes=SIZES[self._model])


class World:
    """One Mac, its router and its gateway."""

    def __init__(self) -> None:
        self.wanted: tuple[ModelId, ...] | None = None
        self.beats: list[ProviderBeat] = []
        self.heard: dict[str, list[Event]] = {}
        self.engines: list[SizedEcho] = []
        self.exits: list[str] = []
        self.away = False
        offer = Offer(tuple(SIZES), tuple(SIZES.values()), 10)
        config = ProviderConfig(MAC, b"s" * 32, "test")
        self.provider = Provider(config, offer, self.make, self.beat, self.exits.append)

    def make(self, model: ModelId) -> Engine:
        if model == BAD:
            raise InvalidRequest("model.safetensors is cut short; download it again.")
        self.engines.append(SizedEcho(model, pace_ms=PACE_MS, slots=8))
        return self.engines[-1]

    async def beat(self, beat: ProviderBeat) -> ProviderOrders:
        if self.away:
            raise ConnectionError("the router is away")
        self.beats.append(beat)
        return ProviderOrders(drain=False, models=self.wanted)

    def send(self, events: Sequence[Event]) -> None:
        for event in events:
            self.heard.setdefault(event.request_id, []).append(event)

    def submit(self, name: str, model: ModelId) -> None:
        self.provider.job_submitted(GATEWAY, Job(RequestId(name), model, (5, 6, 7), TOKENS))

    def ending(self, name: str) -> str:
        """How a job ended: its finish, or its failure; "" while it runs."""
        last = self.heard[name][-1] if name in self.heard else None
        return (last.error.code if last.error else last.finish or "") if last else ""

    def places(self) -> dict[ModelId, str]:
        return {place.model: place.state for place in self.beats[-1].places}

    async def until(self, **places: str) -> None:
        """Until the Mac has declared these places and no others."""
        async with asyncio.timeout(60):
            while {str(model): state for model, state in self.places().items()} != places:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def world(*models: ModelId) -> AsyncIterator[World]:
    """A running Mac with these models."""
    here = World()
    here.wanted = models or None
    await here.provider.start()
    here.provider.gateway_opened(GATEWAY, here)
    await asyncio.sleep(0.1)
    await here.until(**{str(model): "ready" for model in models or (A,)})
    try:
        yield here
    finally:
        await here.provider.stop("the test is over")


def test_a_mac_comes_up_with_what_the_router_says() -> None:
    """The first beat is answered with orders; the next ones declare what came of them."""

    async def life() -> None:
        async with world(B, A) as mac:
            first, last = mac.beats[0], mac.beats[-1]
            assert (first.state, first.places, first.models) == ("starting", (), ())
            assert first.memory_bytes == 10
            assert [facts.model for facts in last.models] == [B, A]
            assert (last.state, last.ask_pct, last.trust) == ("ready", 80, "verified")
            mac.submit("r", A)
            await asyncio.sleep(1.5)
            by_model = {place.model: place.stats for place in mac.beats[-1].places}
            assert [stats.running for stats in by_model.values() if stats] == [0, 1]
            assert mac.beats[-1].stats is not None
            assert (mac.beats[-1].stats.running, mac.beats[-1].stats.slots) == (1, 8)

    run_virtually(life())


def test_without_a_word_on_models_the_first_of_the_market_is_loaded() -> None:
    """A router that leaves it to the Mac gets one model, at once."""

    async def life() -> None:
        async with world() as mac:
            assert [engine._model for engine in mac.engines] == [A]

    run_virtually(life())


def test_a_swap_under_load_drops_no_job() -> None:
    """While a model is exchanged under a steady flow every job is answered to its end, those of
    the model that leaves, those of the one that stays, and those of the one that comes.
    """

    async def life() -> None:
        async with world(A, B) as mac:
            sent = []

            async def flow(model: ModelId, every_s: float, for_s: float) -> None:
                for _ in range(round(for_s / every_s)):
                    sent.append(f"{model}{len(sent)}")
                    mac.submit(sent[-1], model)
                    await asyncio.sleep(every_s)

            staying = asyncio.create_task(flow(B, 0.3, 20.0))
            await flow(A, 0.4, 3.0)
            mac.wanted = (B, C)
            beats = len(mac.beats)
            while len(mac.beats) == beats:
                await flow(A, 0.05, 0.05)
            await flow(A, 0.2, 0.6)  # granted before the order, and still under way
            await mac.until(A="leaving", B="ready")
            assert not mac.engines[0]._closing
            await mac.until(B="ready", C="ready")
            assert mac.engines[0]._closing
            await flow(C, 0.5, 5.0)
            await staying
            await asyncio.sleep(10.0)
            assert {name: mac.ending(name) for name in sent} == dict.fromkeys(sent, "length")
            assert all(mac.heard[name][-1].count == TOKENS for name in sent)

    run_virtually(life())


def test_a_model_that_leaves_turns_new_jobs_away_in_time() -> None:
    """After the grace a job for it is `rejected`, which another Mac may take."""

    async def life() -> None:
        async with world(A) as mac:
            mac.submit("long", A)
            mac.wanted = (C,)
            await mac.until(A="leaving", C="ready")
            await asyncio.sleep(LEAVING_GRACE_S)
            mac.submit("late", A)
            assert mac.ending("late") == "rejected"
            await asyncio.sleep(3.0)
            assert mac.ending("long") == "length"

    run_virtually(life())


def test_a_dead_engine_takes_only_its_own_jobs_with_it() -> None:
    """They fail over; the other model's run to their end, and the dead one is loaded again."""

    async def life() -> None:
        async with world(A, B) as mac:
            mac.submit("a", A)
            mac.submit("b", B)
            await asyncio.sleep(0.2)
            task = mac.engines[0]._task
            assert task is not None
            task.cancel()
            await mac.until(A="loading", B="ready")
            assert (mac.ending("a"), mac.ending("b")) == ("engine", "")
            await mac.until(A="ready", B="ready")
            mac.submit("again", A)
            await asyncio.sleep(5.0)
            assert (mac.ending("again"), mac.ending("b")) == ("length", "length")
            assert [engine._model for engine in mac.engines] == [A, B, A]

    run_virtually(life())


def test_a_mac_helps_itself_while_the_router_is_away() -> None:
    """What was ordered is kept up: a dead engine comes back without anybody's asking."""

    async def life() -> None:
        async with world(A) as mac:
            mac.away = True
            task = mac.engines[0]._task
            assert task is not None
            task.cancel()
            await asyncio.sleep(10.0)
            mac.submit("r", A)
            await asyncio.sleep(5.0)
            assert mac.ending("r") == "length"

    run_virtually(life())


def test_a_model_that_cannot_be_loaded_says_why_and_the_others_go_on() -> None:
    """Its place is failed with the reason, and is not tried again and again."""

    async def life() -> None:
        async with world(A) as mac:
            mac.wanted = (BAD, A, B)
            await mac.until(A="ready", B="ready", bad="failed")
            await asyncio.sleep(30.0)
            reasons = {place.model: place.reason for place in mac.beats[-1].places}
            assert "cut short" in reasons[BAD]
            assert mac.beats[-1].state == "ready"

    run_virtually(life())


def test_a_loading_model_is_declared_and_takes_its_time() -> None:
    """The router sees what is being loaded, and the other model serves meanwhile."""

    async def life() -> None:
        SizedEcho.load_s = 8.0
        try:
            async with world(A) as mac:
                mac.wanted = (A, B)
                await mac.until(A="ready", B="loading")
                mac.submit("r", A)
                await asyncio.sleep(4.0)
                assert mac.ending("r") == "length"
                assert mac.places() == {A: "ready", B: "loading"}
                await mac.until(A="ready", B="ready")
        finally:
            SizedEcho.load_s = 0.0

    run_virtually(life())


def test_stopping_in_the_middle_of_a_load_leaves_no_engine_behind() -> None:
    """Every engine that was made is closed, loaded or not."""

    async def life() -> None:
        SizedEcho.load_s = 8.0
        try:
            async with world(A) as mac:
                mac.wanted = (A, B)
                await mac.until(A="ready", B="loading")
                await mac.provider.stop("enough")
                assert [engine._closing for engine in mac.engines] == [True, True]
        finally:
            SizedEcho.load_s = 0.0

    run_virtually(life())


def test_an_engine_that_does_not_close_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds can be had back only with a fresh process."""
    monkeypatch.setattr(hosting, "CLOSE_S_MAX", 2.0)

    async def life() -> None:
        async with world(A) as mac:

            async def hang() -> None:
                await asyncio.sleep(3600)

            close = mac.engines[0].close
            mac.engines[0].close = hang  # type: ignore[method-assign]
            mac.wanted = ()
            await asyncio.sleep(10.0)
            assert mac.exits == ["the engine of A does not close"]
            mac.engines[0].close = close  # type: ignore[method-assign]

    run_virtually(life())


def reading(running: int, decode_tps: float, slots: int = 8) -> EngineStats:
    return EngineStats(slots, running, 1, 10, 100, decode_tps, 50.0, 1, 2, 3, 4, 5, 6, 7)


def test_the_reading_of_a_mac_is_that_of_its_engines_in_turns() -> None:
    """Slots and budget are the Mac's; speeds are of a round in which each makes a step."""
    assert together([]) is None
    alone = reading(2, 40.0)
    assert together([alone]) is alone
    both = together([reading(2, 40.0), reading(4, 20.0)])
    assert both is not None
    assert (both.slots, both.running, both.waiting) == (8, 6, 2)
    assert (both.memory_bytes_used, both.memory_bytes_budget) == (20, 100)
    assert both.decode_tps == pytest.approx(6 / (2 / 40 + 4 / 20))
    idle = together([reading(0, 40.0), reading(3, 30.0)])
    assert idle is not None
    assert idle.decode_tps == pytest.approx(30.0)
    assert (both.steps, both.completion_tokens, both.failed) == (2, 6, 14)
