"""Group commit: who shares one, who waits for which, and what a failure does to them all."""

from __future__ import annotations

import asyncio

import pytest

from actors.group_commit import GroupCommit
from market.accounting.books import Books
from market.accounting.chart import Code, Posting
from market.accounting.holding import BookTerms
from market.accounting.rows import Changes, Snapshot
from market.accounting.state_rows import OwnerRow
from market.catalogue import Catalogue
from market.types import AccountId
from storage.memory import MemoryLedgerStore


class GatedStore(MemoryLedgerStore):
    """Commits when told to, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.committed: list[int] = []

    async def commit(self, changes: Changes) -> None:
        await self.gate.wait()
        if self.error:
            raise self.error
        await super().commit(changes)
        self.committed.append(len(changes.state.get(OwnerRow, ())))


class Scene:
    """Books over a gated store."""

    def __init__(self) -> None:
        self.store = GatedStore()
        self.books = Books(BookTerms(Catalogue()), Snapshot(), now_ns=1, tick_ns=0)
        self.failures: list[str] = []
        self.commits = GroupCommit(self.books, self.store, self.failures.append, lambda: 0)
        self.made = 0

    def change(self) -> asyncio.Task[None]:
        """One more owner, and somebody who waits until it is written."""
        self.made += 1
        row = OwnerRow(AccountId(f"acct_{self.made}"), "", "free", self.made)
        self.books.create_owner(row, 0)
        return asyncio.create_task(self.commits.durable())

    async def settle_down(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_what_gathers_during_a_commit_shares_the_next_one(scene: Scene) -> None:
    """One lone change is written at once; the three behind it are written together."""
    waiting = [scene.change()]
    await scene.settle_down()
    waiting += [scene.change() for _ in range(3)]
    await scene.settle_down()
    assert not any(task.done() for task in waiting)

    scene.store.gate.set()
    await asyncio.gather(*waiting)

    assert scene.store.committed == [1, 3]
    await scene.commits.close()


async def test_a_repetition_waits_for_the_commit_that_is_under_way(scene: Scene) -> None:
    """With nothing new to write, an answer still waits for what it repeats."""
    first = scene.change()
    await scene.settle_down()
    repeated = asyncio.create_task(scene.commits.durable())
    await scene.settle_down()
    assert not repeated.done()

    scene.store.gate.set()
    await asyncio.gather(first, repeated)

    await asyncio.wait_for(scene.commits.durable(), 1)
    await scene.commits.close()


async def test_a_cancelled_waiter_takes_nobody_with_it(scene: Scene) -> None:
    """The commit and the others who wait for it go on."""
    first, second = scene.change(), scene.change()
    await scene.settle_down()
    first.cancel()
    scene.store.gate.set()
    await second

    assert scene.store.committed == [2]
    await scene.commits.close()


async def test_a_failure_releases_everybody_and_writes_nothing_more(scene: Scene) -> None:
    """Those in the commit, those behind it and whoever closes: nobody hangs, one report."""
    waiting = [scene.change()]
    await scene.settle_down()
    waiting += [scene.change() for _ in range(3)]
    await scene.settle_down()
    scene.store.error = OSError("no space left")
    scene.store.gate.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    scene.store.error = None

    late = scene.change()
    await asyncio.wait_for(late, 5)
    await asyncio.wait_for(scene.commits.close(), 5)

    assert scene.failures == ["OSError: no space left"]
    assert scene.commits.failed == "OSError: no space left"
    assert scene.store.committed == []


async def test_a_posting_alone_is_written(scene: Scene) -> None:
    """Between accounts that exist, nothing but a transfer changes; it is a commit all the same."""
    ledger = scene.books.ledger
    sides = ledger.account(Code.STRIPE_CLEARING), ledger.account(Code.SUSPENSE)
    scene.store.gate.set()
    await scene.commits.durable()
    ledger.post(
        "line:1",
        0,
        debit=sides[0],
        credit=sides[1],
        amount_nano=1,
        posting=Posting.SUSPENSE_IN,
        ts_ns=1,
    )
    await scene.commits.durable()

    assert [row.id for row in await scene.store.transfers(["line:1"])] == ["line:1"]
    await scene.commits.close()
