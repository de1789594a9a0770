"""The router actor: a thin shell that gives `RouterState` its clock, its store and its loop.

An undecorated class, tested as plain asyncio; the doorway to Ray wraps it. Between reading
the state and changing it nothing is awaited, so concurrent calls cannot interleave there.
Its live state is soft and its store is its own: neither ever touches the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from actors.decision_log import DecisionLog
from actors.planning import Planning
from market.errors import MarketError
from market.routing.log import FleetSnapshot, Intent, explain
from market.routing.messages import (
    Busy,
    GatewayBeat,
    Grant,
    ModelAvailability,
    Outcome,
    ProviderBeat,
    ProviderOrders,
    Quote,
    Refused,
    RouteRequest,
)
from market.routing.notes import replay
from market.routing.placing import Placing
from market.routing.state import BEAT_S, NO_PLACEMENT, REBUILD_S, RouterState
from market.routing.stories import story_of
from market.settings import PlacementSettings
from market.types import GatewayId, MachineId, ModelId, ModelSize, RequestId
from storage.decision_store import DecisionStore

TICK_S = 0.1
"""Precision of leases, cool-downs and queue deadlines."""

FLUSH_S = 0.5
"""Decisions younger than this are lost when the process is killed."""

COUNTED_AT_ONCE_S = 0.5
"""Sizes that were counted before are there at once; for others no start waits."""

RECONCILE_S = 1.0
SNAPSHOT_S = 60.0
PRUNE_S = 3600.0
KEEP_DECISIONS_S = 7 * 86_400.0
POLL_S_MAX = 5.0
"""No poll is held longer, whatever the gateway asks for: its lease is renewed by polling."""

log = logging.getLogger("coster.router")


class Router:
    """Routes requests to Macs. Call `start` first; every method is safe to call twice."""

    def __init__(
        self,
        path: Path,
        *,
        ensure_providers: Callable[[], Awaitable[None]] | None = None,
        seed: int = 0,
        policy: str = "coster",
        placement: PlacementSettings = NO_PLACEMENT,
        count_sizes: Callable[[], Sequence[ModelSize]] = tuple,
        expected_macs: int = 0,
    ) -> None:
        """`count_sizes` says what the models on offer need, and may block for seconds; they are
        placed on Macs as `placement` says.
        """
        self._store = DecisionStore(path)
        self._ensure_providers = ensure_providers
        self._seed = seed
        self._policy = policy
        self._placement = placement
        self._count_sizes = count_sizes
        self._expected_macs = expected_macs
        self._state = RouterState(time.monotonic(), seed)
        self._planning = Planning(lambda: self._state, self._failed)
        self._polls: dict[GatewayId, asyncio.Event] = {}
        self._kept = DecisionLog(self._store)
        self._last_error = ""
        self._started_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store, take the intents in, and begin to keep time."""
        await self._store.open()
        intents = await self._store.intents()
        self._started_s = time.monotonic()
        placing = Placing(
            self._placement,
            (),
            self._started_s + REBUILD_S,
            expected_macs=self._expected_macs,
            intents=intents,
        )
        self._state = RouterState(self._started_s, self._seed, intents, placing)
        self._state.use_policy(self._policy)
        loops: list[Coroutine[Any, Any, None]] = [
            self._every(TICK_S, self._tick),
            self._every(FLUSH_S, self._kept.flush),
            self._every(SNAPSHOT_S, self._snapshot),
            self._every(PRUNE_S, self._prune),
        ]
        if self._placement.enabled:
            loops.append(self._planning.run())
        if self._ensure_providers is not None:
            loops.append(self._every(RECONCILE_S, self._ensure_providers))
        counting = asyncio.create_task(self._offer(placing))
        await asyncio.wait([counting], timeout=COUNTED_AT_ONCE_S)
        self._tasks = [counting, *(asyncio.create_task(loop) for loop in loops)]

    async def _offer(self, placing: Placing) -> None:
        """Let models be placed once their sizes are known; until then Macs help themselves."""
        try:
            placing.offer(await asyncio.to_thread(self._count_sizes))
        except Exception as error:
            self._failed("sizes of the models", error)
            log.exception("no model is placed, because their sizes are not known")
        self._planning.look_now()

    async def close(self) -> None:
        """Stop keeping time and store what is buffered. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            self._tasks = []
            await self._kept.flush()
        await self._store.close()

    # ── gateways ──────────────────────────────────────────────────────────────────────

    async def route(self, requests: list[RouteRequest]) -> list[Grant | Busy | MarketError]:
        """A reply for each request, in order. Busy: queued, if it carried funding."""
        replies = self._state.route(requests, time.monotonic())
        self._after()
        return replies

    async def report(self, outcomes: list[Outcome]) -> list[None]:
        """Take the ends of attempts in."""
        self._state.report(outcomes, time.monotonic())
        self._after()
        return [None] * len(outcomes)

    async def poll(self, beat: GatewayBeat, wait_s: float = 2.0) -> list[Grant | Refused]:
        """Answers for a gateway's queued requests, at once or within `wait_s`.

        A newer poll of the same gateway ends an older one, which then delivers nothing.
        """
        self._state.beat_gateway(beat, time.monotonic())
        self._after()
        mail = self._state.take_mail(beat.gateway)
        if mail:
            return mail
        arrived = asyncio.Event()
        older = self._polls.get(beat.gateway)
        self._polls[beat.gateway] = arrived
        if older is not None:
            older.set()
        try:
            async with asyncio.timeout(min(wait_s, POLL_S_MAX)):
                await arrived.wait()
        except TimeoutError:
            return []
        finally:
            is_newest = self._polls.get(beat.gateway) is arrived
            if is_newest:
                del self._polls[beat.gateway]
        return self._state.take_mail(beat.gateway) if is_newest else []

    async def quote(self, requests: list[RouteRequest]) -> list[Quote]:
        """What would become of each request, in order; nothing changes by asking."""
        return self._state.quote(requests, time.monotonic())

    async def availability(self) -> list[ModelAvailability]:
        return self._state.availability(time.monotonic())

    # ── Macs ──────────────────────────────────────────────────────────────────────────

    async def heartbeat(self, beat: ProviderBeat) -> ProviderOrders:
        """Take a Mac's declaration in and answer with its orders."""
        orders = self._state.beat_provider(beat, time.monotonic())
        if orders.again_s < BEAT_S:
            self._planning.look_now()
        self._after()
        return orders

    async def machine_lost(self, machine: MachineId, reason: str) -> None:
        """A death notice: the process of this Mac's provider is gone."""
        log.warning("%s is lost: %s", machine, reason)
        self._state.machine_lost(machine, reason, time.monotonic())
        self._after()

    async def drain(self, machine: MachineId, reason: str) -> None:
        """No new work for this Mac until undrained; remembered before this returns."""
        await self._store.put_intent(Intent(machine, "drain", reason, time.time()))
        self._state.drain(machine, reason)
        self._after()

    async def undrain(self, machine: MachineId) -> None:
        """The Mac may work again; remembered before this returns."""
        await self._store.drop_drain(machine)
        self._state.undrain(machine, time.monotonic())
        self._after()

    async def pin(self, machine: MachineId, model: ModelId, reason: str) -> None:
        """Keep this model on this Mac until unpinned; remembered before this returns."""
        self._state.placing.pin(machine, model, reason)  # refuses what cannot be meant
        await self._store.put_intent(Intent(machine, "pin", reason, time.time(), model))
        self._planning.look_now()

    async def unpin(self, machine: MachineId, model: ModelId) -> None:
        """The planner may move it again; remembered before this returns."""
        await self._store.drop_pin(machine, model)
        self._state.placing.unpin(machine, model)
        self._planning.look_now()

    async def placement(self) -> dict[str, Any]:
        """What lives where and why, and what would be moved next."""
        return self._state.placing.as_json(time.monotonic())

    # ── operators ─────────────────────────────────────────────────────────────────────

    async def close_door(self) -> int:
        """Take no new requests; returns how many are not done yet."""
        return self._state.close_door()

    async def explain(self, request_id: RequestId) -> dict[str, Any] | None:
        """Why this Mac: attempts, candidates, terms, outcomes; None when nothing is known."""
        seen = self._state.story(request_id)
        await self._kept.flush()
        story = explain(request_id, await self._store.records_of(request_id))
        if story is None:
            return None
        if seen is None:
            seen = await self._replayed(request_id, story["attempts"][-1]["attempt"])
        if seen is not None:
            story |= seen
        return story

    async def _replayed(self, request_id: RequestId, attempt: int) -> dict[str, Any] | None:
        """The decision made again from what was stored; None when it is kept no longer."""
        packed = await self._store.packed_of(request_id, attempt)
        if packed is None:
            return None
        try:
            return story_of(replay(packed))
        except (ValueError, MarketError):
            return None  # another version's; its best candidates are told all the same

    async def why_machine(self, machine: str) -> dict[str, Any] | None:
        """How a Mac stands, by its private or public id; None when there is none."""
        now_s = time.monotonic()
        found = self._state.machine_story(MachineId(machine), now_s)
        if found is None:
            known = self._state.machine_of(machine)
            found = self._state.machine_story(known, now_s) if known is not None else None
        return found

    async def queue(self) -> list[dict[str, Any]]:
        """Who waits for which model, in order."""
        return self._state.queue_story(time.monotonic())

    async def calibration(self) -> dict[str, dict[str, object]]:
        """How good predictions have been, by model."""
        return self._state.calibration()

    async def use_policy(self, name: str) -> None:
        """Route by another policy until the next restart."""
        self._state.use_policy(name)

    async def status(self) -> dict[str, Any]:
        """Macs, gateways, queues and drains, with the router's own pid and troubles."""
        return {
            **await self.describe(),
            "records_buffered": len(self._kept),
            "records_dropped": self._kept.dropped,
            "store_errors": self._kept.errors,
            "last_error": self._last_error or self._kept.last_error,
            **self._state.status(time.monotonic()),
        }

    async def describe(self) -> dict[str, Any]:
        """Who this is: pid, role and state."""
        return {
            "role": "router",
            "pid": os.getpid(),
            "state": self._word(),
            "uptime_s": round(time.monotonic() - self._started_s, 3),
        }

    def _word(self) -> str:
        if not self._tasks:
            return "stopped"
        return "draining" if self._state.door_closed else "ready"

    async def metrics(self) -> dict[str, float]:
        """The gateways' counters added up, and the router's own."""
        return {
            **self._state.metrics(time.monotonic()),
            "coster_router_records_dropped_total": float(self._kept.dropped),
            "coster_router_store_errors_total": float(self._kept.errors),
        }

    # ── loops ─────────────────────────────────────────────────────────────────────────

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again; a failure is recorded and does not end the others."""
        while True:
            await asyncio.sleep(period_s)
            try:
                await work()
            except Exception as error:
                self._failed(getattr(work, "__name__", "work"), error)
                log.exception("the router's periodic work failed")

    def _failed(self, what: str, error: Exception) -> None:
        """Something that is done again and again came to nothing this time."""
        self._last_error = f"{what}: {error!r}"[:500]

    async def _tick(self) -> None:
        self._state.tick(time.monotonic())
        self._after()

    async def _snapshot(self) -> None:
        status = self._state.status(time.monotonic())
        self._kept.add([FleetSnapshot(time.time(), status)])

    async def _prune(self) -> None:
        await self._store.prune(time.time() - KEEP_DECISIONS_S)

    def _after(self) -> None:
        """What every change of state is followed by: wake polls, collect the journal."""
        for gateway in self._state.woken():
            poll = self._polls.get(gateway)
            if poll is not None:
                poll.set()
        self._kept.keep(self._state.take_journal())
