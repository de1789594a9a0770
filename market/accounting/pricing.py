"""What a request costs and who gets it.

Prices are integer nano-USD per token, so a cost is exact. The platform's fee is the one
place where a division happens: it is floored, and the provider gets what remains, so the
two shares always add up to the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from market.money import asked_nano

BPS_MAX = 10_000  # 100 % in basis points


class Split(NamedTuple):
    """One cost in two shares; their sum is the cost."""

    provider_nano: int
    fee_nano: int


class Counts(Protocol):
    """The tokens of a whole answer; cached ones are among the prompt's."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


class Portion(Protocol):
    """What one lost Mac delivered, and what it asks in per cent of the market's prices."""

    @property
    def completion_tokens(self) -> int: ...
    @property
    def ask_pct(self) -> int: ...


class Piece(NamedTuple):
    """One Mac's piece of an answer: its tokens, the prices per token it asks, what they cost."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ask_pct: int
    price_in_nano: int
    price_cached_nano: int
    price_out_nano: int
    cost_nano: int


def cost_nano(
    *,
    prompt_tokens: int,
    cached_tokens: int,
    completion_tokens: int,
    price_in_nano: int,
    price_cached_nano: int,
    price_out_nano: int,
) -> int:
    """The exact price of these tokens in nano-USD; cached tokens are among the prompt's."""
    return (
        (prompt_tokens - cached_tokens) * price_in_nano
        + cached_tokens * price_cached_nano
        + completion_tokens * price_out_nano
    )


def pieces_of(
    counts: Counts, prices_nano: tuple[int, int, int], before: Sequence[Portion], ask_pct: int
) -> list[Piece]:
    """An answer in pieces, one for each Mac in the order of delivery; they cost what it costs.

    The Macs of `before` were lost and get the completion tokens they had delivered. The last
    one finished the answer: the prompt and every other completion token are its own.
    `prices_nano` are the market's per prompt, cached prompt and completion token.
    """
    pieces = [_piece((0, 0, part.completion_tokens), prices_nano, part.ask_pct) for part in before]
    delivered = sum(part.completion_tokens for part in before)
    rest = (counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens - delivered)
    return [*pieces, _piece(rest, prices_nano, ask_pct)]


def _piece(tokens: tuple[int, int, int], prices_nano: tuple[int, int, int], ask_pct: int) -> Piece:
    price_in_nano, price_cached_nano, price_out_nano = (
        asked_nano(price_nano, ask_pct) for price_nano in prices_nano
    )
    prompt_tokens, cached_tokens, completion_tokens = tokens
    cost = cost_nano(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        price_in_nano=price_in_nano,
        price_cached_nano=price_cached_nano,
        price_out_nano=price_out_nano,
    )
    return Piece(*tokens, ask_pct, price_in_nano, price_cached_nano, price_out_nano, cost)


def split_fee(cost: int, fee_bps: int, own_promo_nano: int = 0) -> Split:
    """The platform's share, floored, and the provider's: everything else.

    `own_promo_nano` is the part that is paid with promo credit of the provider's own owner:
    it earns nothing and stays with the platform, which had granted it.
    """
    assert 0 <= own_promo_nano <= cost
    assert 0 <= fee_bps <= BPS_MAX
    earning = cost - own_promo_nano
    provider = earning - earning * fee_bps // BPS_MAX
    return Split(provider_nano=provider, fee_nano=cost - provider)


def hold_nano(
    *, prompt_tokens: int, max_tokens: int, n: int, price_in_nano: int, price_out_nano: int
) -> int:
    """The worst case: every choice runs to `max_tokens`. A settlement never exceeds it."""
    return prompt_tokens * price_in_nano + n * max_tokens * price_out_nano
