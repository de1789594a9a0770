"""Payments killed anywhere: at every await before and after every call and every commit.

What people wanted happens exactly once all the same. A kill loses everything that was not
committed: accountant, worker and callers start again from what is on disk, and callers
repeat their calls under the same keys.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from market.accounting.chart import Code, Posting
from market.accounting.rows import Changes
from storage.memory import MemoryLedger, MemoryLedgerStore
from tests.support.memory_processor import FEE_CENTS, MemoryProcessor
from tests.support.payments import ANN, BOB, Till

LONG = bool(os.environ.get("COSTER_LONG"))
CALLS = (
    *("open_checkout", "checkout", "checkouts_of", "open_recipient", "recipient", "balance"),
    *("onboarding_url", "transfer", "find_transfer", "refund", "find_refund", "refund_by_id"),
    *("dispute", "lines_since", "events_since"),
)


class Guillotine:
    """Counts the places where a kill may strike, and strikes at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.passed = 0
        self.struck = asyncio.Event()

    async def stand(self) -> None:
        """A place. Nobody who is killed, or runs on after it, comes back from here."""
        if self.passed == self.at:
            self.struck.set()
        self.passed += 1
        if self.struck.is_set():
            await asyncio.Event().wait()


class Beheaded(MemoryLedgerStore):
    """A store whose commits may be the last thing that happens, or not happen any more."""

    def __init__(self, ledger: MemoryLedger, blade: Guillotine) -> None:
        super().__init__(ledger)
        self._blade = blade

    async def commit(self, changes: Changes) -> None:
        await self._blade.stand()
        await super().commit(changes)
        await self._blade.stand()


class Scaffold(MemoryProcessor):
    """The processor behind a wire that may be cut before or after each call."""

    blade: Guillotine


def _guarded(name: str) -> Callable[..., Any]:
    plain = getattr(MemoryProcessor, name)

    async def call(self: Scaffold, *args: Any, **named: Any) -> Any:
        await self.blade.stand()
        answer = await plain(self, *args, **named)
        await self.blade.stand()
        return answer

    return call


for _name in CALLS:
    setattr(Scaffold, _name, _guarded(_name))


class Stage(Till):
    """A till whose every part can be killed."""

    def strike_at(self, at: int | None) -> None:
        self.blade = Guillotine(at)
        assert isinstance(self.processor, Scaffold)
        self.processor.blade = self.blade

    def new_store(self) -> MemoryLedgerStore:
        assert self.memory is not None
        return Beheaded(self.memory, self.blade)

    async def call(self, method: str, *args: object) -> Any:
        await self.blade.stand()
        answer = await super().call(method, *args)
        await self.blade.stand()
        return answer


async def story(stage: Stage) -> None:
    """Ann pays $50 and takes $20 back, Bob withdraws $10, the week pays him the rest."""
    payments, processor = stage.payments, stage.processor
    assert isinstance(processor, Scaffold)
    topup = await payments.topup(ANN, 5000, "topup")
    if not processor.checkouts[topup.session].paid:
        processor.pay(topup.id)
    await payments.webhook(
        b'["evt_paid", "checkout.session.completed", "%s", 1]' % (topup.session.encode()), "signed"
    )
    await stage.work()
    await payments.refund(ANN, topup.id, 2000, "refund")
    payee, _ = await payments.onboard(BOB, "US", "onboard")
    if not processor.recipients[payee.account].active:
        processor.activate(payee.account)
    await payments.withdraw(BOB, 1000, None, "withdraw")
    await stage.work()
    stage.now_s += 8 * 86_400
    await stage.work()


async def live(stage: Stage, at: int | None) -> bool:
    """One life: the story until it ends or the blade falls; whether it ended."""
    stage.strike_at(at)
    telling = asyncio.create_task(_from_the_start(stage))
    falling = asyncio.create_task(stage.blade.struck.wait())
    await asyncio.wait([telling, falling], return_when=asyncio.FIRST_COMPLETED)
    ended = telling.done()
    if ended:
        telling.result()
    everybody = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in everybody:
        task.cancel()
    await asyncio.gather(*everybody, return_exceptions=True)
    return ended


async def _from_the_start(stage: Stage) -> None:
    await stage.open()
    await stage.people()
    await story(stage)


async def check(stage: Stage) -> None:
    """Everything happened, and nothing twice."""
    stage.strike_at(None)
    await stage.open()
    processor, memory = stage.processor, stage.memory
    assert isinstance(processor, Scaffold)
    assert memory is not None
    told = await stage.payments.reconcile()
    codes = [row.code for row in memory.transfers.values()]
    assert sorted(t.amount_cents for t in processor.transfers.values()) == [1000, 3000]
    assert [made.amount_cents for made in processor.refunds.values()] == [2000]
    assert codes.count(Posting.PAYOUT) == codes.count(Posting.PAYOUT_SENT) == 2
    assert codes.count(Posting.TOP_UP) - 1 == codes.count(Posting.REFUND) == 1
    assert codes.count(Posting.PAYOUT_RETURNED) == codes.count(Posting.REFUND_RETURNED) == 0
    assert stage.cents(Code.CONSUMER_CASH, ANN) == 3000
    assert stage.cents(Code.PROVIDER_EARNINGS, BOB) == 0
    assert stage.cents(Code.STRIPE_CLEARING) == -(5000 - FEE_CENTS - 2000 - 4000 + 4000)
    assert (told["difference_cents"], told["unmatched"]) == (0, [])
    assert stage.problems() == []
    await stage.close()


def new_stage(folder: Path) -> Stage:
    stage = Stage(folder, lambda till: Scaffold(lambda: int(till.now_s)))
    stage.strike_at(None)
    return stage


async def endowed(folder: Path) -> Stage:
    """Bob has earned $40, and the processor has what Bob's consumers paid."""
    stage = new_stage(folder)
    await stage.open()
    await stage.people()
    await stage.accountant.run_weekly()
    await stage.earn(BOB, 4000)
    await stage.close()
    assert isinstance(stage.processor, Scaffold)
    stage.processor.endow(4000)
    return stage


async def test_a_story_that_nobody_interrupts_ends_well(tmp_path: Path) -> None:
    """The measure for all the others."""
    stage = await endowed(tmp_path)
    assert await live(stage, None)
    await check(stage)


async def test_a_kill_anywhere_changes_nothing(tmp_path: Path) -> None:
    """One kill at each place in turn; the second life goes on an hour or two days later."""
    at, ended = 0, False
    while not ended:
        stage = await endowed(tmp_path)
        ended = await live(stage, at)
        stage.now_s += 3_600 if at % 2 else 2 * 86_400
        if not ended:
            assert await live(stage, None), at
        await check(stage)
        at += 1
    assert at > 60  # the places were really visited


@pytest.mark.parametrize("seed", range(300 if LONG else 20))
async def test_many_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    """Up to five kills at random places (300 such lives with COSTER_LONG=1)."""
    rng = random.Random(seed)
    stage = await endowed(tmp_path)
    for _ in range(5):
        if await live(stage, rng.randrange(80)):
            break
        stage.now_s += rng.choice((1, 60, 3_600, 2 * 86_400))
    else:
        assert await live(stage, None)
    await check(stage)
