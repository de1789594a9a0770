"""Notices in any order, doubled or lost: afterwards the books say what the processor says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.accounting.chart import Code
from market.accounting.state_rows import DisputeRow, EventRow, RefundRow, TopUpRow
from market.errors import Conflict, Forbidden, InvalidRequest, PaymentRequired
from market.payments.processor import ProcessorBusy, ProcessorEvent
from tests.support.memory_processor import MemoryProcessor
from tests.support.payments import ANN, Till
from tests.support.till import memory_till, open_till, paid, shop

LONG = bool(os.environ.get("COSTER_LONG"))
_STATES = {"pending": "pending", "succeeded": "done", "failed": "failed"}


async def agree(till: Till) -> None:
    """Every row says what the processor says, and the sums follow from that alone."""
    processor, store = shop(till), till.accountant._store
    topups = {row.id: row for row in await store.rows(TopUpRow)}
    cash_nano = 0
    for page in processor.checkouts.values():
        assert topups[page.topup_id].state == ("paid" if page.paid else page.status)
        cash_nano += page.amount_cents * 10**7 if page.paid else 0
    for row in await store.rows(RefundRow):
        if not row.refund:  # the processor would not make it
            assert row.state == "failed"
            continue
        refund = processor.refunds[row.refund]
        assert row.state == _STATES[refund.status]
        cash_nano -= 0 if refund.status == "failed" else refund.amount_cents * 10**7
    known = {row.id: row for row in await store.rows(DisputeRow)}
    lost_nano = 0
    for name, said in processor.disputes.items():
        row = known[name]
        assert (row.state, row.withdrawn_cents) == (said.status, said.withdrawn_cents)
        cash_nano -= said.withdrawn_cents * 10**7
        if said.status == "lost":
            lost_nano += said.withdrawn_cents * 10**7 - row.cash_nano
    ledger_nano = till.nano(Code.CONSUMER_CASH, ANN) + till.nano(Code.CONSUMER_RECEIVABLE, ANN)
    assert ledger_nano == cash_nano + lost_nano
    assert till.nano(Code.DISPUTE_LOSS) == -lost_nano
    assert till.cents(Code.STRIPE_CLEARING) == -processor.balance_cents
    assert till.problems() == []
    frozen = (await till.accountant.account(ANN)).frozen
    statuses = {said.status for said in processor.disputes.values()}
    assert bool(frozen) == bool(statuses - {"won"})


async def won(till: Till) -> None:
    """Paid, refunded in part, disputed, won: eight notices."""
    topup_id = await _opened(till)
    shop(till).pay(topup_id)
    shop(till).close_dispute(shop(till).open_dispute(f"pi_{topup_id}", 2000), won=True)


async def lost(till: Till) -> None:
    """Paid, disputed, lost."""
    topup_id = await _opened(till)
    shop(till).pay(topup_id)
    shop(till).close_dispute(shop(till).open_dispute(f"pi_{topup_id}", 2500), won=False)


async def refunded(till: Till) -> None:
    """Paid, refunded, the refund sent back, then disputed."""
    topup_id = await paid(till)
    await till.payments.refund(ANN, topup_id, 1000, "r")
    await till.work()
    shop(till).fail_refund("re_0")
    shop(till).open_dispute(f"pi_{topup_id}", 1500)


async def two(till: Till) -> None:
    """Two top-ups, one paid and one never used, and a dispute that comes back in parts."""
    topup_id = await _opened(till)
    other = await _opened(till, "other")
    shop(till).pay(topup_id)
    shop(till).expire(other)
    shop(till).reinstate(shop(till).open_dispute(f"pi_{topup_id}", 2500), 700)


async def _opened(till: Till, key: str = "k") -> str:
    return (await till.payments.topup(ANN, 2500, key)).id


def orders(events: list[ProcessorEvent]) -> list[tuple[ProcessorEvent, ...]]:
    """Every order of the last five."""
    return list(itertools.permutations(events[-5:]))


@pytest.mark.parametrize("history", [won, lost, refunded, two])
async def test_the_order_of_notices_does_not_matter(
    tmp_path: Path, history: Callable[[Till], object]
) -> None:
    """Every order of up to five notices, each heard one to three times and acted on at once."""
    count = 0
    while True:
        till = await memory_till(tmp_path).open()
        await till.people()
        await history(till)  # type: ignore[misc]
        every = orders(shop(till).events)
        for number, event in enumerate(every[count]):
            for _ in range(1 + (count + number) % 3):
                await till.hear(event)
            if (count + number) % 2:
                await till.work()
        await till.work()
        await agree(till)
        await till.close()
        count += 1
        if count == len(every):
            return


ACTS: dict[str, Callable[[MemoryProcessor, str], object]] = {
    "pay": lambda processor, topup: processor.pay(topup),
    "expire": lambda processor, topup: processor.expire(topup),
    "dispute": lambda processor, topup: processor.open_dispute(f"pi_{topup}", 900),
    "win": lambda processor, _: processor.close_dispute(_open(processor), won=True),
    "lose": lambda processor, _: processor.close_dispute(_open(processor), won=False),
    "part": lambda processor, _: processor.reinstate(_open(processor), 300),
    "fail": lambda processor, _: processor.fail_refund(
        next(r.refund for r in processor.refunds.values() if r.status == "succeeded")
    ),
    "settle": lambda processor, _: processor.settle_refund(
        next(r.refund for r in processor.refunds.values() if r.status == "pending")
    ),
}


def _open(processor: MemoryProcessor) -> str:
    return next(
        said.dispute
        for said in processor.disputes.values()
        if said.status == "open" and said.withdrawn_cents >= 300
    )


async def _act(till: Till, act: str, topup_id: str) -> None:
    processor = shop(till)
    page = processor.checkouts[f"cs_{topup_id}"]
    disputed = sum(d.amount_cents for d in processor.disputes.values())
    if act in ("pay", "expire") and page.status != "open":
        return
    if act == "dispute" and (not page.paid or disputed + 900 > 2500):
        return
    try:
        ACTS[act](processor, topup_id)
    except StopIteration:
        return


@settings(
    max_examples=1500 if LONG else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.sampled_from([*ACTS, "hear one", "hear one", "work", "refund", "spend", "restart"]),
        max_size=25,
    ),
    order=st.randoms(use_true_random=False),
)
async def test_any_history_ends_as_the_processor_says(
    tmp_path: Path, steps: list[str], order: object
) -> None:
    """Random lives with notices in between, some never heard: then one sweep finds the rest."""
    till = await memory_till(tmp_path).open()
    await till.people()
    topup_id = await _opened(till)
    spent_nano = 0
    for step in steps:
        till.now_s += 7
        events = shop(till).events
        if step == "hear one" and events:
            await till.hear(order.choice(events))  # type: ignore[attr-defined]
        elif step == "work":
            await till.work()
        elif step == "restart":
            await till.close()
            await till.open()
        elif step == "spend" and till.nano(Code.CONSUMER_CASH, ANN) >= 10**9:
            till.spend(ANN, 10**9)
            spent_nano += 10**9
        elif step == "refund":
            try:
                await till.payments.refund(ANN, topup_id, 400, f"r{till.now_s}")
            except (Conflict, Forbidden, PaymentRequired):
                continue
        elif step in ACTS:
            await _act(till, step, topup_id)
    till.now_s += 7_200
    await till.payments._sweep()
    await till.work()
    till.now_s += 7_200
    await till.work()
    assert till.problems() == []
    assert till.cents(Code.STRIPE_CLEARING) == -shop(till).balance_cents
    assert all(row.state == "done" for row in await till.accountant._store.rows(EventRow))
    if spent_nano == 0 and not any(d.status == "lost" for d in shop(till).disputes.values()):
        await agree(till)
    await till.close()


async def test_a_notice_about_nothing_of_ours_is_put_away(tmp_path: Path) -> None:
    """Kinds we do not know are done; about objects that are not there we stop asking."""
    async with open_till(tmp_path) as till:
        await till.hear(
            ProcessorEvent("evt_1", "invoice.paid", "in_1", 1),
            ProcessorEvent("evt_2", "refund.updated", "re_404", 1),
            ProcessorEvent("evt_3", "transfer.reversed", "tr_404", 1),
        )
        for _ in range(4):
            await till.work()
            till.now_s += 3_600
        rows = {row.id: row.state for row in await till.accountant._store.rows(EventRow)}

    assert rows == {"evt_1": "done", "evt_2": "failed", "evt_3": "done"}


async def test_only_what_the_processor_signed_is_taken_in(tmp_path: Path) -> None:
    """A notice is durable when the call returns; a forged one leaves nothing."""
    async with open_till(tmp_path) as till:
        with pytest.raises(InvalidRequest):
            await till.payments.webhook(b'["evt_1", "x", "y", 1]', "forged")
        assert await till.accountant._store.rows(EventRow) == []
        for _ in range(3):
            await till.payments.webhook(b'["evt_1", "x", "y", 1]', "signed")

        assert [row.id for row in await till.accountant._store.rows(EventRow)] == ["evt_1"]


async def test_a_look_that_failed_is_repeated_within_a_minute(tmp_path: Path) -> None:
    """The hourly search for lost notices does not wait an hour when the processor was away."""
    async with open_till(tmp_path) as till:
        row = await till.payments.topup(ANN, 2500, "k")
        shop(till).pay(row.id)
        listed, asked = shop(till).events_since, []

        async def away(created_s: int) -> list[ProcessorEvent]:
            asked.append(created_s)
            raise ProcessorBusy("Away.", None, "unreachable", 1.0)

        shop(till).events_since = away  # type: ignore[method-assign]
        await till.payments._pass()
        await till.payments.idle()
        await till.payments._pass()
        await till.payments.idle()
        shop(till).events_since = listed  # type: ignore[method-assign]
        till.now_s += 61
        await till.payments._pass()
        await till.payments.idle()

        assert len(asked) == 1
        assert await till.accountant._store.rows(EventRow)


async def test_a_notice_with_an_impossible_date_is_kept(tmp_path: Path) -> None:
    """It is signed, so it is taken in; no row can hold such a date, so it gets the last one."""
    async with open_till(tmp_path) as till:
        await till.hear(ProcessorEvent("evt_1", "invoice.paid", "in_1", 10**30))
        (row,) = await till.accountant._store.rows(EventRow)
        assert 0 < row.created_ns < 2**63
