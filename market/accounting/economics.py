"""What moving money costs, and whether the market's fee pays for it: warnings in sentences.

The processor's prices are its published ones for US cards and for paying people in the US;
they are here to warn, never to book: what was really charged is read from its own lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from market.settings import PaymentSettings

BPS: Final = 10_000
CARD_BPS: Final = 290  # 2.9 % of a card payment
CARD_CENTS: Final = 30
PAYEE_MONTH_CENTS: Final = 200  # for each person who is paid in a month
PAYOUT_BPS: Final = 25
PAYOUT_CENTS: Final = 25
PAYOUTS_A_MONTH: Final = 4  # the weekly run


def break_even_cents(fee_bps: int) -> int | None:
    """The smallest top-up whose fees pay for the card, None when none does."""
    left_bps = fee_bps - CARD_BPS
    return None if left_bps <= 0 else -(-CARD_CENTS * BPS // left_bps)


def card_cost_cents(amount_cents: int) -> float:
    """What the processor keeps of a card payment."""
    return amount_cents * CARD_BPS / BPS + CARD_CENTS


def payouts_cost_cents(amount_cents: int) -> float:
    """What a month of weekly payouts of this size costs."""
    each_cents = PAYOUT_CENTS + amount_cents * PAYOUT_BPS / BPS
    return PAYEE_MONTH_CENTS + PAYOUTS_A_MONTH * each_cents


def money_warnings(fee_bps: int, payments: PaymentSettings) -> list[str]:
    """Where the settings lose money, each with what would mend it."""
    return [*_top_ups(fee_bps, payments), *_payouts(fee_bps, payments)]


def _top_ups(fee_bps: int, payments: PaymentSettings) -> Iterator[str]:
    least_cents = break_even_cents(fee_bps)
    minimum_cents = payments.topup_min_cents
    cost_cents = card_cost_cents(minimum_cents)
    if least_cents is None:
        yield (
            f"At a fee of {_percent(fee_bps)} every top-up by card loses money: the card costs "
            f"2.9 % and $0.30, which is {_usd(cost_cents)} of the smallest ({_usd(minimum_cents)})."
            " Raise platform_fee_bps above 290, or carry the loss knowingly."
        )
    elif minimum_cents < least_cents:
        yield (
            f"At a fee of {_percent(fee_bps)} a top-up below {_usd(least_cents)} loses money; "
            f"the smallest allowed, {_usd(minimum_cents)}, costs {_usd(cost_cents)} and brings "
            f"{_usd(minimum_cents * fee_bps / BPS)}. Raise topup_min_cents to {least_cents}, or "
            "the fee."
        )


def _payouts(fee_bps: int, payments: PaymentSettings) -> Iterator[str]:
    each_cents = payments.payout_min_cents
    paid_cents = PAYOUTS_A_MONTH * each_cents
    cost_cents = payouts_cost_cents(each_cents)
    fee_cents = PAYOUTS_A_MONTH * (
        payments.payout_fee_cents + each_cents * payments.payout_fee_bps / BPS
    )
    # What was paid out is what was left of the sales after our fee.
    fee_cents += 0.0 if fee_bps >= BPS else paid_cents * fee_bps / (BPS - fee_bps)
    if payments.weekly_payouts and cost_cents > fee_cents:
        yield (
            f"Four weekly payouts of {_usd(each_cents)} to one person cost {_usd(cost_cents)} "
            f"({cost_cents / paid_cents:.2%} of them) and bring {_usd(fee_cents)} in fees. Raise "
            "payout_min_cents, ask a payout fee, or make weekly payouts a choice."
        )


def _usd(cents: float) -> str:
    return f"${cents / 100:.2f}"


def _percent(bps: int) -> str:
    return f"{bps / 100:g} %"
