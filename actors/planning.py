"""Keeps the planner of `RouterState` going: looks every second, works plans out beside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from market.placement.case import Case
from market.placement.exact import available
from market.placement.plan import work_out
from market.routing.state import RouterState

LOOK_S = 1.0
TOGETHER_S = 0.05
"""Macs that come within this time of each other are planned for together."""

log = logging.getLogger("coster.placement")


class Planning:
    """The loop in which models are placed. HiGHS lets go of the interpreter while it searches,
    so it runs in a thread and holds nobody up (docs/decisions/0013-placement.md).
    """

    def __init__(
        self, state: Callable[[], RouterState], failed: Callable[[str, Exception], None]
    ) -> None:
        """`failed` is told what came to nothing; the loop goes on."""
        self._state = state
        self._failed = failed
        self._look_now = asyncio.Event()
        self._solving: asyncio.Task[None] | None = None

    def look_now(self) -> None:
        """Something has changed that should not wait for the next second."""
        self._look_now.set()

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.to_thread(available)  # importing the solver takes a second: once, at first
        try:
            while True:
                self._look()
                await self._pause()
        finally:
            if self._solving is not None:
                self._solving.cancel()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._look_now.wait()
        except TimeoutError:
            return
        await asyncio.sleep(TOGETHER_S)
        self._look_now.clear()

    def _look(self) -> None:
        try:
            case = self._state().look(time.monotonic())
        except Exception as error:
            self._failed("look at the fleet", error)
            log.exception("the fleet could not be looked at")
            return
        if case is not None:
            self._solving = asyncio.create_task(self._solve(case))

    async def _solve(self, case: Case) -> None:
        state = self._state()
        try:
            answer = await asyncio.to_thread(work_out, case)
            plan = state.placing.adopt(answer, time.monotonic())
        except Exception as error:
            state.placing.abandon(repr(error)[:500])
            self._failed("placement", error)
            log.exception("no plan could be made; the orders stay")
            return
        for change in plan.changes if plan is not None else ():
            log.info("%s %s %s: %s", change.act, change.model, change.machine, change.words)
