"""Money coming in: what was paid is credited once, whatever one hears of it and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from market.accounting.chart import Code
from market.errors import Conflict, InvalidRequest, NotFound, RateLimited
from tests.support.memory_processor import FEE_CENTS, MemoryProcessor
from tests.support.payments import ANN, BOB, DAY_S, Till


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    till = Till(tmp_path, lambda self: MemoryProcessor(lambda: int(self.now_s)))
    await till.open()
    await till.people()
    yield till
    assert till.problems() == []
    await till.close()


def shop(till: Till) -> MemoryProcessor:
    assert isinstance(till.processor, MemoryProcessor)
    return till.processor


async def paid(till: Till, cents: int = 2500, key: str = "k") -> str:
    row = await till.payments.topup(ANN, cents, key)
    shop(till).pay(row.id)
    await till.hear(*shop(till).events)
    await till.work()
    return row.id


async def test_a_paid_page_is_credit_and_its_fee_our_cost(till: Till) -> None:
    """$25 paid is $25 of credit; what the processor keeps is the platform's; the payer is paid."""
    topup = await till.payments.topup(ANN, 2500, "k")
    assert (topup.state, topup.url) == ("open", "https://pay")

    row = await till.payments.topup_of(ANN, await paid(till))

    assert row.state == "paid"
    assert till.cents(Code.CONSUMER_CASH, ANN) == 2500
    assert till.cents(Code.STRIPE_FEES) == -FEE_CENTS
    assert till.cents(Code.STRIPE_CLEARING) == -(2500 - FEE_CENTS)
    owner = await till.accountant.account(ANN)
    assert (owner.tier, owner.paid_ns is not None) == ("paid", True)


async def test_a_key_is_one_topup(till: Till) -> None:
    """The same key and sum are the same page as it is now; another sum is refused."""
    first = await till.payments.topup(ANN, 2500, "k")
    shop(till).pay(first.id)
    await till.hear(*shop(till).events)
    await till.work()

    again = await till.payments.topup(ANN, 2500, "k")
    with pytest.raises(Conflict) as reused:
        await till.payments.topup(ANN, 2600, "k")
    other = await till.payments.topup(BOB, 2500, "k")

    assert (again.id, again.state) == (first.id, "paid")
    assert reused.value.code == "idempotency_key_reused"
    assert other.id != first.id
    assert len(shop(till).checkouts) == 2


@pytest.mark.parametrize("cents", [499, 100_001, 0, -1, True, 10.5, "5"])
async def test_a_sum_out_of_bounds_is_refused(till: Till, cents: object) -> None:
    """Less than the least, more than the most, and what is no sum: nothing is written down."""
    with pytest.raises(InvalidRequest):
        await till.payments.topup(ANN, cents, "k")  # type: ignore[arg-type]
    assert await till.payments.topups(ANN) == []


async def test_a_new_account_pays_in_little_at_first(till: Till) -> None:
    """Open pages count against the day, those given up do not; after a week there is more."""
    first = await till.payments.topup(ANN, 30_000, "a")
    with pytest.raises(RateLimited) as refused:
        await till.payments.topup(ANN, 20_001, "b")
    shop(till).expire(first.id)
    await till.hear(*shop(till).events)
    await till.work()
    await till.payments.topup(ANN, 50_000, "c")
    till.now_s += 8 * DAY_S
    await till.payments.topup(ANN, 100_000, "d")
    await till.payments.topup(ANN, 100_000, "e")
    with pytest.raises(RateLimited):
        await till.payments.topup(ANN, 500, "f")

    assert "$300.00" in refused.value.message
    assert refused.value.retry_after_s == pytest.approx(DAY_S / 2)


async def test_another_sum_than_was_asked_is_credited_to_nobody(till: Till) -> None:
    """It waits in suspense for a person, and the top-up says so."""
    row = await till.payments.topup(ANN, 2500, "k")
    shop(till).pay(row.id, 2400)
    await till.hear(*shop(till).events)
    await till.work()

    assert (await till.payments.topup_of(ANN, row.id)).state == "failed"
    assert till.cents(Code.CONSUMER_CASH, ANN) == 0
    assert till.cents(Code.SUSPENSE) == 2400


async def test_someone_elses_topup_does_not_exist(till: Till) -> None:
    """Not to be seen, not to be refunded."""
    topup_id = await paid(till)
    with pytest.raises(NotFound):
        await till.payments.topup_of(BOB, topup_id)
    with pytest.raises(NotFound):
        await till.payments.refund(BOB, topup_id, None, "r")
    assert [row.id for row in await till.payments.topups(ANN)] == [topup_id]
