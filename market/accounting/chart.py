"""The chart of accounts: which pots money can be in, and which of them may never go below zero.

Every account has four counters in nano-USD, all of which only mean something together:
debits pending and posted, credits pending and posted. Accounts of an owner are named by
(code, owner); the platform's own accounts have the empty owner.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """What an account is for. Liabilities grow with credits, assets and costs with debits."""

    STRIPE_CLEARING = 1000  # asset: money at the payment processor
    CONSUMER_RECEIVABLE = 1300  # asset: what a consumer owes after a dispute
    CONSUMER_CASH = 2100  # paid-in credit
    CONSUMER_PROMO = 2110  # granted credit; can be spent, never withdrawn
    PROVIDER_MATURING = 2300  # earnings still held back
    PROVIDER_EARNINGS = 2310  # earnings that can be spent or withdrawn
    PAYOUT_IN_TRANSIT = 2400
    PLATFORM_CAPITAL = 3000
    PLATFORM_FEE = 4000
    PROMO_EXPENSE = 5000
    STRIPE_FEES = 5100
    DISPUTE_LOSS = 5200
    GOODWILL = 5300
    SUSPENSE = 9000  # must return to zero within a day


NO_NEGATIVE = frozenset(
    {
        Code.CONSUMER_CASH,
        Code.CONSUMER_PROMO,
        Code.PROVIDER_MATURING,
        Code.PROVIDER_EARNINGS,
        Code.PAYOUT_IN_TRANSIT,
    }
)

SPENDING_ORDER = (Code.CONSUMER_PROMO, Code.CONSUMER_CASH, Code.PROVIDER_EARNINGS)
"""Promo first: it can only be spent. Earnings last: they are the only part one can withdraw."""


class Posting(IntEnum):
    """Why a transfer happened."""

    PROMO_GRANT = 1
    SETTLE_PROVIDER = 2
    SETTLE_FEE = 3


class Account:
    """One account in memory. `available_nano` is what a new hold may still take."""

    __slots__ = ("code", "cp", "cpo", "dp", "dpo", "number", "owner")

    def __init__(
        self,
        number: int,
        code: Code,
        owner: str,
        dp: int = 0,
        dpo: int = 0,
        cp: int = 0,
        cpo: int = 0,
    ) -> None:
        self.number = number
        self.code = code
        self.owner = owner
        self.dp = dp  # debits pending: reserved by holds
        self.dpo = dpo  # debits posted
        self.cp = cp  # credits pending: unused until payouts
        self.cpo = cpo  # credits posted

    @property
    def available_nano(self) -> int:
        return self.cpo - self.dpo - self.dp

    @property
    def posted_nano(self) -> int:
        return self.cpo - self.dpo

    def counters(self) -> tuple[int, int, int, int]:
        return (self.dp, self.dpo, self.cp, self.cpo)

    def label(self) -> str:
        """How a report names it: `2110 consumer_promo of acct_…`."""
        name = f"{int(self.code)} {self.code.name.lower()}"
        return f"{name} of {self.owner}" if self.owner else name
