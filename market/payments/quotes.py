"""What a withdrawal costs and brings, said before it is made; what is quoted is what is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from market.accounting.pricing import BPS_MAX
from market.settings import PaymentSettings

ARRIVES: Final = "Sent within minutes; a bank usually shows it 1 to 3 business days later."


@dataclass(frozen=True, slots=True)
class WithdrawalQuote:
    """A withdrawal of `amount_cents`: the fee is taken from it, the rest is received.

    `withdrawable_nano` is what could be withdrawn now, `maturing_nano` what is held back for
    a time, `minimum_cents` the least that a withdrawal on demand may be.
    """

    amount_cents: int
    fee_nano: int
    receives_cents: int
    withdrawable_nano: int
    maturing_nano: int
    minimum_cents: int
    arrives: str


def fee_cents(amount_cents: int, terms: PaymentSettings) -> int:
    """The platform's fee for a withdrawal, in whole cents, rounded in the owner's favour."""
    return terms.payout_fee_cents + amount_cents * terms.payout_fee_bps // BPS_MAX
