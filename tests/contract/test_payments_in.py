"""Money coming in: what was paid is credited once, whatever one hears of it and when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from market.accounting.chart import Code
from market.accounting.state_rows import DisputeRow, RefundRow
from market.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    RateLimited,
)
from tests.support.memory_processor import DISPUTE_FEE_CENTS, FEE_CENTS
from tests.support.payments import ANN, BOB, DAY_S, Till
from tests.support.till import hear_all, open_till, paid, shop


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with open_till(tmp_path) as till:
        yield till


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
    assert not await till.payments.known(ANN, "topup", "k")
    first = await till.payments.topup(ANN, 2500, "k")
    shop(till).pay(first.id)
    await hear_all(till)

    assert await till.payments.known(ANN, "topup", "k")
    assert not await till.payments.known(BOB, "topup", "k")
    assert not await till.payments.known(ANN, "withdraw", "k")
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
    await hear_all(till)
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
    await hear_all(till)

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


# ── refunds ───────────────────────────────────────────────────────────────────────────


async def test_unspent_credit_goes_back_once(till: Till) -> None:
    """A refund takes the credit, reaches the payer, and its key makes no second one."""
    topup_id = await paid(till)
    row = await till.payments.refund(ANN, topup_id, 1000, "r")
    assert (row.state, till.cents(Code.CONSUMER_CASH, ANN)) == ("decided", 1500)
    await till.work()

    again = await till.payments.refund(ANN, topup_id, 1000, "r")
    await till.work()

    assert (again.id, again.state) == (row.id, "done")
    assert [made.amount_cents for made in shop(till).refunds.values()] == [1000]
    assert (await till.payments.topup_of(ANN, topup_id)).refunded_cents == 1000
    with pytest.raises(Conflict):
        await till.payments.refund(ANN, topup_id, 999, "r")


async def test_only_what_is_there_can_go_back(till: Till) -> None:
    """Spent, promo and already refunded credit stay; everything else is one call."""
    topup_id = await paid(till)
    till.spend(ANN, 5_000_000_001)  # a nano more than five dollars
    await till.accountant.ensure_account(ANN, ANN, "free", 0)
    with pytest.raises(PaymentRequired) as refused:
        await till.payments.refund(ANN, topup_id, 2000, "a")
    row = await till.payments.refund(ANN, topup_id, None, "b")
    await till.work()
    with pytest.raises(PaymentRequired):
        await till.payments.refund(ANN, topup_id, None, "c")

    assert "$19.99" in refused.value.message
    assert row.amount_cents == 1999
    assert till.nano(Code.CONSUMER_CASH, ANN) == 9_999_999


async def test_promo_credit_is_neither_refunded_nor_withdrawn(till: Till) -> None:
    """Granted credit can only be spent, whatever else an account has done."""
    await paid(till)
    till.accountant._books.ledger.grant_promo(ANN, 10**10, till.accountant._now_ns())
    till.spend(ANN, 25 * 10**9)
    topup_id = (await till.payments.topups(ANN))[0].id

    with pytest.raises(PaymentRequired):
        await till.payments.refund(ANN, topup_id, None, "r")
    await till.payee(ANN, shop(till).activate)
    with pytest.raises(PaymentRequired):
        await till.payments.withdraw(ANN, None, None, "w")


async def test_a_refund_that_a_bank_sends_back_is_credit_again(till: Till) -> None:
    """Even after it had succeeded, and however often one hears of it."""
    topup_id = await paid(till)
    await till.payments.refund(ANN, topup_id, 1000, "r")
    await till.work()
    shop(till).fail_refund("re_0")
    await hear_all(till)
    await till.hear(*shop(till).events)
    await till.work()

    assert till.cents(Code.CONSUMER_CASH, ANN) == 2500
    assert (await till.payments.topup_of(ANN, topup_id)).refunded_cents == 0
    assert (await till.accountant._store.rows(RefundRow))[0].state == "failed"
    assert till.cents(Code.STRIPE_CLEARING) == -shop(till).balance_cents


async def test_a_slow_refund_ends_when_the_bank_says_so(till: Till) -> None:
    """Pending until then, and done without any notice."""
    topup_id = await paid(till)
    shop(till).refunds_wait = True
    await till.payments.refund(ANN, topup_id, None, "r")
    await till.work()
    assert (await till.accountant._store.rows(RefundRow))[0].state == "pending"
    shop(till).settle_refund("re_0")
    till.now_s += 3600
    await till.work()

    assert (await till.accountant._store.rows(RefundRow))[0].state == "done"


# ── disputes ──────────────────────────────────────────────────────────────────────────


async def dispute(till: Till) -> DisputeRow:
    return (await till.accountant._store.rows(DisputeRow))[0]


async def test_a_dispute_takes_what_is_there_and_notes_what_is_owed(till: Till) -> None:
    """After spending: the rest of the credit goes, the debt is the account's, it is frozen."""
    topup_id = await paid(till)
    till.spend(ANN, 20 * 10**9)
    shop(till).open_dispute(f"pi_{topup_id}", 2500)
    await hear_all(till)

    assert till.cents(Code.CONSUMER_CASH, ANN) == 0
    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == -2000
    assert till.cents(Code.STRIPE_FEES) == -(FEE_CENTS + DISPUTE_FEE_CENTS)
    assert (await till.accountant.account(ANN)).frozen
    assert (await till.payments.topup_of(ANN, topup_id)).disputed_cents == 2500
    for forbidden in (
        till.payments.topup(ANN, 2500, "x"),
        till.payments.refund(ANN, topup_id, None, "x"),
        till.payments.withdraw(ANN, None, None, "x"),
    ):
        with pytest.raises(Forbidden):
            await forbidden


