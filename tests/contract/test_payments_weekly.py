"""The weekly run and reconciliation: once a week, every line, whatever the clock does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from market.accounting.chart import Code
from market.accounting.state_rows import PayoutRow
from market.payments.payouts import date_of
from market.settings import PaymentSettings
from market.types import AccountId
from tests.support.payments import ANN, BOB, DAY_S, MONDAY_S, Till
from tests.support.till import open_till, paid, shop

FEES = PaymentSettings(payout_fee_cents=25, payout_fee_bps=100)
WEEK_S = 7 * DAY_S


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


async def test_a_week_is_paid_once(till: Till) -> None:
    """Whatever the clock does, and however often the market starts: one payout a week."""
    await rich(till)
    paid_weeks = []
    for jump_s in (0, 3600, -DAY_S, WEEK_S, -WEEK_S, 60, 3 * WEEK_S, 1):
        till.now_s += jump_s
        await till.earn(BOB, 2000)
        await till.close()
        await till.open()
        await till.work()
        told = await till.payments.run_weekly()
        paid_weeks.append(told["week"])
        await till.work()

    rows = await till.accountant._store.rows(PayoutRow)
    assert len(set(paid_weeks)) == 3
    assert len(rows) == len({row.week for row in rows}) == len(shop(till).transfers) == 2
    assert sum(row.amount_cents + row.fee_nano // 10**7 for row in rows) == 7 * 2000


async def test_a_week_begins_on_monday_at_midnight(till: Till) -> None:
    """A second before, nothing is due; then everybody who earned the minimum is paid."""
    await rich(till)
    await till.earn(BOB, 1000)
    till.now_s = MONDAY_S + WEEK_S - 1
    await till.work()
    assert shop(till).transfers == {}
    till.now_s += 1
    await till.work()

    assert [t.amount_cents for t in shop(till).transfers.values()] == [1000 - 25 - 10]
    row = (await till.payments.payouts(BOB))[0]
    assert row.id == f"po_{(MONDAY_S + WEEK_S) // DAY_S}_{BOB}"


async def test_only_who_is_due_is_paid_weekly(till: Till) -> None:
    """Below the minimum, frozen, on demand only: passed over and counted, nobody stops the run."""
    cat = AccountId("acct_cat")
    await till.accountant.ensure_account(cat, "Cat", "free", 0)
    for account in (ANN, cat):
        await till.payee(account, shop(till).activate)
    await till.payments.set_weekly(cat, False)
    await till.accountant.change_account(ANN, {"frozen": "abuse"}, "op", "seen")
    for account, cents in ((ANN, 5000), (BOB, 999), (cat, 5000)):
        await till.earn(account, cents)
    till.now_s += WEEK_S

    told = await till.payments.run_weekly()
    again = await till.payments.run_weekly()

    assert again == {**told, "already": True}
    assert told["already"] is False
    assert told["payouts"] == 0
    assert told["passed"] == {"frozen": 1, "below_minimum": 1, "on_demand_only": 1}


async def test_a_week_that_was_run_says_when_and_which_is_next(till: Till) -> None:
    """Its Monday and the next one as dates, the moment it was decided, and that it was."""
    till.now_s = MONDAY_S + WEEK_S + 90
    await till.payments.run_weekly()
    till.now_s += DAY_S

    told = await till.payments.run_weekly()

    assert datetime.fromisoformat(f"{told['week']}T00:00:00Z").timestamp() == MONDAY_S + WEEK_S
    assert datetime.fromisoformat(told["run_at"]).timestamp() == MONDAY_S + WEEK_S + 90
    assert told["next_week"] == date_of(MONDAY_S // DAY_S + 14)
    assert (told["already"], told["payouts"], "monday" in told) == (True, 0, False)


async def test_a_market_that_was_down_for_weeks_pays_once(till: Till) -> None:
    """The latest Monday only: what was earned is paid together."""
    await rich(till)
    await till.earn(BOB, 5000)
    await till.close()
    till.now_s += 5 * WEEK_S
    await till.open()
    await till.work()

    assert len(shop(till).transfers) == 1


# ── reconciliation ────────────────────────────────────────────────────────────────────


async def test_reconciliation_finds_a_stray_line(till: Till) -> None:
    """Everything else matches; the stranger goes to suspense once and stays reported."""
    topup_id = await paid(till)
    await till.payments.refund(ANN, topup_id, 500, "r")
    await till.work()
    assert (await till.payments.reconcile())["ok"]
    line = shop(till).stray(-777)

    first = await till.payments.reconcile()
    second = await till.payments.reconcile()

    for told in (first, second):
        assert not told["ok"]
        assert [entry["line"] for entry in told["unmatched"]] == [line]
        assert told["difference_cents"] == 0
    assert till.cents(Code.SUSPENSE) == -777
    assert till.cents(Code.STRIPE_CLEARING) == -shop(till).balance_cents


async def test_reconciliation_books_what_no_notice_told(till: Till) -> None:
    """All kinds of movements, not one webhook: afterwards books and balance agree."""
    topup_id = (await till.payments.topup(ANN, 5000, "k")).id
    shop(till).pay(topup_id)
    assert (await till.payments.reconcile())["ok"]
    await till.payments.refund(ANN, topup_id, 1000, "r")
    told = await till.payments.reconcile()
    assert (told["ok"], told["in_flight_cents"], told["difference_cents"]) == (True, 1000, 0)
    await till.work()
    shop(till).fail_refund("re_0")
    await till.earn(BOB, 2000)
    shop(till).stray(2000, "charge")
    await till.payments.withdraw(BOB, 2000, None, "w")
    await till.work()
    shop(till).reverse("tr_0", 300)
    shop(till).open_dispute(f"pi_{topup_id}", 2000)

    told = await till.payments.reconcile()

    assert told["difference_cents"] == -2000  # Bob's consumers had paid before there was a till
    assert [entry["net_cents"] for entry in told["unmatched"]] == [2000]
    assert till.cents(Code.CONSUMER_CASH, ANN) == 3000
