"""The chart of accounts: which pots money can be in, and which of them may never go below zero.

Every account has four counters in nano-USD, all of which only mean something together:
debits pending and posted, credits pending and posted. Accounts of an owner are named by
(code, owner); the platform's own accounts have the empty owner.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """What an account is for. Liabilities grow with credits, assets and costs with debits."""

    __hash__ = int.__hash__  # an enum's own is a call in Python, several times per posting

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

LEGS_PER_MAC = 2 * len(SPENDING_ORDER)
"""A settlement's legs for one Mac: from each source its share and the fee (see Ledger._pay)."""


class Posting(IntEnum):
    """Why a transfer happened. SHAPES says between which accounts it may."""

    __hash__ = int.__hash__  # as of Code

    PROMO_GRANT = 1
    SETTLE_PROVIDER = 2
    SETTLE_FEE = 3
    MATURE = 4  # held-back earnings become withdrawable
    CLAIM = 5  # an unlinked machine's earnings go to who has linked it
    OWN_PROMO = 6  # paid with promo credit of the machine's own owner: it goes back
    TOP_UP = 10
    STRIPE_FEE = 11
    REPAY_DEBT = 12  # a top-up pays what a dispute has left owing
    REFUND = 13
    REFUND_RETURNED = 14  # the refund failed: the credit is back
    PAYOUT = 20  # decided: earnings leave the account, before the processor is asked
    PAYOUT_FEE = 21
    PAYOUT_SENT = 22
    PAYOUT_RETURNED = 23  # definitely not sent: the earnings are back
    PAYOUT_FEE_RETURNED = 24
    PAYOUT_REVERSED = 25  # sent, and taken back by the processor
    DISPUTE = 30  # the bank takes it; from credit as far as it goes, the rest is owed
    DISPUTE_FEE = 31
    DISPUTE_WON = 32
    DISPUTE_LOST = 33
    GOODWILL = 40
    SUSPENSE_OUT = 50  # money at the processor that nobody here has explained yet
    SUSPENSE_IN = 51
    CAPITAL_IN = 52  # the platform's own money put in
    CAPITAL_OUT = 53


SETTLING = (Posting.SETTLE_PROVIDER, Posting.SETTLE_FEE)
"""The reasons that belong to the end of a request; their transfers carry its id."""

_CREDIT = (Code.CONSUMER_PROMO, Code.CONSUMER_CASH, Code.PROVIDER_EARNINGS)
SHAPES: dict[Posting, frozenset[tuple[Code, Code]]] = {
    posting: frozenset(pairs)
    for posting, pairs in {
        Posting.PROMO_GRANT: [(Code.PROMO_EXPENSE, Code.CONSUMER_PROMO)],
        Posting.SETTLE_PROVIDER: [
            (source, kind)
            for source in _CREDIT
            for kind in (Code.PROVIDER_EARNINGS, Code.PROVIDER_MATURING)
        ],
        Posting.SETTLE_FEE: [(source, Code.PLATFORM_FEE) for source in _CREDIT],
        Posting.MATURE: [(Code.PROVIDER_MATURING, Code.PROVIDER_EARNINGS)],
        Posting.CLAIM: [
            (Code.PROVIDER_EARNINGS, Code.PROVIDER_EARNINGS),
            (Code.PROVIDER_MATURING, Code.PROVIDER_MATURING),
        ],
        Posting.OWN_PROMO: [
            (Code.PROVIDER_MATURING, Code.PLATFORM_FEE),
            (Code.PROVIDER_EARNINGS, Code.PLATFORM_FEE),
        ],
        Posting.TOP_UP: [(Code.STRIPE_CLEARING, Code.CONSUMER_CASH)],
        Posting.STRIPE_FEE: [(Code.STRIPE_FEES, Code.STRIPE_CLEARING)],
        Posting.REPAY_DEBT: [(Code.CONSUMER_CASH, Code.CONSUMER_RECEIVABLE)],
        Posting.REFUND: [(Code.CONSUMER_CASH, Code.STRIPE_CLEARING)],
        Posting.REFUND_RETURNED: [(Code.STRIPE_CLEARING, Code.CONSUMER_CASH)],
        Posting.PAYOUT: [(Code.PROVIDER_EARNINGS, Code.PAYOUT_IN_TRANSIT)],
        Posting.PAYOUT_FEE: [(Code.PROVIDER_EARNINGS, Code.PLATFORM_FEE)],
        Posting.PAYOUT_SENT: [(Code.PAYOUT_IN_TRANSIT, Code.STRIPE_CLEARING)],
        Posting.PAYOUT_RETURNED: [(Code.PAYOUT_IN_TRANSIT, Code.PROVIDER_EARNINGS)],
        Posting.PAYOUT_FEE_RETURNED: [(Code.PLATFORM_FEE, Code.PROVIDER_EARNINGS)],
        Posting.PAYOUT_REVERSED: [(Code.STRIPE_CLEARING, Code.PROVIDER_EARNINGS)],
        Posting.DISPUTE: [
            (Code.CONSUMER_CASH, Code.STRIPE_CLEARING),
            (Code.CONSUMER_RECEIVABLE, Code.STRIPE_CLEARING),
        ],
        Posting.DISPUTE_FEE: [(Code.STRIPE_FEES, Code.STRIPE_CLEARING)],
        Posting.DISPUTE_WON: [
            (Code.STRIPE_CLEARING, Code.CONSUMER_CASH),
            (Code.STRIPE_CLEARING, Code.CONSUMER_RECEIVABLE),
        ],
        Posting.DISPUTE_LOST: [(Code.DISPUTE_LOSS, Code.CONSUMER_RECEIVABLE)],
        Posting.GOODWILL: [(Code.GOODWILL, Code.CONSUMER_PROMO)],
        Posting.SUSPENSE_OUT: [(Code.SUSPENSE, Code.STRIPE_CLEARING)],
        Posting.SUSPENSE_IN: [(Code.STRIPE_CLEARING, Code.SUSPENSE)],
        Posting.CAPITAL_IN: [(Code.STRIPE_CLEARING, Code.PLATFORM_CAPITAL)],
        Posting.CAPITAL_OUT: [(Code.PLATFORM_CAPITAL, Code.STRIPE_CLEARING)],
    }.items()
}
"""Which (debit, credit) accounts each reason may move money between."""


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
