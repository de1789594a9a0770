"""The virtual clock: a heap of events, in order of time and then of being planned.

Plain Python on purpose: a process library costs eight times as much per event. Whatever is
planned cannot be taken back; who plans puts a number into the event and looks, when it comes,
whether it still means anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Event = Callable[..., None]


class Kernel:
    """Seconds of virtual time. It never runs backwards and never waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Event, tuple[Any, ...]]] = []
        self._number = 0

    def at(self, time_s: float, event: Event, *args: Any) -> None:
        """Plan an event; one in the past comes now, after what is planned for now already."""
        self._number += 1
        time_s = max(time_s, self.now_s)
        heapq.heappush(self._heap, (time_s, self._number, event, args))

    def after(self, delay_s: float, event: Event, *args: Any) -> None:
        """Plan an event in so many seconds."""
        self.at(self.now_s + delay_s, event, *args)

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until nothing is planned, or `until` says that it is enough."""
        heap = self._heap
        while heap and not until():
            self.now_s, _, event, args = heapq.heappop(heap)
            self.events += 1
            event(*args)
