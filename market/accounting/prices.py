"""Prices with their history: a request pays what was frozen in its hold, whatever comes later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from market.accounting.state_rows import PriceRow
from market.catalogue import ModelCard
from market.errors import InvalidRequest
from market.types import ModelId

PRICE_NANO_MAX: Final = 10_000_000  # $10,000 per million tokens: beyond it somebody mistyped


class Price(NamedTuple):
    """Nano-USD per prompt token, per prompt token found in a cache, per completion token."""

    in_nano: int
    cached_nano: int
    out_nano: int


SHOWN: Final = ("input", "cached", "output")
"""What an operator calls the parts of a price, in the order of its fields."""


class Prices:
    """The price of every model now, and every price it has had."""

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        self._history: dict[ModelId, list[PriceRow]] = {}
        self._present: dict[ModelId, Price] = {}
        for row in sorted(rows, key=lambda row: row.created_ns):
            self._add(row)

    def _add(self, row: PriceRow) -> None:
        self._history.setdefault(row.model, []).append(row)
        self._present[row.model] = Price(
            row.price_in_nano, row.price_cached_nano, row.price_out_nano
        )

    def now(self, card: ModelCard) -> Price:
        """What the model costs now; a model without a price of its own costs what its card says."""
        present = self._present.get(card.id)
        if present is None:
            return Price(card.price_in_nano, card.price_in_nano, card.price_out_nano)
        return present

    def history(self, model: ModelId) -> list[PriceRow]:
        """Every price of a model, oldest first."""
        return list(self._history.get(model, ()))

    def set(
        self, card: ModelCard, price: Price, *, actor: str, reason: str, now_ns: int
    ) -> PriceRow:
        """A new price from now on; the caller writes the row. Raises InvalidRequest."""
        for name, nano in zip(SHOWN, price, strict=True):
            if not 0 <= nano <= PRICE_NANO_MAX:
                raise InvalidRequest(
                    f"{name} is {nano} nano-USD per token; it must be from 0 to {PRICE_NANO_MAX} "
                    "(a price in USD per million tokens times 1000).",
                    name,
                )
        if price.cached_nano > price.in_nano:
            raise InvalidRequest("Cached input cannot cost more than input.", "cached")
        row = PriceRow(card.id, now_ns, *price, actor, reason)
        self._add(row)
        return row
