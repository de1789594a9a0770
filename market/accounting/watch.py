"""What an operator should look at: nothing here is wrong in itself, all of it can become so.

Laws whose breach stops the market are in `market.accounting.laws`. These are the others: they
compare the books with time, with the processor, with a budget, or providers with consumers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from market.accounting.chart import Code
from market.accounting.ledger import Ledger
from market.accounting.rows import Revenue
from market.money import NANO_PER_USD, format_usd, format_usd_exact

OVERDUE_NS: Final = 10_000_000_000  # leases are looked at each second; ten late is broken
SHARE_DAYS: Final = 7
SHARE_ACCOUNTS: Final = 2  # a healthy provider does not live on this few
SHARE_PERCENT: Final = 30
SHARE_LEAST_NANO: Final = NANO_PER_USD  # below a dollar a share says nothing
OWING_SHOWN: Final = 20
_CENT_NANO: Final = 10_000_000


class Alert(NamedTuple):
    """One thing to look at. `kind` is a word for machines, `subject` whose it is, or ""."""

    kind: str
    subject: str
    amount_nano: int
    message: str

    def as_json(self) -> dict[str, str]:
        return {
            "kind": self.kind,
            "subject": self.subject,
            "amount_nano_usd": str(self.amount_nano),
            "message": self.message,
        }


def suspense_nano(ledger: Ledger) -> int:
    """Money at the processor that nobody has explained; I10 says that it returns to zero."""
    account = ledger.find(Code.SUSPENSE)
    return -account.posted_nano if account else 0


def receivable_nano(ledger: Ledger) -> int:
    """What all consumers owe after disputes."""
    return -sum(account.posted_nano for account in ledger.owned(Code.CONSUMER_RECEIVABLE))


def imbalance_nano(ledger: Ledger) -> int:
    """I1: posted debits less posted credits over every account; zero, or the books are broken."""
    return sum(account.dpo - account.cpo for account in ledger.accounts())


def held_nano(ledger: Ledger) -> int:
    """What all open holds reserve."""
    return sum(opened.held_nano for opened in ledger.holds.values())


def overdue_holds(ledger: Ledger, tick_ns: int) -> int:
    """I6: holds that should have been closed a while ago; there are none while sweeps run."""
    return sum(opened.lease_ends_tick_ns + OVERDUE_NS < tick_ns for opened in ledger.holds.values())


def clearing_difference_nano(
    clearing_nano: int, processor_cents: int, in_flight_nano: int = 0
) -> int:
    """I9: how much more the processor holds than the books say; zero when they agree.

    `clearing_nano` is the balance of account 1000, `processor_cents` what is available and
    pending there, `in_flight_nano` what the books have already and the processor not yet.
    """
    return processor_cents * _CENT_NANO - (clearing_nano - in_flight_nano)


def ledger_alerts(ledger: Ledger, tick_ns: int) -> Iterator[Alert]:
    """Suspense, debts and holds nobody closes."""
    suspense = suspense_nano(ledger)
    if suspense:
        yield Alert(
            "suspense",
            "",
            suspense,
            f"{format_usd_exact(suspense)} at the payment processor is unexplained (account "
            "9000). It must be zero within a day: run `coster ledger reconcile`.",
        )
    owing = sorted(
        (account.posted_nano, account.owner)
        for account in ledger.owned(Code.CONSUMER_RECEIVABLE)
        if account.posted_nano < 0
    )
    for posted_nano, owner in owing[:OWING_SHOWN]:
        yield Alert(
            "receivable",
            owner,
            -posted_nano,
            f"{owner} owes {format_usd(-posted_nano)} after a dispute.",
        )
    overdue = overdue_holds(ledger, tick_ns)
    if overdue:
        yield Alert(
            "holds_overdue",
            "",
            0,
            f"{overdue} holds have outlived their lease by more than "
            f"{OVERDUE_NS // 1_000_000_000} s: the sweep does not run. Restart the market.",
        )


def promo_alerts(granted_today_nano: int, day_nano: int) -> Iterator[Alert]:
    """I12: the day's budget for sign-ups; when it is spent, newcomers get nothing."""
    if day_nano and granted_today_nano * 10 >= day_nano * 9:
        yield Alert(
            "promo_budget",
            "",
            granted_today_nano,
            f"Sign-ups have taken {format_usd(granted_today_nano)} of today's "
            f"{format_usd(day_nano)} of promo credit.",
        )


def share_alerts(rows: Iterable[Revenue]) -> Iterator[Alert]:
    """Providers whose revenue comes from very few consumers: perhaps their own other accounts."""
    earned: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.earned_nano > 0:
            earned[row.payee].append(row.earned_nano)
    for payee, sums_nano in sorted(earned.items()):
        total_nano = sum(sums_nano)
        few_nano = sum(sorted(sums_nano, reverse=True)[:SHARE_ACCOUNTS])
        if total_nano < SHARE_LEAST_NANO or few_nano * 100 <= total_nano * SHARE_PERCENT:
            continue
        count = min(SHARE_ACCOUNTS, len(sums_nano))
        who = "1 account" if count == 1 else f"{count} accounts"
        yield Alert(
            "provider_share",
            payee,
            total_nano,
            f"{payee} earned {format_usd(total_nano)} in {SHARE_DAYS} days, "
            f"{few_nano * 100 // total_nano} % of it from {who}.",
        )
