"""Money going out: what was decided is paid once, and what was not paid is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.payments.actor import Payments
from market.accounting.chart import Code
from market.accounting.state_rows import PayoutRow
from market.errors import (
    Conflict,
    InvalidRequest,
    MarketError,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from market.payments.processor import ProcessorUnknown, Transfer
from market.payments.quotes import fee_cents
from market.settings import PaymentSettings
from market.types import AccountId
from tests.support.payments import ANN, BOB, DAY_S, PLACES, Till
from tests.support.till import hear_all, open_till, shop

FEES = PaymentSettings(payout_fee_cents=25, payout_fee_bps=100)


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    """Bob is set up for payouts; the present week has been paid, and he had earned nothing."""
    async with open_till(tmp_path, FEES) as till:
        await till.payee(BOB, shop(till).activate)
        await till.work()
        yield till


async def rich(till: Till) -> None:
    """The processor has money available, since others have paid in."""
    shop(till).stray(1_000_000)


async def row_of(till: Till, payout_id: str) -> PayoutRow:
    return await till.payments.payout_of(BOB, payout_id)


async def test_what_is_quoted_is_what_is_taken(till: Till) -> None:
    """The fee comes off the sum, whole cents, and the rest of a cent stays."""
    await rich(till)
    await till.earn(BOB, 5000)
    quote = await till.payments.quote_withdrawal(BOB)
    row = await till.payments.withdraw(BOB, None, quote.fee_nano, "w")
    await till.work()

    assert (quote.amount_cents, quote.fee_nano, quote.receives_cents) == (5000, 750_000_000, 4925)
    assert (row.amount_cents, row.state) == (4925, "decided")
    assert (await row_of(till, row.id)).state == "paid"
    assert [t.amount_cents for t in shop(till).transfers.values()] == [4925]
    assert till.cents(Code.PLATFORM_FEE) == 75
    assert till.cents(Code.PAYOUT_IN_TRANSIT, BOB) == till.cents(Code.PROVIDER_EARNINGS, BOB) == 0


@pytest.mark.parametrize("amount_cents", [1, 99, 100, 12_345, 99_999])
def test_a_fee_is_a_fixed_part_and_a_share_in_whole_cents(amount_cents: int) -> None:
    """Rounded down, so never more than the two together."""
    exact = 25 + amount_cents / 100
    assert exact - 1 < fee_cents(amount_cents, FEES) <= exact


async def test_less_than_a_cent_stays(till: Till) -> None:
    """A payout is whole cents; what is left is earned still."""
    await rich(till)
    await till.earn(BOB, 500)
    ledger = till.accountant._books.ledger
    ledger.account(Code.PROVIDER_EARNINGS, BOB).dp = 1  # a nano of it is held by a request

    row = await till.payments.withdraw(BOB, None, None, "w")

    assert row.amount_cents + 29 == 499
    assert till.nano(Code.PROVIDER_EARNINGS, BOB) == 10_000_000
    ledger.account(Code.PROVIDER_EARNINGS, BOB).dp = 0


async def test_another_fee_than_expected_stops_a_withdrawal(till: Till) -> None:
    """Nothing is taken; the error says what it costs now."""
    await till.earn(BOB, 5000)
    with pytest.raises(Conflict) as changed:
        await till.payments.withdraw(BOB, 1000, 1, "w")
    assert changed.value.code == "fee_changed"
    assert till.cents(Code.PROVIDER_EARNINGS, BOB) == 5000


async def test_who_cannot_be_paid_is_told_why(till: Till) -> None:
    """No set-up, not active, unclaimed, too little, too much, someone else's."""
    await till.earn(BOB, 5000)
    await till.earn(ANN, 5000)
    machine = AccountId("unclaimed_mac_1")
    await till.accountant.ensure_account(machine, "a Mac", "free", 0)
    await till.earn(machine, 5000)
    codes = []
    for account, cents in ((ANN, None), (machine, None), (BOB, 99), (BOB, 5001)):
        with pytest.raises(MarketError) as refused:
            await till.payments.withdraw(account, cents, None, "w")
        codes.append(refused.value.code)
    shop(till).activate((await till.accountant.payee(BOB)).account, active=False)  # type: ignore[union-attr]
    await hear_all(till)
    with pytest.raises(Conflict) as inactive:
        await till.payments.withdraw(BOB, None, None, "w")
    with pytest.raises(NotFound):
        await till.payments.payout_of(ANN, "po_1")

    assert codes == [
        "payouts_not_set_up",
        "machine_unclaimed",
        "withdrawal_amount",
        "insufficient_earnings",
    ]
    assert "document" in inactive.value.message


