"""Payments as the ledger's transfers tell them, and what their own rows say against that.

A `topup`, `refund`, `payout` or `dispute` row decides what may still be refunded, is paid out
again or is owed, and rows of state are not sealed. The transfers are: each payment's carry its
id, so that an audit of whole books can tell a row that was changed, deleted or slipped in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from market.accounting.chart import Account, Code, Posting
from market.accounting.rows import TransferRow
from market.accounting.state_rows import DisputeRow, PayoutRow, RefundRow, TopUpRow
from market.money import NANO_PER_CENT

_KINDS: Final = {
    "topup": "top-up",
    "refund": "refund",
    "payout": "payout",
    "reversed": "payout",
    "dispute": "dispute",
    "debt": "dispute",
}
"""What a transfer's id begins with, and which kind of row it belongs to."""

_TIMED: Final = ("dispute", "debt")
"""Their ids end with a time: one dispute is booked in several steps."""

_SENT: Final = ("paid", "reversed")

PaymentRow = TopUpRow | RefundRow | PayoutRow | DisputeRow
_Told = Iterator[tuple[str, int, int]]
"""What it is, how much the row says, how much was posted; nano-USD."""


@dataclass(slots=True)
class _Booked:
    """What was posted of one payment, in nano-USD by reason and kind of account, and whose."""

    nano: Counter[tuple[int, Code | None]] = field(default_factory=Counter)
    owners: set[str] = field(default_factory=set)

    def of(self, posting: Posting, code: Code | None = None) -> int:
        return sum(
            nano
            for (why, kind), nano in self.nano.items()
            if why == posting and (code is None or kind is code)
        )


class Moved:
    """Feed it all transfers of the books, then ask what the rows of payments get wrong."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._accounts: Mapping[int, Account] = {each.number: each for each in accounts}
        self._booked: defaultdict[tuple[str, str], _Booked] = defaultdict(_Booked)

    def note(self, transfer: TransferRow) -> None:
        """A transfer that belongs to no payment is passed over."""
        begins, _, name = transfer.id.partition(":")
        kind = _KINDS.get(begins)
        if kind is None:
            return
        if begins in _TIMED:
            name = name.rpartition(":")[0]
        sides = (self._accounts.get(number) for number in (transfer.debit, transfer.credit))
        # Of the two sides one is somebody's; the other is ours or the processor's.
        theirs = next((side for side in sides if side is not None and side.owner), None)
        booked = self._booked[kind, name]
        # A damaged reason is none of ours, and the audit has named the transfer by then.
        booked.nano[transfer.code, theirs.code if theirs else None] += transfer.amount_nano
        if theirs is not None:
            booked.owners.add(theirs.owner)

    def problems(self, rows: Iterable[PaymentRow]) -> Iterator[str]:
        """Rows that are not what was posted, in sentences."""
        missing = dict(self._booked)
        topups: list[TopUpRow] = []
        back: Counter[tuple[str, str]] = Counter()  # cents by top-up and how they went
        for row in rows:
            kind, told = _told_by(row)
            booked = missing.pop((kind, row.id), _Booked())
            for what, should, posted in told(booked):
                if should != posted:
                    yield (
                        f"The {kind} {row.id} says {should} nano-USD {what}; {posted} were posted."
                    )
            for owner in sorted(booked.owners - {row.owner}):
                yield f"The {kind} {row.id} says it is of {row.owner}; {owner} was booked for it."
            if isinstance(row, TopUpRow):
                topups.append(row)
            elif isinstance(row, RefundRow) and row.state != "failed":
                back["refunded", row.topup] += row.amount_cents
            elif isinstance(row, DisputeRow):
                back["disputed", row.topup] += row.withdrawn_cents
        for topup in topups:
            for what, cents in (
                ("refunded", topup.refunded_cents),
                ("disputed", topup.disputed_cents),
            ):
                found = max(0, back[what, topup.id])
                if cents != found:
                    yield (
                        f"The top-up {topup.id} says {cents} cents were {what}; the rows of that "
                        f"say {found}."
                    )
        for kind, name in missing:
            yield f"The {kind} {name} was booked, and its row is missing."


def _told_by(row: PaymentRow) -> tuple[str, Callable[[_Booked], _Told]]:
    match row:
        case TopUpRow():
            return "top-up", partial(_topup, row)
        case RefundRow():
            return "refund", partial(_refund, row)
        case PayoutRow():
            return "payout", partial(_payout, row)
        case DisputeRow():
            return "dispute", partial(_dispute, row)


def _topup(row: TopUpRow, booked: _Booked) -> _Told:
    paid = row.amount_cents * NANO_PER_CENT if row.state == "paid" else 0
    yield "became credit", paid, booked.of(Posting.TOP_UP)


def _refund(row: RefundRow, booked: _Booked) -> _Told:
    nano = row.amount_cents * NANO_PER_CENT
    failed = row.state == "failed"
    yield "were taken from credit", nano, booked.of(Posting.REFUND)
    yield "came back from it", nano if failed else 0, booked.of(Posting.REFUND_RETURNED)


def _payout(row: PayoutRow, booked: _Booked) -> _Told:
    nano, failed = row.amount_cents * NANO_PER_CENT, row.state == "failed"
    back = booked.of(Posting.PAYOUT_REVERSED)
    yield "were taken from earnings", nano, booked.of(Posting.PAYOUT)
    yield "were its fee", row.fee_nano, booked.of(Posting.PAYOUT_FEE)
    yield "were sent", nano if row.state in _SENT else 0, booked.of(Posting.PAYOUT_SENT)
    yield "were given back", nano if failed else 0, booked.of(Posting.PAYOUT_RETURNED)
    fee_back = booked.of(Posting.PAYOUT_FEE_RETURNED)
    yield "of its fee were given back", row.fee_nano if failed else 0, fee_back
    if (row.state == "reversed") != (back > 0):
        yield "came back", nano if row.state == "reversed" else 0, back


def _dispute(row: DisputeRow, booked: _Booked) -> _Told:
    cash, owed = (
        booked.of(Posting.DISPUTE, code) - booked.of(Posting.DISPUTE_WON, code)
        for code in (Code.CONSUMER_CASH, Code.CONSUMER_RECEIVABLE)
    )
    repaid, unclear = booked.of(Posting.REPAY_DEBT), booked.of(Posting.SUSPENSE_IN)
    yield "were withdrawn", row.withdrawn_cents * NANO_PER_CENT, cash + owed - unclear
    yield "were its fees", row.fee_cents * NANO_PER_CENT, booked.of(Posting.DISPUTE_FEE)
    yield "were taken from credit", row.cash_nano, cash + repaid
    yield "are owed", row.owed_nano, owed - repaid - booked.of(Posting.DISPUTE_LOST)
