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
    *, prompt_tokens: int, completion_tokens: int, price_in_nano: int, price_out_nano: int
) -> int:
    """The exact price of these tokens in nano-USD."""
    return prompt_tokens * price_in_nano + completion_tokens * price_out_nano


def split_fee(cost: int, fee_bps: int) -> Split:
    """The platform's share, floored, and the provider's: everything else."""
    assert cost >= 0
    assert 0 <= fee_bps <= BPS_MAX
    fee = cost * fee_bps // BPS_MAX
    return Split(provider_nano=cost - fee, fee_nano=fee)


def hold_nano(
    *, prompt_tokens: int, max_tokens: int, n: int, price_in_nano: int, price_out_nano: int
) -> int:
    """The worst case: every choice runs to `max_tokens`. A settlement never exceeds it."""
    return prompt_tokens * price_in_nano + n * max_tokens * price_out_nano
