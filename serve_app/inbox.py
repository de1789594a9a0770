"""Where one request's events wait: filled by the transport, emptied a batch at a time."""

from __future__ import annotations

import asyncio

from market.types import Event

EVENT_BYTES = 200  # an event in memory besides its text, about


class Inbox:
    """Events in order, and one sleeper woken once for all that arrive together.

    `put` and `poke` are called on the event loop and never block. Past `limit_bytes` the
    inbox is `full`: it takes nothing more and its owner must give up the job.
    """

    __slots__ = ("_bytes", "_events", "_held", "_limit_bytes", "_poked", "_waiter", "full")

    def __init__(self, limit_bytes: int) -> None:
        self._events: list[Event] = []
        self._bytes = 0
        self._limit_bytes = limit_bytes
        self._poked = False
        self._held: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.full = False

    def put(self, event: Event) -> None:
        if self.full:
            return
        self._events.append(event)
        self._bytes += EVENT_BYTES + len(event.text)
        if self._bytes > self._limit_bytes:
            self.full = True
        if self._held is None or self.full or event.finish is not None or event.error is not None:
            self.poke()

    def hold(self, seconds: float) -> None:
        """Let events gather for a moment; an end or a failure still wakes at once."""
        if self._held is None:
            self._held = asyncio.get_running_loop().call_later(seconds, self._unhold)

    def _unhold(self) -> None:
        self._held = None
        if self._events:
            self.poke()

    def poke(self) -> None:
        """Wake the sleeper though nothing arrived: something else changed."""
        self._poked = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return when something was put or poked since the last return."""
        if not self._poked:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._poked = False

    def take(self) -> list[Event]:
        """All events waiting, and an empty inbox."""
        events, self._events = self._events, []
        self._bytes = 0
        return events

    def clear(self) -> None:
        """Forget what waits: it belongs to an attempt that is over."""
        self._events = []
        self._bytes = 0
        self.full = False
        if self._held is not None:
            self._held.cancel()
            self._held = None
