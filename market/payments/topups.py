"""Money on its way in: asked → open → paid, or expired, or failed.

    asked    we have written down that somebody wants to pay; no page exists that we know of
    open     the processor has a payment page; the payer may be on it
    paid     TOP_UP and STRIPE_FEE are posted; debts first, the rest is credit
    expired  the page was never used
    failed   refused, or paid with another sum than was asked: that money is in suspense

`intent` is written together with the postings and never without them: a row that has one
has been booked, whatever comes later.
"""

from __future__ import annotations

from typing import Final

from market.accounting.admission import DAY_NS, day_of
from market.accounting.chart import Code, Posting
from market.accounting.state_rows import OwnerRow, TopUpRow
from market.errors import InvalidRequest, RateLimited
from market.money import NANO_PER_CENT, format_cents
from market.payments.desk import Desk, check_cents
from market.payments.disputes import collect_debt
from market.payments.processor import Checkout
from market.types import AccountId

NEW_DAYS: Final = 7
CURRENCY: Final = "usd"
ASKED_NS_MAX: Final = 3_600_000_000_000
"""A page that could not be opened within an hour is given up; nobody has its address."""
COUNTED: Final = ("asked", "open", "paid")
"""States in which a top-up counts against its day."""


def check_ask(
    desk: Desk, owner: OwnerRow, amount_cents: int, today_cents: int, now_ns: int
) -> None:
    """Refuse a sum out of bounds, or beyond what this account may pay in on one day.

    `today_cents` is what it has asked for and not given up today. Raises InvalidRequest or
    RateLimited.
    """
    terms = desk.terms
    check_cents(amount_cents)
    if not terms.topup_min_cents <= amount_cents <= terms.topup_max_cents:
        raise InvalidRequest(
            f"A top-up is from {format_cents(terms.topup_min_cents)} to "
            f"{format_cents(terms.topup_max_cents)}; this is {format_cents(amount_cents)}.",
            "amount_cents",
            "topup_amount",
        )
    is_new = now_ns - owner.created_ns < NEW_DAYS * DAY_NS
    limit_cents = terms.topup_day_cents
    if is_new:
        limit_cents = min(limit_cents, terms.topup_new_day_cents)
    if today_cents + amount_cents > limit_cents:
        of_new = f" in its first {NEW_DAYS} days" if is_new else ""
        raise RateLimited(
            f"An account tops up at most {format_cents(limit_cents)} a day (UTC){of_new}; today "
            f"{format_cents(today_cents)} are paid or on an open payment page. Top up "
            f"{format_cents(max(0, limit_cents - today_cents))} or less, use an open page, or "
            "wait until tomorrow.",
            "amount_cents",
            "topup_day_limit",
            ((day_of(now_ns) + 1) * DAY_NS - now_ns) / 1e9,
            False,
        )


def today_cents(rows: list[TopUpRow], now_ns: int) -> int:
    """What these top-ups count against their account's present day."""
    today = day_of(now_ns)
    return sum(
        row.amount_cents for row in rows if row.state in COUNTED and day_of(row.created_ns) == today
    )


def ask(
    desk: Desk,
    topup_id: str,
    owner: AccountId,
    amount_cents: int,
    idempotency: str,
    now_ns: int,
) -> TopUpRow:
    """Write down that somebody wants to pay in, before the processor hears of it."""
    row = TopUpRow(
        topup_id, owner, amount_cents, "asked", "", "", "", 0, 0, idempotency, "", now_ns, now_ns
    )
    desk.put(row)
    return row


def look(
    desk: Desk, row: TopUpRow, page: Checkout, now_ns: int, *, declined: bool = False
) -> TopUpRow:
    """Bring a top-up to what its payment page says now; again changes nothing.

    `declined` says that a payment that was to arrive later has failed.
    """
    if row.intent:
        return row
    if page.paid:
        return _book(desk, row, page, now_ns)
    if row.state not in ("asked", "open"):
        return row
    changed = row._replace(session=page.session, url=page.url or row.url, state="open")
    if page.status == "expired":
        changed = changed._replace(state="expired", reason="The payment page was not used in time.")
    elif declined and page.status == "complete":
        changed = changed._replace(state="failed", reason="The payer's bank declined the payment.")
    if changed != row:
        changed = changed._replace(changed_ns=now_ns)
        desk.put(changed)
    return changed


def _book(desk: Desk, row: TopUpRow, page: Checkout, now_ns: int) -> TopUpRow:
    amount_nano = page.amount_cents * NANO_PER_CENT
    as_asked = (page.topup_id, page.amount_cents, page.currency) == (
        row.id,
        row.amount_cents,
        CURRENCY,
    )
    paid = row._replace(
        session=page.session,
        intent=page.intent or page.session,
        state="paid" if as_asked else "failed",
        reason="" if as_asked else "Another sum was paid than was asked; it awaits the operator.",
        changed_ns=now_ns,
    )
    ledger = desk.ledger
    if as_asked:
        target, posting = ledger.account(Code.CONSUMER_CASH, row.owner), Posting.TOP_UP
    else:
        target, posting = ledger.account(Code.SUSPENSE), Posting.SUSPENSE_IN
    desk.post(f"topup:{row.id}", 0, posting, desk.clearing, target, amount_nano, now_ns)
    book_fee(desk, row.id, page.fee_cents, now_ns)
    desk.put(paid)
    if as_asked:
        _welcome(desk, row.owner, now_ns)
        collect_debt(desk, row.owner, now_ns)
    return paid


def book_fee(desk: Desk, topup_id: str, fee_cents: int, now_ns: int) -> None:
    """What the processor keeps of a payment. The caller knows that it is not posted yet."""
    if fee_cents == 0:
        return
    desk.post(
        f"fee:{topup_id}",
        0,
        Posting.STRIPE_FEE,
        desk.ledger.account(Code.STRIPE_FEES),
        desk.clearing,
        fee_cents * NANO_PER_CENT,
        now_ns,
    )


def _welcome(desk: Desk, owner: AccountId, now_ns: int) -> None:
    """Who has paid once is a paying customer: other limits, and a date."""
    row = desk.owner(owner)
    if row.tier == "free" or row.paid_ns is None:
        tier = "paid" if row.tier == "free" else row.tier
        desk.books.change_owner(row._replace(tier=tier, paid_ns=row.paid_ns or now_ns))


def give_up(desk: Desk, row: TopUpRow, reason: str, now_ns: int) -> TopUpRow:
    """End a top-up for which there is no payment page."""
    if row.state != "asked":
        return row
    row = row._replace(state="failed", reason=reason, changed_ns=now_ns)
    desk.put(row)
    return row
