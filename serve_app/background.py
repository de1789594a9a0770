"""Work that outlives its request: charging for what was delivered, releasing a slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from serve_app import metric_names
from serve_app.counters import Counters
from serve_app.faults import describe_fault

T = TypeVar("T")

_log = logging.getLogger("coster.door")


class Background:
    """Keeps tasks alive until they end, and counts those that end badly."""

    def __init__(self, counters: Counters) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counters = counters

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin the work, which is kept until it ends; its task, for who waits for it too."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._counters.add(metric_names.INTERNAL_ERRORS)
            _log.error("work after a request failed: %s", describe_fault(error))

    async def drain(self, timeout_s: float) -> int:
        """Wait for what runs; returns how many tasks were still running at the end."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return len(self._tasks)