async def test_a_dispute_that_is_won_leaves_no_trace_but_its_fee(till: Till) -> None:
    """Credit and debt are as before, and the account is free again."""
    topup_id = await paid(till)
    till.spend(ANN, 20 * 10**9)
    name = shop(till).open_dispute(f"pi_{topup_id}", 2500)
    await hear_all(till)
    shop(till).close_dispute(name, won=True)
    await hear_all(till)

    assert till.cents(Code.CONSUMER_CASH, ANN) == 500
    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == 0
    assert (await till.accountant.account(ANN)).frozen == ""
    assert (await dispute(till)).state == "won"
    assert till.cents(Code.STRIPE_CLEARING) == -shop(till).balance_cents


async def test_a_dispute_that_is_lost_is_our_loss_and_stays_frozen(till: Till) -> None:
    """The debt is written off; only a person lifts the freeze, and then it stays lifted."""
    topup_id = await paid(till)
    till.spend(ANN, 20 * 10**9)
    name = shop(till).open_dispute(f"pi_{topup_id}", 2500)
    shop(till).close_dispute(name, won=False)
    await hear_all(till)

    assert till.cents(Code.DISPUTE_LOSS) == -2000
    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == 0
    assert "taken back" in (await till.accountant.account(ANN)).frozen
    await till.accountant.change_account(ANN, {"frozen": ""}, "op", "looked at it")
    await till.hear(*shop(till).events)
    await till.work()
    assert (await till.accountant.account(ANN)).frozen == ""


async def test_an_operators_freeze_is_never_lifted_by_a_won_dispute(till: Till) -> None:
    """Only what a dispute has frozen thaws with it."""
    topup_id = await paid(till)
    await till.accountant.change_account(ANN, {"frozen": "abuse"}, "op", "seen")
    name = shop(till).open_dispute(f"pi_{topup_id}", 2500)
    shop(till).close_dispute(name, won=True)
    await hear_all(till)

    assert (await till.accountant.account(ANN)).frozen == "abuse"


async def test_new_credit_pays_debts_first(till: Till) -> None:
    """A page that was open when the dispute came: what is paid on it goes to the debt."""
    topup_id = await paid(till)
    other = await till.payments.topup(ANN, 3000, "second")
    till.spend(ANN, 25 * 10**9)
    name = shop(till).open_dispute(f"pi_{topup_id}", 2500)
    await hear_all(till)
    shop(till).pay(other.id)
    await hear_all(till)
    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == 0
    assert till.cents(Code.CONSUMER_CASH, ANN) == 500

    shop(till).close_dispute(name, won=True)
    await hear_all(till)

    assert till.cents(Code.CONSUMER_CASH, ANN) == 3000


async def test_a_bank_may_give_back_in_parts(till: Till) -> None:
    """Debts are paid back first, then credit; what is so at the processor is so here."""
    topup_id = await paid(till)
    till.spend(ANN, 20 * 10**9)
    name = shop(till).open_dispute(f"pi_{topup_id}", 2500)
    await hear_all(till)
    shop(till).reinstate(name, 2100)
    await hear_all(till)

    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == 0
    assert till.cents(Code.CONSUMER_CASH, ANN) == 100
    assert (await dispute(till)).withdrawn_cents == 400


async def test_credit_that_a_hold_frees_pays_the_debt(till: Till) -> None:
    """A dispute cannot take what is held; when the request ends for less, the rest goes."""
    topup_id = await paid(till)
    cash = till.accountant._books.ledger.account(Code.CONSUMER_CASH, ANN)
    cash.dp = 10 * 10**9  # as a hold reserves it
    shop(till).open_dispute(f"pi_{topup_id}", 2500)
    await till.hear(*shop(till).events)
    await till.work()
    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == -1000
    cash.dp = 0
    await till.work()

    assert till.cents(Code.CONSUMER_RECEIVABLE, ANN) == 0
    assert till.cents(Code.CONSUMER_CASH, ANN) == 0


async def test_a_dispute_heard_of_before_its_payment_is_booked_after_it(till: Till) -> None:
    """Whoever is told of the dispute first asks for the payment behind it."""
    row = await till.payments.topup(ANN, 2500, "k")
    shop(till).pay(row.id)
    shop(till).open_dispute(f"pi_{row.id}", 2500)
    await till.hear(shop(till).events[-1])
    await till.work()

    assert (await till.payments.topup_of(ANN, row.id)).state == "paid"
    assert till.cents(Code.CONSUMER_CASH, ANN) == 0
    assert till.cents(Code.STRIPE_CLEARING) == -shop(till).balance_cents
