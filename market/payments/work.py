"""What there is to do for payments now: the rows whose time has come, and nothing else.

All of it is read off the rows, so that whoever does the work may be killed at any moment and
its successor is told the same again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from market.accounting.state_rows import (
    DisputeRow,
    EventRow,
    PayeeRow,
    PayoutRow,
    RefundRow,
    TopUpRow,
)
from market.payments.answers import SECOND_NS, look_again_ns, retry_ns
from market.payments.desk import Desk

ITEMS_MAX: Final = 200
"""Rows of one kind handed out at once; the rest comes with the next look."""
ASKED_NS: Final = 15 * SECOND_NS
"""Who asked for a payment page usually opens it at once; then the worker does."""


@dataclass(frozen=True, slots=True)
class PaymentWork:
    """Rows to look after. `looks` only need asking about, which may be left out for a while."""

    events: tuple[EventRow, ...] = ()
    refunds: tuple[RefundRow, ...] = ()
    payouts: tuple[PayoutRow, ...] = ()
    looks: tuple[TopUpRow | DisputeRow | PayeeRow, ...] = ()
    week_due: bool = False

    def __len__(self) -> int:
        return len(self.events) + len(self.refunds) + len(self.payouts) + len(self.looks)


def work_due(desk: Desk, now_ns: int, *, week_due: bool) -> PaymentWork:
    """Everything whose time has come, oldest first, at most ITEMS_MAX of a kind."""
    events = (
        row
        for row in desk.events.open()
        if row.changed_ns + (retry_ns(row.tries) if row.tries else 0) <= now_ns
    )
    return PaymentWork(
        events=tuple(islice(events, ITEMS_MAX)),
        refunds=tuple(
            islice((r for r in desk.refunds.open() if r.next_try_ns <= now_ns), ITEMS_MAX)
        ),
        payouts=tuple(
            islice((r for r in desk.payouts.open() if r.next_try_ns <= now_ns), ITEMS_MAX)
        ),
        looks=(
            *islice((r for r in desk.topups.open() if _topup_due(r, now_ns)), ITEMS_MAX),
            *islice(desk.disputes.open(), ITEMS_MAX),
            *islice((r for r in desk.payees.values() if r.state != "active"), ITEMS_MAX),
        ),
        week_due=week_due,
    )


def _topup_due(row: TopUpRow, now_ns: int) -> bool:
    return row.state == "open" or row.changed_ns + ASKED_NS <= now_ns


def look_after_s(row: TopUpRow | DisputeRow | PayeeRow, now_ns: int) -> float:
    """How long what was looked at now may be left alone; notices usually come sooner."""
    return look_again_ns(row.changed_ns, now_ns) / SECOND_NS