async def test_parallel_withdrawals_with_money_for_one_pay_one(till: Till) -> None:
    """Twenty at once, each with a key of its own: one is paid, the others are refused."""
    await rich(till)
    await till.earn(BOB, 5000)

    answers = await asyncio.gather(
        *(till.payments.withdraw(BOB, 3000, None, f"w{n}") for n in range(20)),
        return_exceptions=True,
    )
    await till.work()

    assert [type(a) for a in answers if isinstance(a, Exception)] == [PaymentRequired] * 19
    assert len(shop(till).transfers) == 1


async def test_a_key_is_one_withdrawal(till: Till) -> None:
    """The same call again is the payout as it is now; another sum under it is refused."""
    await rich(till)
    await till.earn(BOB, 5000)
    both = await asyncio.gather(*(till.payments.withdraw(BOB, 1000, None, "w") for _ in range(2)))
    await till.work()
    again = await till.payments.withdraw(BOB, 1000, None, "w")
    with pytest.raises(Conflict):
        await till.payments.withdraw(BOB, 1001, None, "w")

    assert both[0].id == both[1].id == again.id
    assert again.state == "paid"
    assert len(shop(till).transfers) == 1


async def test_a_definite_refusal_gives_everything_back(till: Till) -> None:
    """Earnings and fee are where they were, and the payee is looked at again."""
    await rich(till)
    await till.earn(BOB, 5000)
    account = (await till.accountant.payee(BOB)).account  # type: ignore[union-attr]
    row = await till.payments.withdraw(BOB, 1000, None, "w")
    shop(till).activate(account, active=False)
    await till.work()

    assert (await row_of(till, row.id)).state == "failed"
    assert till.cents(Code.PROVIDER_EARNINGS, BOB) == 5000
    assert till.cents(Code.PLATFORM_FEE) == 0
    assert (await till.accountant.payee(BOB)).state == "restricted"  # type: ignore[union-attr]


async def test_too_little_at_the_processor_waits_for_more(till: Till) -> None:
    """The payout stays decided, is tried again later and later, and at once when told."""
    await till.earn(BOB, 5000)
    row = await till.payments.withdraw(BOB, 1000, None, "w")
    await till.work()
    waiting = await row_of(till, row.id)
    await till.work()
    assert (waiting.state, waiting.tries) == ("decided", 1)
    assert (await row_of(till, row.id)).tries == 1
    assert till.cents(Code.PAYOUT_IN_TRANSIT, BOB) == row.amount_cents

    await rich(till)
    shop(till)._tell("balance.available", "")
    await hear_all(till)

    assert (await row_of(till, row.id)).state == "paid"
    assert len(shop(till).transfers) == 1


async def test_a_payout_that_comes_back_is_earned_again(till: Till) -> None:
    """In parts, and each part once."""
    await rich(till)
    await till.earn(BOB, 5000)
    row = await till.payments.withdraw(BOB, 1025, None, "w")
    await till.work()
    before = till.cents(Code.PROVIDER_EARNINGS, BOB)
    for cents in (300, 200):
        shop(till).reverse("tr_0", cents)
        await hear_all(till)
        await till.hear(*shop(till).events)
        await till.work()

    assert (await row_of(till, row.id)).state == "reversed"
    assert till.cents(Code.PROVIDER_EARNINGS, BOB) - before == 500


