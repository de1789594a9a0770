"""Laws of sums, prices and the fee."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import money
from market.accounting.pricing import BPS_MAX, cost_nano, hold_nano, split_fee
from market.catalogue import CARDS

NANO = st.integers(min_value=-money.NANO_MAX, max_value=money.NANO_MAX)
TOKENS = st.integers(min_value=0, max_value=200_000)
PRICE = st.integers(min_value=0, max_value=10_000)


@given(NANO)
def test_exact_dollars_parse_back(nano: int) -> None:
    """What is printed with nine decimals is the sum, to the nano."""
    assert money.parse_usd(money.format_usd_exact(nano)) == nano


@given(st.integers(min_value=0, max_value=money.NANO_MAX))
def test_a_display_never_promises_more(nano: int) -> None:
    """Micro-USD and six decimals are floors, less than one unit below the truth."""
    assert 0 <= nano - money.micro_floor(nano) * 1_000 < 1_000
    assert money.parse_usd(money.format_usd(nano)) == money.micro_floor(nano) * 1_000


def test_debts_are_not_shown_larger_than_they_are() -> None:
    """A negative sum keeps its sign and its magnitude's floor."""
    assert money.format_usd(-1_500) == "-$0.000001"
    assert money.format_usd(9_999_813_000) == "$9.999813"


@pytest.mark.parametrize("text", ["", "ten", "1.0000000001", "1e3", "$", "١", "99999999999"])
def test_a_sum_that_cannot_be_kept_exactly_is_refused(text: str) -> None:
    """Parsing never rounds and never guesses."""
    with pytest.raises(ValueError, match=r"dollars|ledger"):
        money.parse_usd(text)


def test_the_published_example_costs_what_its_prices_say() -> None:
    """412 in and 187 out at $0.10 and $0.78 per million are 187,060 nano-USD."""
    cost = cost_nano(
        prompt_tokens=412,
        cached_tokens=0,
        completion_tokens=187,
        price_in_nano=100,
        price_cached_nano=100,
        price_out_nano=780,
    )

    assert cost == 187_060
    assert split_fee(cost, 500) == (177_707, 9_353)


@given(st.integers(min_value=0, max_value=money.NANO_MAX), st.integers(0, BPS_MAX))
def test_the_shares_add_up_to_the_cost(cost: int, bps: int) -> None:
    """No fee rate creates or destroys a nano, and neither share is negative."""
    split = split_fee(cost, bps)

    assert sum(split) == cost
    assert min(split) >= 0
    assert 0 <= cost * bps - split.fee_nano * BPS_MAX < BPS_MAX


def test_every_fee_rate_splits_one_cost_exactly() -> None:
    """All rates from 0 to 100 %, on a cost that divides by none of them."""
    for bps in range(BPS_MAX + 1):
        assert sum(split_fee(187_061, bps)) == 187_061


@given(TOKENS, TOKENS, st.integers(1, 8), PRICE, PRICE, st.data())
def test_a_hold_covers_every_outcome(
    prompt: int, most: int, n: int, price_in: int, price_out: int, data: st.DataObject
) -> None:
    """Whatever n choices produce, at most `max_tokens` each, costs no more than the hold."""
    held = hold_nano(
        prompt_tokens=prompt,
        max_tokens=most,
        n=n,
        price_in_nano=price_in,
        price_out_nano=price_out,
    )
    produced = data.draw(st.integers(0, n * most))
    cost = cost_nano(
        prompt_tokens=prompt,
        cached_tokens=prompt // 2,
        completion_tokens=produced,
        price_in_nano=price_in,
        price_cached_nano=price_in // 4,
        price_out_nano=price_out,
    )

    assert cost <= held


def test_the_longest_request_of_the_catalogue_fits_the_ledger() -> None:
    """Prices and contexts of the offer stay far inside 64 bits."""
    for card in CARDS:
        worst = card.context_tokens * (card.price_in_nano + 128 * card.price_out_nano)
        assert worst < money.NANO_MAX
