"""What Macs have earned for an account, as the ledger has it."""

from __future__ import annotations

from dataclasses import dataclass

from market.accounting.rows import Earned
from market.messages import Balance


@dataclass(frozen=True, slots=True)
class EarningsStatement:
    """An account's earnings: what is left of them, and all there ever were.

    `earned` counts what linked machines earned before they were linked, too. Withdrawn and
    spent earnings stay in its total.
    """

    balance: Balance
    earned: Earned