async def test_an_answer_that_never_came_is_looked_up(till: Till) -> None:
    """The transfer was made and the connection broke: found, booked, never made again."""
    await rich(till)
    await till.earn(BOB, 5000)
    processor = shop(till)
    made = processor.transfer

    async def drops(payout_id: str, account: str, amount_cents: int, attempt: int = 0) -> Transfer:
        await made(payout_id, account, amount_cents, attempt)
        raise ProcessorUnknown("The line went dead.", None, "no_answer")

    processor.transfer = drops  # type: ignore[method-assign]
    row = await till.payments.withdraw(BOB, 1000, None, "w")
    await till.work()
    assert (await row_of(till, row.id)).state == "unknown"
    assert till.cents(Code.PAYOUT_IN_TRANSIT, BOB) == row.amount_cents
    till.now_s += 60
    await till.work()

    assert (await row_of(till, row.id)).state == "paid"
    assert len(processor.transfers) == 1


@pytest.mark.parametrize("days", [0, 3])
async def test_a_call_that_was_lost_is_made_again_under_its_own_name(till: Till, days: int) -> None:
    """Not executed, no answer: first one looks, then asks again, within a day and after it."""
    await rich(till)
    await till.earn(BOB, 5000)
    processor = shop(till)
    made, looked, found = processor.transfer, [], processor.find_transfer

    async def lost(*args: object) -> Transfer:
        raise ProcessorUnknown("The line went dead.", None, "no_answer")

    async def looking(payout_id: str) -> Transfer | None:
        looked.append(payout_id)
        return await found(payout_id)

    processor.transfer = lost  # type: ignore[assignment,method-assign]
    processor.find_transfer = looking  # type: ignore[method-assign]
    row = await till.payments.withdraw(BOB, 1000, None, "w")
    await till.work()
    processor.transfer = made  # type: ignore[method-assign]
    till.now_s += 60 + days * DAY_S
    await till.work()

    assert (await row_of(till, row.id)).state == "paid"
    assert looked == [row.id]
    assert len(processor.transfers) == 1
    assert f"payout:{row.id}:0" in processor.kept


# ── the others ────────────────────────────────────────────────────────────────────────


async def test_a_payee_is_opened_once(till: Till) -> None:
    """A country cannot be changed; who is set up gets a new form for the same account."""
    row, url = await till.payments.onboard(BOB, "US", "again")
    with pytest.raises(Conflict) as fixed:
        await till.payments.onboard(BOB, "DE", "other")
    with pytest.raises(InvalidRequest):
        await till.payments.onboard(ANN, "Ü!", "odd")

    assert url.endswith(row.account)
    assert fixed.value.code == "country_fixed"
    assert len(shop(till).recipients) == 1
    assert BOB not in row.account  # our ids are private


async def test_payments_that_contradict_the_books_stop_the_market(tmp_path: Path) -> None:
    """What is in transit must be what open payouts say; if not, nothing is written any more."""
    async with open_till(tmp_path, FEES) as till:
        await till.payee(BOB, shop(till).activate)
        await till.earn(BOB, 5000)
        row = await till.payments.withdraw(BOB, 1000, None, "w")
        table = till.accountant._desk.payouts
        table.put(row._replace(amount_cents=1))
        await till.accountant.tidy_up()
        assert "contradict" in (till.accountant.failed or "")
        with pytest.raises(MarketError):
            await till.payments.withdraw(BOB, 1000, None, "x")
        table.put(row)


async def test_a_market_without_a_processor_moves_no_money(tmp_path: Path) -> None:
    """It says so at once, decides nothing and pays nobody; what there was can still be read."""
    async with open_till(tmp_path, FEES) as till:
        await till.payee(BOB, shop(till).activate)
        await till.earn(BOB, 5000)
        off = Payments(till.call, till.processor, PLACES, wall_ns=till.wall_ns, kind="off")
        await off.start()
        for call in (
            off.topup(BOB, 2500),
            off.withdraw(BOB),
            off.run_weekly(),
            off.reconcile(),
            off.onboard(BOB, "US"),
            off.refund(BOB, "top_1"),
        ):
            with pytest.raises(Unavailable) as refused:
                await call
            assert refused.value.code == "payments_off"

        assert await off.payouts(BOB) == await off.topups(BOB) == []
        assert till.cents(Code.PROVIDER_EARNINGS, BOB) == 5000
