"""A Mac and the planner: what one declares is what the other acts on.

The provider with echo engines, the router's state with its planner, no Ray, on a virtual clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from actors.engines.echo import EchoEngine
from actors.provider import Provider, ProviderConfig
from market.hardware import hardware_of
from market.placement.plan import work_out
from market.ports import Engine
from market.provider_places import Offer
from market.routing.messages import ProviderBeat, ProviderOrders
from market.routing.placing import Placing
from market.routing.state import RouterState
from market.settings import MacSettings, PlacementSettings
from market.types import AccountId, MachineId, ModelId, ModelSize, ProviderId
from tests.support.virtual_time import now_s, run_virtually

A, B = ModelId("coster/demo"), ModelId("qwen3.5-7b")
MAC = MacSettings(
    MachineId("mac_1"), ProviderId("prv_1"), "mac", AccountId("acct_1"), hardware_of("M4 Max")
)


class Market:
    """One Mac, and a router that plans for it."""

    def __init__(self, *models: ModelId) -> None:
        sizes = [ModelSize(model, 10**9, 1000, 0, 4096, "4bit") for model in models]
        placing = Placing(PlacementSettings(), sizes, now_s(), expected_macs=1)
        self.router = RouterState(now_s(), placing=placing)
        self.engines: list[EchoEngine] = []
        self.beats: list[ProviderBeat] = []
        offer = Offer(models, (10**9,) * len(models), 64 * 10**9)
        config = ProviderConfig(MAC, b"s" * 32, "test")
        self.provider = Provider(config, offer, self.make, self.beat, lambda _: None)

    def make(self, model: ModelId) -> Engine:
        self.engines.append(EchoEngine(model, pace_ms=5.0))
        return self.engines[-1]

    async def beat(self, beat: ProviderBeat) -> ProviderOrders:
        self.beats.append(beat)
        return self.router.beat_provider(beat, now_s())

    async def plan(self) -> None:
        """What `actors.planning` does, without its thread."""
        while True:
            case = self.router.look(now_s())
            if case is not None:
                self.router.placing.adopt(work_out(case), now_s())
            await asyncio.sleep(1.0)

    def places(self) -> dict[str, str]:
        return {place.model: place.state for place in self.beats[-1].places}


@contextlib.asynccontextmanager
async def market(*models: ModelId) -> AsyncIterator[Market]:
    here = Market(*models)
    planning = asyncio.create_task(here.plan())
    await here.provider.start()
    await asyncio.sleep(10.0)
    assert here.places() == dict.fromkeys(models, "ready")
    try:
        yield here
    finally:
        planning.cancel()
        await here.provider.stop("the test is over")


def test_an_engine_that_dies_costs_a_mac_its_model_for_a_moment_only() -> None:
    """The planner leaves the model where it is: the Mac has it again within seconds."""

    async def life() -> None:
        for models in ((A,), (A, B)):
            async with market(*models) as here:
                task = here.engines[0]._task
                assert task is not None
                task.cancel()
                await asyncio.sleep(0.7)
                assert here.places()[A] == "loading"
                await asyncio.sleep(30.0)
                assert here.places() == dict.fromkeys(models, "ready")
                assert len(here.engines) == len(models) + 1

    run_virtually(life())
