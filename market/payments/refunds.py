"""Credit on its way back to the card it came from: decided → pending → done, or failed.

    decided  REFUND is posted: the credit is gone before the processor is asked
    unknown  it was asked and has not answered, or the market stopped in between
    pending  the processor has it; a bank may take days
    done     the payer has it; a bank can still send it back
    failed   REFUND_RETURNED is posted: the credit is back

Only credit that was paid in and is still there can go back, at most what the top-up brought
and has not gone back already.
"""

from __future__ import annotations

from typing import Final

from market.accounting.chart import Code, Posting
from market.accounting.state_rows import RefundRow, TopUpRow
from market.errors import Conflict, PaymentRequired
from market.money import NANO_PER_CENT, format_cents
from market.payments.answers import SETTLE_NS, Trouble, look_again_ns, retry_ns
from market.payments.desk import Desk, check_cents
from market.payments.disputes import collect_debt
from market.payments.processor import Refund

REFUND_LEG: Final = 0
RETURNED_LEG: Final = 1
_STATES: Final = {"pending": "pending", "succeeded": "done", "failed": "failed"}


def decide(
    desk: Desk,
    refund_id: str,
    topup: TopUpRow,
    amount_cents: int | None,
    idempotency: str,
    now_ns: int,
) -> RefundRow:
    """Take the credit away and write down that it is to go back to the payer.

    `amount_cents` of None is as much as can go back. Raises Forbidden, Conflict,
    InvalidRequest or PaymentRequired with what is in the way.
    """
    desk.active_owner(topup.owner, "a refund")
    if topup.state != "paid":
        raise Conflict(
            f"This top-up is {topup.state}; only a paid one can be refunded.",
            None,
            "topup_not_paid",
            None,
            False,
        )
    left_cents = topup.amount_cents - topup.refunded_cents - topup.disputed_cents
    unspent_cents = desk.available_nano(Code.CONSUMER_CASH, topup.owner) // NANO_PER_CENT
    most_cents = max(0, min(left_cents, unspent_cents))
    amount = most_cents if amount_cents is None else check_cents(amount_cents)
    if amount == 0 or amount > most_cents:
        raise PaymentRequired(
            f"At most {format_cents(most_cents)} of this top-up can be refunded: "
            f"{format_cents(max(0, left_cents))} of it have not gone back yet, and "
            f"{format_cents(unspent_cents)} of paid-in credit are unspent and not held. Promo "
            "credit cannot be refunded.",
            "amount_cents",
            "refund_amount",
            None,
            False,
        )
    desk.post(
        f"refund:{refund_id}",
        REFUND_LEG,
        Posting.REFUND,
        desk.ledger.account(Code.CONSUMER_CASH, topup.owner),
        desk.clearing,
        amount * NANO_PER_CENT,
        now_ns,
    )
    row = RefundRow(
        id=refund_id,
        owner=topup.owner,
        topup=topup.id,
        intent=topup.intent,
        amount_cents=amount,
        state="decided",
        refund="",
        tries=0,
        next_try_ns=now_ns,
        idempotency=idempotency,
        reason="",
        created_ns=now_ns,
        changed_ns=now_ns,
    )
    desk.put(row)
    desk.put(topup._replace(refunded_cents=topup.refunded_cents + amount, changed_ns=now_ns))
    return row


def sending(desk: Desk, row: RefundRow, now_ns: int) -> tuple[RefundRow, bool]:
    """Write down that the processor is about to be asked; whether it is for the first time.

    Until an answer is known the refund counts as unknown: a market that stops here must look
    before it acts.
    """
    first = row.state == "decided"
    if first:
        row = row._replace(state="unknown", next_try_ns=now_ns, changed_ns=now_ns)
        desk.put(row)
    return row, first


def look(desk: Desk, row: RefundRow, topup: TopUpRow, said: Refund, now_ns: int) -> RefundRow:
    """Bring a refund to what the processor says of it now; again changes nothing."""
    state = _STATES[said.status]
    if row.state == "failed" or (row.state, row.refund) == (state, said.refund):
        return _looked(desk, row, now_ns)
    row = row._replace(refund=said.refund)
    if state == "failed":
        return _give_back(desk, row, topup, "The payer's bank sent the refund back.", now_ns)
    row = row._replace(state=state, changed_ns=now_ns, next_try_ns=now_ns)
    desk.put(row)
    return row


def _looked(desk: Desk, row: RefundRow, now_ns: int) -> RefundRow:
    if row.state == "pending":
        row = row._replace(next_try_ns=now_ns + look_again_ns(row.changed_ns, now_ns))
        desk.put(row)
    return row


def failed(
    desk: Desk, row: RefundRow, topup: TopUpRow, trouble: Trouble, *, first: bool, now_ns: int
) -> RefundRow:
    """What a call that went wrong means; `first`: no earlier call may have taken effect."""
    if row.state not in ("decided", "unknown", "pending"):
        return row
    definite = trouble.kind != "unknown" and (first or now_ns - row.changed_ns >= SETTLE_NS)
    if row.state == "pending" or not definite:
        wait_ns = look_again_ns(row.changed_ns, now_ns)
        row = row._replace(next_try_ns=now_ns + wait_ns, reason=trouble.reason)
    elif trouble.passes:
        row = row._replace(
            state="decided",
            tries=row.tries + 1,
            next_try_ns=now_ns + retry_ns(row.tries),
            reason=trouble.reason,
            changed_ns=now_ns,
        )
    else:
        return _give_back(desk, row, topup, trouble.reason, now_ns)
    desk.put(row)
    return row


def _give_back(desk: Desk, row: RefundRow, topup: TopUpRow, reason: str, now_ns: int) -> RefundRow:
    desk.post(
        f"refund:{row.id}",
        RETURNED_LEG,
        Posting.REFUND_RETURNED,
        desk.clearing,
        desk.ledger.account(Code.CONSUMER_CASH, row.owner),
        row.amount_cents * NANO_PER_CENT,
        now_ns,
    )
    row = row._replace(state="failed", reason=reason, changed_ns=now_ns)
    desk.put(row)
    desk.put(
        topup._replace(
            refunded_cents=max(0, topup.refunded_cents - row.amount_cents), changed_ns=now_ns
        )
    )
    collect_debt(desk, row.owner, now_ns)
    return row
