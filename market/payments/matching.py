"""Matching the processor's balance lines with the ledger: one line, one row, one posting.

A line is explained when a row of ours names exactly the object that caused it and the ledger
has posted the same sum for it. Everything else is money that nobody here has explained: it
goes to suspense, with an alert, until somebody does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from market.accounting.chart import Account, Code, Posting
from market.accounting.state_rows import DisputeRow, PayoutRow, RefundRow, TopUpRow
from market.money import NANO_PER_CENT
from market.payments.desk import Desk
from market.payments.payouts import SENT_LEG, reversal_id
from market.payments.processor import BalanceLine
from market.payments.refunds import REFUND_LEG, RETURNED_LEG

CHARGES: Final = ("charge", "payment")
REFUNDS: Final = ("refund", "payment_refund")
REFUND_FAILURES: Final = ("refund_failure", "payment_failure_refund")
TRANSFERS: Final = ("transfer",)
REVERSALS: Final = ("transfer_refund", "transfer_cancel", "transfer_failure")
DISPUTES: Final = ("adjustment",)

Posted = Mapping[tuple[str, int], int]
"""Nano-USD by (transfer id, leg)."""
OurRow = TopUpRow | RefundRow | PayoutRow | DisputeRow


class Unexplained(NamedTuple):
    """A line that matches nothing, and why."""

    line: BalanceLine
    why: str

    def as_json(self) -> dict[str, object]:
        line = self.line
        return {
            "line": line.line,
            "kind": line.kind,
            "source": line.source,
            "our_id": line.our_id,
            "net_cents": line.net_cents,
            "created_s": line.created_s,
            "why": self.why,
        }


def posting_ids(line: BalanceLine, row: OurRow | None) -> list[str]:
    """The transfer ids that matching this line may ask about."""
    ids = [suspense_id(line)]
    match row:
        case TopUpRow():
            ids += [f"topup:{row.id}", f"fee:{row.id}"]
        case RefundRow():
            ids.append(f"refund:{row.id}")
        case PayoutRow():
            ids += [f"payout:{row.id}", reversal_id(row.id)]
    return ids


def why_unexplained(line: BalanceLine, row: OurRow | None, posted: Posted) -> str:
    """Why this line is not explained by this row and what is posted; "" when it is."""
    if row is None:
        return "Nothing here belongs to it."
    nano = line.amount_cents * NANO_PER_CENT
    match row:
        case TopUpRow() if line.kind in CHARGES:
            same = row.intent == line.intent and posted.get((f"topup:{row.id}", 0)) == nano
        case RefundRow() if line.kind in REFUNDS:
            same = row.refund == line.source
            same = same and posted.get((f"refund:{row.id}", REFUND_LEG)) == -nano
        case RefundRow() if line.kind in REFUND_FAILURES:
            same = row.refund == line.source
            same = same and posted.get((f"refund:{row.id}", RETURNED_LEG)) == nano
        case PayoutRow() if line.kind in TRANSFERS:
            same = row.transfer == line.source
            same = same and posted.get((f"payout:{row.id}", SENT_LEG)) == -nano
        case PayoutRow() if line.kind in REVERSALS:
            back = sum(sum_ for (name, _), sum_ in posted.items() if name == reversal_id(row.id))
            same = row.transfer == line.intent and back >= nano > 0
        case DisputeRow() if line.kind in DISPUTES:
            same = row.id == line.source
        case _:
            same = False
    return "" if same else f"It does not agree with {row.id} here."


def late_fee_cents(line: BalanceLine, row: OurRow | None, posted: Posted) -> int:
    """The processor's fee of an explained payment that was not known when it was booked."""
    if isinstance(row, TopUpRow) and line.fee_cents > 0 and (f"fee:{row.id}", 0) not in posted:
        return line.fee_cents
    return 0


def suspense_id(line: BalanceLine) -> str:
    """The transfer id of a line that nobody has explained."""
    return f"line:{line.line}"


def suspend(desk: Desk, line: BalanceLine, posted: Posted, now_ns: int) -> bool:
    """Book an unexplained line against suspense; False when it has been already."""
    if (suspense_id(line), 0) in posted or line.net_cents == 0:
        return False
    _move(desk, line, 0, line.net_cents, now_ns)
    return True


def release(desk: Desk, line: BalanceLine, posted: Posted, now_ns: int) -> bool:
    """Take a line out of suspense that has been explained since."""
    name = suspense_id(line)
    if (name, 0) not in posted or (name, 1) in posted:
        return False
    _move(desk, line, 1, -line.net_cents, now_ns)
    return True


def _move(desk: Desk, line: BalanceLine, leg: int, cents: int, now_ns: int) -> None:
    sides: tuple[Account, Account] = (desk.clearing, desk.ledger.account(Code.SUSPENSE))
    posting = Posting.SUSPENSE_IN
    if cents < 0:
        sides, posting = (sides[1], sides[0]), Posting.SUSPENSE_OUT
    desk.post(suspense_id(line), leg, posting, *sides, abs(cents) * NANO_PER_CENT, now_ns)
