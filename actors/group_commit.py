"""Many callers, one commit: whatever gathers while the disk is busy goes into the next one.

Nothing lingers on purpose: a lone caller gets a commit at once, and under load the commit
in progress is the window in which the next batch fills.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from market.accounting.books import Books
from market.accounting.laws import broken_laws
from market.accounting.store import LedgerStore

log = logging.getLogger("coster.ledger")

CHECK_COMMITS: Final = 5_000  # the laws are checked in memory every so many commits


class GroupCommit:
    """Writes what the books have changed, in order, one commit at a time.

    After a failure nothing is written any more and `failed` says why: memory may be ahead
    of the disk, so this process has to be replaced.
    """

    def __init__(
        self,
        books: Books,
        store: LedgerStore,
        on_fail: Callable[[str], None],
        tick_ns: Callable[[], int],
    ) -> None:
        self._books = books
        self._store = store
        self._on_fail = on_fail
        self._tick_ns = tick_ns
        self._wake = asyncio.Event()
        self._next: asyncio.Future[None] | None = None  # the commit that is filling up
        self._current: asyncio.Future[None] | None = None  # the commit being written
        self._task = asyncio.create_task(self._run(), name="ledger-group-commit")
        self.failed: str | None = None
        self.commits = 0
        self.commit_ns = 0

    async def durable(self) -> None:
        """Return when everything changed so far is on disk, or when `failed` is set."""
        if self.failed is not None:
            return
        if self._books.ledger.changes:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
                self._wake.set()
            await asyncio.shield(self._next)
        elif self._current is not None:
            await asyncio.shield(self._current)

    def fail(self, reason: str) -> None:
        """Stop for good and release everybody who waits. The first reason stays."""
        if self.failed is not None:
            return
        self.failed = reason
        log.critical("the ledger stops: %s", reason)
        for waiting in (self._current, self._next):
            if waiting is not None:
                waiting.set_result(None)
        self._current = self._next = None
        self._on_fail(reason)

    async def close(self) -> None:
        """Write what is pending, then stop. Idempotent."""
        await self.durable()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self.failed is None:
            await self._wake.wait()
            self._wake.clear()
            while self._next is not None:
                self._current, self._next = self._next, None
                await self._commit()

    async def _commit(self) -> None:
        begin_ns = self._tick_ns()
        try:
            await self._store.commit(self._books.take())
        except Exception as error:  # noqa: BLE001  whatever it was, the outcome is unknown
            self.fail(f"{type(error).__name__}: {error}")
            return
        self.commit_ns += self._tick_ns() - begin_ns
        self.commits += 1
        if self.commits % CHECK_COMMITS == 0:
            problems = broken_laws(self._books.ledger)
            if problems:
                self.fail("the books contradict themselves: " + " ".join(problems))
        done, self._current = self._current, None
        if done is not None:
            done.set_result(None)
