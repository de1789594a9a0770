"""The operator's page: its identity holds, and it says where a market loses money."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from market.accounting.chart import SHAPES, Account, Code, Posting
from market.accounting.economics import break_even_cents, money_warnings, payouts_cost_cents
from market.accounting.report import report_of
from market.settings import PaymentSettings
from tests.support.books import OWNERS, admit, do, make_books, settle

MOVES = sorted(
    (posting, debit, credit) for posting, pairs in SHAPES.items() for debit, credit in pairs
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(1, 10**15)), max_size=30))
def test_what_is_owned_is_what_is_owed_and_ones_own(
    moves: list[tuple[tuple[Posting, Code, Code], int]],
) -> None:
    """Whatever was posted, the page balances to the nano, and a lost nano shows."""
    accounts = {code: Account(int(code), code, "") for code in Code}
    for (_, debit, credit), amount_nano in moves:
        accounts[debit].dpo += amount_nano
        accounts[credit].cpo += amount_nano

    assert report_of(accounts.values()).difference_nano == 0
    for account in accounts.values():
        account.cpo += 1
        assert abs(report_of(accounts.values()).difference_nano) == 1
        account.cpo -= 1


def test_a_market_s_page() -> None:
    """Fees, promo given and spent, and what consumers and providers have, as booked."""
    books = make_books(promo_nano=1_000_000, fee_bps=500)
    do(books, admit("req_1"))
    do(books, settle("req_1"))
    do(books, admit("req_2"))

    page = report_of(books.ledger.accounts())

    assert page.fees_nano == 9_353
    assert page.costs_nano["promo"] == 3_000_000
    assert page.profit_nano == 9_353 - 3_000_000
    assert page.promo_nano == {"granted": 3_000_000, "spent": 187_060, "remaining": 2_812_940}
    assert page.liabilities_nano["consumer_promo"] == 2_812_940
    assert page.liabilities_nano["provider_withdrawable"] == 177_707
    assert page.held_nano == 187_060
    assert page.as_json()["balanced"] is True


def test_an_asset_is_shown_as_one() -> None:
    """Money at the processor is positive, and what a consumer owes is too."""
    books = make_books()
    ledger = books.ledger
    for posting, debit, credit, amount_nano in (
        (Posting.TOP_UP, Code.STRIPE_CLEARING, Code.CONSUMER_CASH, 25_000),
        (Posting.STRIPE_FEE, Code.STRIPE_FEES, Code.STRIPE_CLEARING, 1_030),
        (Posting.DISPUTE, Code.CONSUMER_RECEIVABLE, Code.STRIPE_CLEARING, 500),
    ):
        owned = (Code.CONSUMER_CASH, Code.CONSUMER_RECEIVABLE)
        ledger.post(
            f"{posting}",
            0,
            debit=ledger.account(debit, OWNERS[0] if debit in owned else ""),
            credit=ledger.account(credit, OWNERS[0] if credit in owned else ""),
            amount_nano=amount_nano,
            posting=posting,
            ts_ns=1,
        )

    page = report_of(ledger.accounts())

    assert page.assets_nano == {
        "stripe_clearing": 25_000 - 1_030 - 500,
        "consumer_receivable": 500,
        "suspense": 0,
    }
    assert page.costs_nano["stripe_fees"] == 1_030


def test_a_top_up_that_costs_more_than_it_brings_is_told() -> None:
    """At 5 % the break-even is $14.29; at 0 % no top-up pays; at $15 and 5 % nothing is said."""
    terms = PaymentSettings(topup_min_cents=500, weekly_payouts=False)

    assert break_even_cents(500) == 1_429
    assert break_even_cents(290) is None
    (small,) = money_warnings(500, terms)
    assert "a top-up below $14.29 loses money" in small
    (free,) = money_warnings(0, terms)
    assert "At a fee of 0 % every top-up by card loses money" in free
    assert money_warnings(500, replace(terms, topup_min_cents=1_429)) == []


def test_payouts_that_cost_more_than_they_bring_are_told() -> None:
    """Four of $10 cost $3.10, which is 7.75 %; a payout fee that covers it ends the warning."""
    terms = PaymentSettings(topup_min_cents=10_000)

    assert payouts_cost_cents(1_000) == 310
    (told,) = money_warnings(500, terms)
    assert "Four weekly payouts of $10.00 to one person cost $3.10 (7.75% of them)" in told
    assert money_warnings(500, replace(terms, payout_fee_cents=80)) == []
