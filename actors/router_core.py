"""What keeps the router going: its clock, its store and its loops. It decides nothing.

`RouterState` decides and `DecisionStore` remembers; here is the time between them. Its live
state is soft: after a restart Macs and gateways declare it again, and only intents, decisions
and who the Macs are come from the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from actors.decision_log import DecisionLog
from actors.planning import Planning
from market.routing.log import FleetSnapshot, Intent
from market.routing.placing import Placing
from market.routing.roster import KnownMac, Roster
from market.routing.state import NO_PLACEMENT, REBUILD_S, RouterState
from market.settings import MacSettings, PlacementSettings
from market.types import GatewayId, MachineId, ModelSize
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

log = logging.getLogger("coster.router")


class RouterCore:
    """Opens the store, keeps time and writes down what was decided."""

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
        self._unkept: list[tuple[MachineId, bool]] = []

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
        roster = Roster(_by_monotonic(await self._store.known_macs()))
        self._state = RouterState(self._started_s, self._seed, intents, placing, roster)
        self._state.use_policy(self._policy)
        loops: list[Coroutine[Any, Any, None]] = [
            self._every(TICK_S, self._tick),
            self._every(FLUSH_S, self._kept.flush),
            self._every(FLUSH_S, self._remember_macs),
            self._every(FLUSH_S, self._keep_privacy),
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
            self._state.note_heard()
            await self._kept.flush()
            await self._remember_macs()
            await self._keep_privacy()
        await self._store.close()

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
        self._state.note_heard()
        status = self._state.status(time.monotonic())
        self._kept.add([FleetSnapshot(time.time(), status)])

    async def _prune(self) -> None:
        await self._store.prune(time.time() - KEEP_DECISIONS_S)
        gone = self._state.roster.forget(time.monotonic())
        await self._store.drop_macs(gone)

    async def _remember_macs(self) -> None:
        """Store who came, went or is called otherwise; what could not be stored is tried again."""
        roster = self._state.roster
        changed = roster.take_changed()
        offset_s = time.time() - time.monotonic()
        try:
            await self._store.put_macs([mac.shifted(offset_s) for mac in changed])
        except BaseException:
            roster.keep(mac.machine for mac in changed)
            raise

    async def _keep_privacy(self) -> None:
        """Remember which Macs are private; a Mac that is here says it again by itself."""
        self._unkept += self._state.take_privacy()
        while self._unkept:
            machine, private = self._unkept[0]
            if private:
                told = Intent(machine, "private", "its owner's wish", time.time())
                await self._store.put_intent(told)
            else:
                await self._store.drop_private(machine)
            self._unkept.pop(0)

    def declare(self, macs: Sequence[MacSettings], *, complete: bool) -> None:
        """The Macs that should be here; `complete`: and no other is missed when it is away."""
        self._state.roster.declare(macs, complete=complete)

    def _after(self) -> None:
        """What every change of state is followed by: wake polls, collect the journal."""
        for gateway in self._state.woken():
            poll = self._polls.get(gateway)
            if poll is not None:
                poll.set()
        self._kept.keep(self._state.take_journal())


def _by_monotonic(macs: Sequence[KnownMac]) -> list[KnownMac]:
    """The store keeps the calendar's time; the state, one that never goes back."""
    offset_s = time.monotonic() - time.time()
    return [mac.shifted(offset_s) for mac in macs]
