"""Keeps every Mac's provider running, once, at the current code version. Knows no Ray.

The doorway gives it processes: something that can be asked for its version, told to begin a
Mac, waited for and ended. Everything is asked again at each pass, so nothing is remembered that
could be wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from actors.calls import ActorAway
from actors.housing import Housing
from market.errors import MarketError
from market.settings import MacSettings
from market.types import MachineId

START_S_MAX = 120.0
"""A process that has not begun after this long is asked again at the next pass."""

AGAIN_S = 1.0
"""Between a Mac's end and its next beginning in a process that goes on."""

log = logging.getLogger("coster.reconciler")


class Process(Protocol):
    """One process of providers. Its calls raise ActorAway when it is gone."""

    async def code_version(self) -> str: ...

    async def begin(self, machine: MachineId) -> None:
        """Let a Mac begin, if it is not there."""
        ...

    async def wait_forever(self, machine: MachineId) -> str:
        """Ends when the Mac does: with the reason, or "" when it was stopped."""
        ...

    def kill(self) -> None:
        """End the process; it is started again, by whoever starts it, with today's code."""
        ...


class Reconciler:
    """One watcher per process. `ensure` is one pass."""

    def __init__(
        self,
        housings: Callable[[], Awaitable[Sequence[Housing]]],
        open_process: Callable[[Housing], Awaitable[Process]],
        code_version: str,
        lost: Callable[[MachineId, str], Awaitable[None]],
    ) -> None:
        """`open_process` finds a process or starts it; `lost` is told of each Mac that is gone."""
        self._housings = housings
        self._open = open_process
        self._code_version = code_version
        self._lost = lost
        self._kept: dict[str, asyncio.Task[None]] = {}

    async def ensure(self) -> None:
        """One pass: start what is missing, replace what runs other code."""
        for housing in await self._housings():
            task = self._kept.get(housing.actor)
            if task is None or task.done():
                self._kept[housing.actor] = asyncio.create_task(self._keep(housing))

    async def _keep(self, housing: Housing) -> None:
        process = await self._open(housing)
        try:
            async with asyncio.timeout(START_S_MAX):
                version = await process.code_version()
        except (ActorAway, TimeoutError):
            return
        if version != self._code_version:
            log.warning("%s runs %s; it is replaced", housing.actor, version)
            process.kill()
            return
        await asyncio.gather(*(self._watch(process, mac) for mac in housing.macs))

    async def _watch(self, process: Process, mac: MacSettings) -> None:
        """Until the Mac is stopped, or its process is gone."""
        while True:
            try:
                reason = await self._until_ended(process, mac.machine)
            except ActorAway as error:
                await self._lost(mac.machine, f"its process ended ({error})")
                return
            except MarketError as error:
                reason = f"it cannot begin: {error}"
            if not reason:
                return
            await self._lost(mac.machine, reason)
            await asyncio.sleep(AGAIN_S)

    async def _until_ended(self, process: Process, machine: MachineId) -> str:
        await process.begin(machine)
        return await process.wait_forever(machine)
