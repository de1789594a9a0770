"""Prices have a history, and a request pays what was frozen in its hold."""

from __future__ import annotations

import pytest

from market.accounting.prices import Price
from market.errors import InvalidRequest
from market.messages import Admitted, Settled
from market.types import Usage
from tests.support.books import MODEL, NOW, admit, do, make_books, settle


def test_a_request_pays_the_price_frozen_in_its_hold() -> None:
    """A price that changes while a request runs changes what the next one pays."""
    books = make_books()
    first = do(books, admit("req_1"))
    books.set_price(MODEL, Price(200, 20, 1_000), actor="op", reason="dearer", now_ns=NOW + 9)
    second = do(books, admit("req_2"))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)

    paid = [do(books, settle(name, usage=Usage(412, 187, 400))) for name in ("req_1", "req_2")]

    assert [type(reply) for reply in paid] == [Settled, Settled]
    assert paid[0].cost_nano == 412 * 100 + 187 * 780  # type: ignore[attr-defined]
    assert paid[1].cost_nano == 12 * 200 + 400 * 20 + 187 * 1_000  # type: ignore[attr-defined]
    assert second.cost_nano(Usage(412, 187, 400)) == paid[1].cost_nano  # type: ignore[attr-defined]


def test_the_catalogue_is_the_first_entry_of_the_history() -> None:
    """It is noted once, and again only where the operator has not set a price since."""
    books = make_books()
    first = books.adopt_prices(NOW)
    books.set_price(MODEL, Price(1, 0, 2), actor="op", reason="sale", now_ns=NOW + 1)

    assert first == len(books.terms.catalogue.enabled())
    assert books.adopt_prices(NOW + 2) == 0
    assert [row.actor for row in books.prices.history(MODEL)] == ["catalogue", "op"]
    assert books.prices.now(books.terms.catalogue.get(MODEL)) == Price(1, 0, 2)


@pytest.mark.parametrize("price", [Price(-1, 0, 1), Price(1, 2, 1), Price(1, 1, 10**9)])
def test_a_price_that_cannot_be_meant_is_refused(price: Price) -> None:
    """Negative, absurd, or dearer when cached; and nothing has changed."""
    books = make_books()

    with pytest.raises(InvalidRequest):
        books.set_price(MODEL, price, actor="op", reason="", now_ns=NOW)

    assert books.prices.history(MODEL) == []
