"""What must be so of payments at every moment, beside the ledger's own laws.

What is in transit is what open payouts add up to; what accounts owe is what their open
disputes say they owe. Both are checked for every account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from market.accounting.chart import Code
from market.money import NANO_PER_CENT
from market.payments.desk import Desk


def broken_payment_laws(desk: Desk) -> list[str]:
    """What does not add up, in sentences; an empty list is good news."""
    return [*_transit(desk), *_owed(desk)]


def _transit(desk: Desk) -> Iterator[str]:
    open_nano: Counter[str] = Counter()
    for row in desk.payouts.open():
        open_nano[row.owner] += row.amount_cents * NANO_PER_CENT
    for account in desk.ledger.owned(Code.PAYOUT_IN_TRANSIT):
        noted = open_nano.pop(account.owner, 0)
        if account.posted_nano != noted:
            yield (
                f"Account {account.number} ({account.label()}) holds {account.posted_nano} "
                f"nano-USD, the open payouts add up to {noted}."
            )
    for owner, nano in open_nano.items():
        yield f"Open payouts of {owner} add up to {nano} nano-USD, but nothing is in transit."


def _owed(desk: Desk) -> Iterator[str]:
    owed_nano: Counter[str] = Counter()
    for row in desk.disputes.open():
        owed_nano[row.owner] += row.owed_nano
    for account in desk.ledger.owned(Code.CONSUMER_RECEIVABLE):
        noted = owed_nano.pop(account.owner, 0)
        if -account.posted_nano != noted:
            yield (
                f"Account {account.number} ({account.label()}) is owed {-account.posted_nano} "
                f"nano-USD, the open disputes say {noted}."
            )
    for owner, nano in owed_nano.items():
        if nano:
            yield f"Open disputes of {owner} say {nano} nano-USD are owed, the ledger nothing."
