"""The bodies of the operator's acts. Sums are strings: exact where JSON numbers are not."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from market.errors import InvalidRequest
from market.money import price_nano
from serve_app.schemas import Shape

REASON_CHARS_MAX = 200
_NANO = r"^[0-9]{1,16}$"
_PRICE_CHARS_MAX = 40
_PRICE = r"^[0-9]{1,7}(\.[0-9]{1,3})?$"


class ActBody(Shape):
    """Who does it and why; both are written into the journal."""

    actor: str = Field(default="operator", min_length=1, max_length=REASON_CHARS_MAX)
    reason: str = Field(min_length=1, max_length=REASON_CHARS_MAX)


class AccountChangeBody(ActBody):
    """Only what is named is changed; null gives back the market's or the tier's own value.

    `frozen` says why the account may neither spend nor withdraw; "" lifts it.
    """

    name: str | None = Field(default=None, max_length=100)
    tier: str | None = Field(default=None, max_length=40)
    fee_bps: int | None = Field(default=None, ge=0, le=10_000)
    requests_per_min: int | None = Field(default=None, ge=0, le=10_000_000)
    tokens_per_day: int | None = Field(default=None, ge=0, le=2**53)
    frozen: str | None = Field(default=None, max_length=REASON_CHARS_MAX)

    def changes(self) -> dict[str, object]:
        """The fields that the body names."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set - _ACT)}


_ACT = frozenset(ActBody.model_fields)


class GoodwillBody(ActBody):
    """Promo credit at the market's cost; above $100 a second person agrees by name."""

    amount_nano_usd: str = Field(pattern=_NANO)
    second_approver: str = Field(default="", max_length=REASON_CHARS_MAX)


def _price(**more: Any) -> Any:
    """Only described by its pattern: the refusal of a price is a sentence, see `nano_of`."""
    described: dict[str, Any] = {"pattern": _PRICE}
    return Field(max_length=_PRICE_CHARS_MAX, json_schema_extra=described, **more)


def nano_of(field: str, text: str) -> int:
    """Nano-USD per token of a price in USD per million tokens; raises InvalidRequest."""
    if re.fullmatch(_PRICE, text) is None:
        raise InvalidRequest(
            f"{field} must be USD per million tokens, from 0 up, like 0.1 or 0.015, with at most "
            "three decimals: a price is whole nano-USD per token.",
            field,
        )
    return price_nano(text)


class PriceBody(ActBody):
    """USD per million tokens, with at most three decimals. `cached` defaults to `input`."""

    input: str = _price()
    output: str = _price()
    cached: str | None = _price(default=None)


class LinkBody(Shape):
    """Whose account a machine earns for from now on."""

    account: str = Field(min_length=1, max_length=100)
    actor: str = Field(default="operator", min_length=1, max_length=REASON_CHARS_MAX)


class UnlinkBody(Shape):
    """Who ends the link."""

    actor: str = Field(default="operator", min_length=1, max_length=REASON_CHARS_MAX)


class VerifyBody(Shape):
    """`full` replays everything instead of what came after the last audit."""

    full: bool = False


class RetentionBody(Shape):
    """Forget the processor's notices that were dealt with this many days ago."""

    events_days: int = Field(ge=1, le=36_600)
