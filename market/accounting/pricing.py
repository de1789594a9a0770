"""What a request costs and who gets it.

Prices are integer nano-USD per token, so a cost is exact. The platform's fee is the one
place where a division happens: it is floored, and the provider gets what remains, so the
two shares always add up to the cost.
"""

from __future__ import annotations

from typing import NamedTuple

BPS_MAX = 10_000  # 100 % in basis points


class Split(NamedTuple):
    """One cost in two shares; their sum is the cost."""

    provider_nano: int
    fee_nano: int


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
