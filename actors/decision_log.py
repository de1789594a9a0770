"""What the router has decided, on its way to its store: kept in memory until it is on disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from market.routing.log import LogRecord, OutcomeRecord
from market.routing.notes import Noted
from storage.decision_store import DecisionStore

BUFFERED_RECORDS_MAX = 20_000
"""Records waiting for the store; beyond this the oldest are dropped and counted."""

log = logging.getLogger("coster.router")


class DecisionLog:
    """Buffers records for the store. `dropped` and `errors` count what went wrong."""

    def __init__(self, store: DecisionStore) -> None:
        self._store = store
        self._buffer: deque[LogRecord | Noted] = deque()
        self._flushing = asyncio.Lock()
        self.dropped = 0
        self.errors = 0
        self.last_error = ""

    def __len__(self) -> int:
        return len(self._buffer)

    def keep(self, journal: Iterable[Noted | OutcomeRecord]) -> None:
        """What the state tells, whose time is monotonic; the store keeps the calendar's."""
        offset_s = time.time() - time.monotonic()
        self.add(_on_calendar(record, offset_s) for record in journal)

    def add(self, records: Iterable[LogRecord | Noted]) -> None:
        """Records by the calendar."""
        self._buffer.extend(records)
        while len(self._buffer) > BUFFERED_RECORDS_MAX:
            self._buffer.popleft()
            self.dropped += 1

    async def flush(self) -> None:
        """Store what is buffered; what could not be stored waits for the next time."""
        async with self._flushing:
            batch, self._buffer = self._buffer, deque()
            if not batch:
                return
            try:
                await self._store.append(await asyncio.to_thread(_records, list(batch)))
            except BaseException as error:
                # Storing a record twice is harmless, losing one is not.
                newer, self._buffer = self._buffer, batch
                self.add(newer)
                if not isinstance(error, Exception):
                    raise
                self.errors += 1
                self.last_error = f"store: {error!r}"[:500]
                log.exception("decisions could not be stored; %d wait", len(self._buffer))


def _on_calendar(record: Noted | OutcomeRecord, offset_s: float) -> LogRecord | Noted:
    if isinstance(record, Noted):
        return replace(
            record, decided_s=record.decided_s + offset_s, since_s=record.since_s + offset_s
        )
    return replace(record, ended_s=record.ended_s + offset_s)


def _records(kept: list[LogRecord | Noted]) -> list[LogRecord]:
    """What is stored. Making records of decisions takes as long as deciding, so it is done here,
    on a thread of its own.
    """
    return [each.record() if isinstance(each, Noted) else each for each in kept]
