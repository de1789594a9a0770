"""Earnings on their way to their owner: decided → sent → paid, or back again.

    decided   PAYOUT (and PAYOUT_FEE) are posted: the earnings have left the account
    sent      the processor is being asked
    unknown   it was asked and has not answered: look it up before asking again
    paid      PAYOUT_SENT is posted: the processor has moved the money
    failed    PAYOUT_RETURNED is posted: it definitely was not moved, the earnings are back
    reversed  it was moved and has come back: PAYOUT_REVERSED

While a payout is decided, sent or unknown its money is in transit and nowhere else. One
transfer id with a leg for each arrow, so that no arrow can be walked twice.

`tries` counts the processor's definite noes and is the number of the attempt: within one
attempt every call is the same call, under the same idempotency key.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from market.accounting.admission import day_of
from market.accounting.chart import Code, Posting
from market.accounting.state_rows import PayeeRow, PayoutRow
from market.errors import Conflict, InvalidRequest, PaymentRequired
from market.money import NANO_PER_CENT, format_cents, format_usd
from market.payments.answers import SETTLE_NS, Trouble, look_again_ns, retry_ns
from market.payments.desk import Desk, check_cents
from market.payments.processor import Transfer
from market.payments.quotes import ARRIVES, WithdrawalQuote, fee_cents
from market.types import AccountId

OPEN: Final = ("decided", "sent", "unknown")
PAYOUT_LEG, FEE_LEG, SENT_LEG, RETURNED_LEG, FEE_RETURNED_LEG = range(5)
WEEK_DAYS: Final = 7
_MONDAY: Final = 3  # 1970-01-01 was a Thursday


def monday_of(now_ns: int) -> int:
    """The UTC day number of the Monday that the present week began with."""
    day = day_of(now_ns)
    return day - (day + _MONDAY) % WEEK_DAYS


def date_of(day: int) -> str:
    """A UTC day number as `2026-11-23`."""
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def week_told(
    decided: dict[str, Any], monday: int, run_ns: int, *, already: bool
) -> dict[str, Any]:
    """A week's run as it is answered: what was `decided` then, and when.

    `already`: it was decided before it was asked for now, so nothing was paid again.
    """
    return {
        "week": date_of(monday),
        "payouts": decided["payouts"],
        "amount_cents": decided["amount_cents"],
        "passed": decided["passed"],
        "already": already,
        "run_at": datetime.fromtimestamp(run_ns // 1_000_000_000, UTC).isoformat(),
        "next_week": date_of(monday + WEEK_DAYS),
    }


def weekly_id(monday: int, owner: AccountId) -> str:
    """The one weekly payout of an account in a week."""
    return f"po_{monday}_{owner}"


def quote(desk: Desk, owner: AccountId, amount_cents: int | None) -> WithdrawalQuote:
    """What a withdrawal would bring; `amount_cents` of None is everything there is.

    Raises PaymentRequired or InvalidRequest for a sum that could not be withdrawn.
    """
    desk.owner(owner)
    terms = desk.terms
    withdrawable_nano = desk.available_nano(Code.PROVIDER_EARNINGS, owner)
    amount = (
        withdrawable_nano // NANO_PER_CENT if amount_cents is None else check_cents(amount_cents)
    )
    fee = min(amount, fee_cents(amount, terms)) if amount else 0
    quoted = WithdrawalQuote(
        amount_cents=amount,
        fee_nano=fee * NANO_PER_CENT,
        receives_cents=amount - fee,
        withdrawable_nano=withdrawable_nano,
        maturing_nano=desk.available_nano(Code.PROVIDER_MATURING, owner),
        minimum_cents=terms.withdraw_min_cents,
        arrives=ARRIVES,
    )
    if amount_cents is not None:
        _check_amount(quoted, terms.withdraw_min_cents, all_of_it=False)
    return quoted


def decide(
    desk: Desk,
    payout_id: str,
    owner: AccountId,
    amount_cents: int | None,
    *,
    expected_fee_nano: int | None,
    minimum_cents: int,
    idempotency: str,
    now_ns: int,
    week: int = 0,
) -> PayoutRow:
    """Take the earnings and write down that they are to be paid, before anybody is asked.

    Raises Forbidden, Conflict, InvalidRequest or PaymentRequired with what is in the way.
    """
    desk.active_owner(owner, "a withdrawal")
    payee = check_payee(desk.payees.get(owner))
    quoted = quote(desk, owner, amount_cents)
    _check_amount(quoted, minimum_cents, all_of_it=amount_cents is None)
    if expected_fee_nano not in (None, quoted.fee_nano):
        raise Conflict(
            f"The fee for this withdrawal is {format_usd(quoted.fee_nano)} now. Ask for a new "
            "quote, and withdraw with the fee it names.",
            "expected_fee_nano_usd",
            "fee_changed",
            None,
            False,
        )
    ledger = desk.ledger
    earnings = ledger.account(Code.PROVIDER_EARNINGS, owner)
    transit = ledger.account(Code.PAYOUT_IN_TRANSIT, owner)
    receives_nano = quoted.receives_cents * NANO_PER_CENT
    name = f"payout:{payout_id}"
    desk.post(name, PAYOUT_LEG, Posting.PAYOUT, earnings, transit, receives_nano, now_ns)
    if quoted.fee_nano:
        fees = ledger.account(Code.PLATFORM_FEE)
        desk.post(name, FEE_LEG, Posting.PAYOUT_FEE, earnings, fees, quoted.fee_nano, now_ns)
    row = PayoutRow(
        id=payout_id,
        owner=owner,
        week=week,
        amount_cents=quoted.receives_cents,
        fee_nano=quoted.fee_nano,
        account=payee.account,
        state="decided",
        transfer="",
        tries=0,
        next_try_ns=now_ns,
        idempotency=idempotency,
        reason="",
        created_ns=now_ns,
        changed_ns=now_ns,
    )
    desk.put(row)
    return row


def check_payee(payee: PayeeRow | None) -> PayeeRow:
    """Refuse who cannot be paid now; raises Conflict with the next step."""
    if payee is None or not payee.account:
        raise Conflict(
            "Payouts are not set up for this account. Start with POST /v1/payouts/onboarding.",
            None,
            "payouts_not_set_up",
            None,
            False,
        )
    if payee.state != "active":
        missing = f" It still needs: {payee.requirements}." if payee.requirements else ""
        raise Conflict(
            f"The payout account is {payee.state} and cannot be paid now.{missing} Open the form "
            "again with POST /v1/payouts/onboarding.",
            None,
            "payouts_not_active",
            None,
            False,
        )
    return payee


def _check_amount(quoted: WithdrawalQuote, minimum_cents: int, *, all_of_it: bool) -> None:
    there_cents = quoted.withdrawable_nano // NANO_PER_CENT
    held_back = (
        f" Another {format_usd(quoted.maturing_nano)} are held back for now."
        if quoted.maturing_nano
        else ""
    )
    if quoted.amount_cents > there_cents or (all_of_it and there_cents < minimum_cents):
        raise PaymentRequired(
            f"{format_cents(there_cents)} can be withdrawn now, in whole cents; a withdrawal is "
            f"at least {format_cents(minimum_cents)}.{held_back} Promo and paid-in credit cannot "
            "be withdrawn.",
            "amount_cents",
            "insufficient_earnings",
            None,
            False,
        )
    if quoted.amount_cents < minimum_cents or quoted.receives_cents < 1:
        raise InvalidRequest(
            f"A withdrawal is at least {format_cents(minimum_cents)} and more than its fee of "
            f"{format_usd(quoted.fee_nano)}; this is {format_cents(quoted.amount_cents)}.",
            "amount_cents",
            "withdrawal_amount",
        )


def weekly(desk: Desk, monday: int, now_ns: int) -> tuple[list[PayoutRow], dict[str, int]]:
    """Everybody's weekly payout, and how many were passed over, by reason.

    Whoever takes part has earned the minimum, is set up and not frozen; others are simply
    not due. The caller sees to it that a week is run once.
    """
    rows: list[PayoutRow] = []
    passed: dict[str, int] = {}
    for owner in sorted(desk.payees):
        reason = _not_due(desk, desk.payees[owner])
        if reason:
            passed[reason] = passed.get(reason, 0) + 1
            continue
        rows.append(
            decide(
                desk,
                weekly_id(monday, owner),
                owner,
                None,
                expected_fee_nano=None,
                minimum_cents=desk.terms.payout_min_cents,
                idempotency="",
                now_ns=now_ns,
                week=monday,
            )
        )
    return rows, passed


def _not_due(desk: Desk, payee: PayeeRow) -> str:
    quoted = quote(desk, payee.owner, None)
    if not payee.weekly:
        return "on_demand_only"
    if payee.state != "active" or not payee.account:
        return "not_set_up"
    if desk.owner(payee.owner).frozen:
        return "frozen"
    if quoted.amount_cents < desk.terms.payout_min_cents or quoted.receives_cents < 1:
        return "below_minimum"
    return ""


def sending(desk: Desk, row: PayoutRow, now_ns: int) -> tuple[PayoutRow, bool]:
    """Write down that the processor is about to be asked; whether it is for the first time
    in this attempt. A market that stops now must look before it acts.
    """
    first = row.state == "decided"
    if first:
        row = row._replace(state="sent", changed_ns=now_ns)
        desk.put(row)
    return row, first


def look(desk: Desk, row: PayoutRow, said: Transfer, reversed_nano: int, now_ns: int) -> PayoutRow:
    """Bring a payout to what the processor says of its transfer; again changes nothing.

    `reversed_nano` is what has been booked as come back so far.
    """
    if row.state == "failed" or said.amount_cents != row.amount_cents:
        # Its earnings have been given back, or it is not the one we know: a person must look.
        # The balance's line for it has no match and goes to suspense.
        return row
    if row.state in OPEN:
        desk.post(
            f"payout:{row.id}",
            SENT_LEG,
            Posting.PAYOUT_SENT,
            desk.ledger.account(Code.PAYOUT_IN_TRANSIT, row.owner),
            desk.clearing,
            row.amount_cents * NANO_PER_CENT,
            now_ns,
        )
        row = row._replace(state="paid", transfer=said.transfer, reason="", changed_ns=now_ns)
        desk.put(row)
    back_nano = said.reversed_cents * NANO_PER_CENT
    if back_nano > reversed_nano:
        desk.post(
            reversal_id(row.id),
            said.reversed_cents,  # grows with each partial reversal
            Posting.PAYOUT_REVERSED,
            desk.clearing,
            desk.ledger.account(Code.PROVIDER_EARNINGS, row.owner),
            back_nano - reversed_nano,
            now_ns,
        )
        reason = f"{format_cents(said.reversed_cents)} came back from the payout account."
        row = row._replace(state="reversed", reason=reason, changed_ns=now_ns)
        desk.put(row)
    return row


def reversal_id(payout_id: str) -> str:
    """The transfer id of what came back of a payout."""
    return f"reversed:{payout_id}"


def failed(
    desk: Desk, row: PayoutRow, attempt: int, trouble: Trouble, *, first: bool, now_ns: int
) -> PayoutRow:
    """What a call that went wrong means for a payout, in this attempt.

    `first`: no earlier call of the attempt may have taken effect. A late answer about an
    earlier attempt changes nothing.
    """
    if row.state not in OPEN or attempt != row.tries:
        return row
    definite = trouble.kind != "unknown" and (first or now_ns - row.changed_ns >= SETTLE_NS)
    if not definite:
        since_ns = now_ns if row.state == "sent" else row.changed_ns
        row = row._replace(
            state="unknown",
            next_try_ns=now_ns + look_again_ns(since_ns, now_ns),
            reason=trouble.reason,
            changed_ns=since_ns,
        )
    elif trouble.passes:
        row = row._replace(
            state="decided",
            tries=row.tries + 1,
            next_try_ns=now_ns + retry_ns(row.tries),
            reason=trouble.reason,
            changed_ns=now_ns,
        )
    else:
        return _give_back(desk, row, trouble.reason, now_ns)
    desk.put(row)
    return row


def nudge(desk: Desk, now_ns: int) -> None:
    """Money has become available at the processor: try what waits for it now."""
    for row in desk.payouts.open():
        if row.state == "decided" and row.next_try_ns > now_ns:
            desk.put(row._replace(next_try_ns=now_ns))


def _give_back(desk: Desk, row: PayoutRow, reason: str, now_ns: int) -> PayoutRow:
    earnings = desk.ledger.account(Code.PROVIDER_EARNINGS, row.owner)
    transit = desk.ledger.account(Code.PAYOUT_IN_TRANSIT, row.owner)
    name, nano = f"payout:{row.id}", row.amount_cents * NANO_PER_CENT
    desk.post(name, RETURNED_LEG, Posting.PAYOUT_RETURNED, transit, earnings, nano, now_ns)
    if row.fee_nano:
        fees = desk.ledger.account(Code.PLATFORM_FEE)
        posting = Posting.PAYOUT_FEE_RETURNED
        desk.post(name, FEE_RETURNED_LEG, posting, fees, earnings, row.fee_nano, now_ns)
    row = row._replace(state="failed", reason=reason, changed_ns=now_ns)
    desk.put(row)
    return row
