"""What an operator is told to look at, and what not."""

from __future__ import annotations

import pytest

from market.accounting.chart import Code, Posting
from market.accounting.rows import Revenue
from market.accounting.watch import (
    clearing_difference_nano,
    ledger_alerts,
    overdue_holds,
    promo_alerts,
    share_alerts,
)
from market.money import NANO_PER_USD
from market.types import AccountId
from tests.support.books import OWNERS, S, admit, do, make_books

ANN, BOB, CAT = OWNERS


def test_quiet_books_alert_nobody() -> None:
    """A market with holds that live within their leases gives nothing to look at."""
    books = make_books()
    do(books, admit("req_1"))

    assert list(ledger_alerts(books.ledger, 30 * S)) == []


def test_a_hold_nobody_closes_is_told() -> None:
    """Its lease is 60 s; a while after that the sweep has evidently stopped."""
    books = make_books()
    do(books, admit("req_1"))

    assert overdue_holds(books.ledger, 65 * S) == 0
    assert overdue_holds(books.ledger, 71 * S) == 1
    assert [alert.kind for alert in ledger_alerts(books.ledger, 71 * S)] == ["holds_overdue"]


@pytest.mark.parametrize("posting", [Posting.SUSPENSE_IN, Posting.SUSPENSE_OUT])
def test_unexplained_money_is_told_in_either_direction(posting: Posting) -> None:
    """More or less at the processor than explained: account 9000 is not zero."""
    ledger = make_books().ledger
    sides = [ledger.account(Code.SUSPENSE), ledger.account(Code.STRIPE_CLEARING)]
    if posting is Posting.SUSPENSE_IN:
        sides.reverse()
    ledger.post("x", 0, debit=sides[0], credit=sides[1], amount_nano=7, posting=posting, ts_ns=1)

    (alert,) = ledger_alerts(ledger, 0)

    assert alert.kind == "suspense"
    assert abs(alert.amount_nano) == 7


def test_debts_are_told_the_largest_first() -> None:
    """Who owes how much after a dispute."""
    ledger = make_books().ledger
    for owner, amount_nano in ((ANN, 5), (BOB, 9)):
        ledger.post(
            f"dispute:{owner}",
            0,
            debit=ledger.account(Code.CONSUMER_RECEIVABLE, owner),
            credit=ledger.account(Code.STRIPE_CLEARING),
            amount_nano=amount_nano,
            posting=Posting.DISPUTE,
            ts_ns=1,
        )

    owed = [(alert.subject, alert.amount_nano) for alert in ledger_alerts(ledger, 0)]

    assert owed == [(BOB, 9), (ANN, 5)]


def shares(*sums_usd: float) -> list[str]:
    rows = [
        Revenue(BOB, AccountId(f"acct_{number}"), int(usd * NANO_PER_USD))
        for number, usd in enumerate(sums_usd)
    ]
    return [alert.message for alert in share_alerts(rows)]


def test_a_provider_who_lives_on_few_accounts_is_told() -> None:
    """More than 30 % of a dollar or more from at most two accounts."""
    assert shares(*[1.0] * 10) == []
    assert shares(0.5) == []
    assert shares(1.0) == [f"{BOB} earned $1.000000 in 7 days, 100 % of it from 1 account."]
    assert "40 % of it from 2 accounts" in shares(2.0, 2.0, *[0.5] * 12)[0]
    assert shares(1.5, 1.5, *[1.0] * 7) == []


def test_the_promo_budget_is_told_before_it_is_spent() -> None:
    """From nine tenths of the day's budget on."""
    assert list(promo_alerts(89, 100)) == []
    assert [alert.kind for alert in promo_alerts(90, 100)] == ["promo_budget"]
    assert list(promo_alerts(0, 0)) == []


def test_the_processor_must_hold_what_the_books_say() -> None:
    """To the nano, but for what is still on its way there."""
    assert clearing_difference_nano(25 * 10_000_000, 25) == 0
    assert clearing_difference_nano(25 * 10_000_000, 26) == 10_000_000
    assert clearing_difference_nano(30 * 10_000_000, 25, in_flight_nano=5 * 10_000_000) == 0
