"""The operator's books on one page: what the market owns, owes and has earned.

Computed from the counters of the accounts and from nothing else, so the page is as true as
the ledger, and its identity can be checked: what is owned is what is owed and one's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from market.accounting.chart import Account, Code

DEBIT_NORMAL: Final = frozenset(
    {
        Code.STRIPE_CLEARING,
        Code.CONSUMER_RECEIVABLE,
        Code.PROMO_EXPENSE,
        Code.STRIPE_FEES,
        Code.DISPUTE_LOSS,
        Code.GOODWILL,
        Code.SUSPENSE,
    }
)
"""Accounts that grow with debits: assets and costs. All others grow with credits."""

_ASSETS: Final = {
    "stripe_clearing": Code.STRIPE_CLEARING,
    "consumer_receivable": Code.CONSUMER_RECEIVABLE,
    "suspense": Code.SUSPENSE,
}
_LIABILITIES: Final = {
    "consumer_cash": Code.CONSUMER_CASH,
    "consumer_promo": Code.CONSUMER_PROMO,
    "provider_maturing": Code.PROVIDER_MATURING,
    "provider_withdrawable": Code.PROVIDER_EARNINGS,
    "payout_in_transit": Code.PAYOUT_IN_TRANSIT,
}
_COSTS: Final = {
    "promo": Code.PROMO_EXPENSE,
    "goodwill": Code.GOODWILL,
    "stripe_fees": Code.STRIPE_FEES,
    "dispute_losses": Code.DISPUTE_LOSS,
}


@dataclass(frozen=True, slots=True)
class BooksReport:
    """Sums in nano-USD since the books were opened.

    `promo_nano` counts credit given, goodwill included; `held_nano` is the part of the
    liabilities that running requests reserve. `difference_nano` is what the identity is off
    by: it is zero, or the books are wrong.
    """

    fees_nano: int
    costs_nano: Mapping[str, int]
    assets_nano: Mapping[str, int]
    liabilities_nano: Mapping[str, int]
    capital_nano: int
    promo_nano: Mapping[str, int]
    held_nano: int
    accounts: int
    warnings: list[str] = field(default_factory=list)

    @property
    def profit_nano(self) -> int:
        return self.fees_nano - sum(self.costs_nano.values())

    @property
    def difference_nano(self) -> int:
        owned_nano = sum(self.assets_nano.values())
        owed_nano = sum(self.liabilities_nano.values())
        return owned_nano - owed_nano - self.capital_nano - self.profit_nano

    def as_json(self) -> dict[str, object]:
        """The whole page; every sum a string, because JSON numbers are not exact."""

        def texts(sums_nano: Mapping[str, int]) -> dict[str, str]:
            return {name: str(nano) for name, nano in sums_nano.items()}

        return {
            "balanced": self.difference_nano == 0,
            "difference_nano_usd": str(self.difference_nano),
            "revenue_nano_usd": {"fees": str(self.fees_nano)},
            "costs_nano_usd": texts(self.costs_nano),
            "profit_nano_usd": str(self.profit_nano),
            "assets_nano_usd": texts(self.assets_nano),
            "liabilities_nano_usd": texts(self.liabilities_nano),
            "capital_nano_usd": str(self.capital_nano),
            "promo_nano_usd": texts(self.promo_nano),
            "held_nano_usd": str(self.held_nano),
            "accounts": self.accounts,
            "warnings": self.warnings,
        }


def report_of(accounts: Iterable[Account], warnings: Iterable[str] = ()) -> BooksReport:
    """The page over these accounts: all there are."""
    balance: defaultdict[Code, int] = defaultdict(int)
    granted_nano = spent_nano = held_nano = count = 0
    for account in accounts:
        count += 1
        balance[account.code] += account.posted_nano
        held_nano += account.dp
        if account.code is Code.CONSUMER_PROMO:
            granted_nano += account.cpo
            spent_nano += account.dpo

    def of(names: Mapping[str, Code]) -> dict[str, int]:
        return {
            name: -balance[code] if code in DEBIT_NORMAL else balance[code]
            for name, code in names.items()
        }

    return BooksReport(
        fees_nano=balance[Code.PLATFORM_FEE],
        costs_nano=of(_COSTS),
        assets_nano=of(_ASSETS),
        liabilities_nano=of(_LIABILITIES),
        capital_nano=balance[Code.PLATFORM_CAPITAL],
        promo_nano={
            "granted": granted_nano,
            "spent": spent_nano,
            "remaining": granted_nano - spent_nano,
        },
        held_nano=held_nano,
        accounts=count,
        warnings=list(warnings),
    )
