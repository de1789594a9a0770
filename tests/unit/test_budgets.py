"""Laws of a request's own budget, and of the machines that a key's record names."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest, MarketError, PaymentRequired
from market.messages import Admitted, KeyRecord, ResolveKey
from market.money import NANO_MAX
from market.types import MachineId
from tests.support.books import NOW, OWNERS, admit, do, hash_of, make_books

PROMPT_NANO = 412 * 100
PER_TOKEN_NANO = 780


@given(
    budget_nano=st.integers(0, 2_000_000),
    asked=st.none() | st.integers(1, 1000),
    n=st.integers(1, 3),
)
def test_no_hold_takes_more_than_the_budget(budget_nano: int, asked: int | None, n: int) -> None:
    """Either the hold is within it, or nothing is held at all."""
    books = make_books(promo_nano=10**9)
    admitted = None
    with suppress(PaymentRequired):
        admitted = do(books, admit(budget_nano=budget_nano, max_tokens=asked, n=n))
    if admitted is None:
        assert books.balance(OWNERS[0]).held_nano == 0
        assert budget_nano < PROMPT_NANO + (asked or 1) * n * PER_TOKEN_NANO
        return
    assert isinstance(admitted, Admitted)
    assert admitted.funding.total_nano <= budget_nano
    if asked is not None:
        assert admitted.max_tokens == asked, "what was asked for is never cut"


def test_without_a_limit_the_budget_is_the_limit() -> None:
    """As many tokens as it pays for, and not one more."""
    books = make_books(promo_nano=10**9)
    admitted = do(books, admit(budget_nano=PROMPT_NANO + 5 * PER_TOKEN_NANO + 779, max_tokens=None))
    assert isinstance(admitted, Admitted)
    assert admitted.max_tokens == 5


def test_a_budget_that_is_too_small_is_told_what_fits() -> None:
    """402 names the affordable number, the budget and the field."""
    books = make_books(promo_nano=10**9)
    with pytest.raises(PaymentRequired, match="max_tokens of at most 5 fits") as refused:
        do(books, admit(budget_nano=PROMPT_NANO + 5 * PER_TOKEN_NANO, max_tokens=6))
    assert (refused.value.param, refused.value.retry) == ("max_cost_usd", False)
    with pytest.raises(PaymentRequired, match="not even one completion token fits"):
        do(books, admit(budget_nano=PROMPT_NANO, max_tokens=None))


@pytest.mark.parametrize("budget_nano", [-1, NANO_MAX + 1])
def test_an_impossible_budget_is_refused(budget_nano: int) -> None:
    """Before it meets arithmetic."""
    with pytest.raises(InvalidRequest):
        do(make_books(), admit(budget_nano=budget_nano))


def machines(books: object, owner: str) -> tuple[MachineId, ...]:
    record = do(books, ResolveKey(hash_of(owner)))  # type: ignore[arg-type]
    assert isinstance(record, KeyRecord)
    return record.machines


def test_a_keys_record_names_the_machines_of_its_account_as_they_are_now() -> None:
    """Linked and unlinked ones are seen at the next look-up; nobody sees another's."""
    books, (ann, bob, _) = make_books(), OWNERS
    first, second = MachineId("mac_1"), MachineId("mac_2")
    assert machines(books, ann) == ()
    books.link(first, ann, NOW)
    books.link(second, ann, NOW)
    books.link(second, ann, NOW)
    assert machines(books, ann) == (first, second)
    assert machines(books, bob) == ()
    books.unlink(first)
    assert machines(books, ann) == (second,)
    books.link(first, bob, NOW)
    assert machines(books, bob) == (first,)


def test_a_refused_budget_counts_against_nothing() -> None:
    """The next request is admitted as if the refused one had not been."""
    books = make_books(promo_nano=PROMPT_NANO + 187 * PER_TOKEN_NANO)
    with pytest.raises(MarketError):
        do(books, admit("req_small", budget_nano=1))
    assert isinstance(do(books, admit("req_next")), Admitted)
