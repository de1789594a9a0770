"""A real router whose Macs are beats: how they stand is written down, and they go on saying so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.router import Router
from market.hardware import hardware_of
from market.routing.messages import Endpoint, Place, ProviderBeat
from market.settings import MacSettings, PlacementSettings
from market.types import (
    AccountId,
    EngineStats,
    MachineId,
    ModelFacts,
    ModelId,
    ModelSize,
    ProviderId,
)
from tests.placement_kit import LARGE, SIZES, SMALL

BEAT_S = 0.2
CALL_S_MAX = 30.0
PLACED = PlacementSettings(every_s=0.5)


def facts_of(model: ModelId) -> ModelFacts:
    """A model of the catalogue as an engine that has loaded it says."""
    size = SIZES[model]
    return ModelFacts(
        model,
        "digest",
        size.context_tokens,
        150_000,
        size.weight_bytes,
        size.kv_bytes_per_token,
        size.quantization,
    )


def place(model: ModelId, state: str = "ready", reason: str = "", since_s: float = 60.0) -> Place:
    """One model on one Mac."""
    facts = facts_of(model) if state in ("ready", "leaving") else None
    return Place(model, state, reason, since_s, facts)  # type: ignore[arg-type]


def mac_beat(
    name: str,
    *places: Place,
    chip: str = "M4 Max",
    memory_gb: int = 64,
    slots: int = 8,
    running: int = 0,
    state: str = "ready",
    reason: str = "",
    **more: object,
) -> ProviderBeat:
    """What the Mac of this name declares."""
    tps = 40.0 * running
    stats = EngineStats(slots, running, 0, 0, 60 * 2**30, tps, 0.0, 0, 0, 0, 0, 0, 0, 0)
    beat = ProviderBeat(
        machine=MachineId(f"mac_{name}"),
        provider=ProviderId(f"prv_{name}"),
        owner=AccountId(f"acct_{name}"),
        incarnation=1,
        pid=4242,
        node="node",
        endpoint=Endpoint("127.0.0.1", 1),
        hardware=hardware_of(chip, memory_gb),
        state=state,
        reason=reason,
        models=tuple(each.facts for each in places if each.facts is not None),
        stats=stats,
        code_version="1",
        uptime_s=7_200.0,
        places=places,
        name=name,
    )
    return replace(beat, **more)  # type: ignore[arg-type]


class LiveFleet:
    """Keeps a router and lets its Macs beat; what they say may be changed meanwhile."""

    def __init__(
        self,
        *beats: ProviderBeat,
        models: Sequence[ModelId] = (SMALL, LARGE),
        declared: Iterable[MacSettings] = (),
    ) -> None:
        self.beats = {beat.machine: beat for beat in beats}
        self.models = tuple(models)
        self.declared = tuple(declared)
        self.router: Router | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._beating: asyncio.Task[None] | None = None

    def _sizes(self) -> tuple[ModelSize, ...]:
        return tuple(SIZES[model] for model in self.models)

    async def start(self, data: Path) -> Router:
        router = Router(
            data / "router.db",
            placement=PLACED,
            count_sizes=self._sizes,
            expected_macs=max(len(self.beats), 1),
        )
        await router.start()
        if self.declared:
            router.declare(self.declared, complete=True)
        self.router, self.loop = router, asyncio.get_running_loop()
        await self.beat()
        router._planning._look()  # a second earlier than by itself
        self._beating = asyncio.create_task(self._beat_forever())
        return router

    def call(self, method: str, *args: Any) -> Any:
        """Ask the router, from another thread than its own."""
        assert self.loop is not None
        asked = getattr(self.router, method)(*args)
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result(CALL_S_MAX)

    async def beat(self) -> None:
        """Every Mac says how it stands, once."""
        assert self.router is not None
        for beat in list(self.beats.values()):
            await self.router.heartbeat(beat)

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self.beat()

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self.router is not None:
            await self.router.close()
