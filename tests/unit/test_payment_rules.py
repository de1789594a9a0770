"""Rules of payments, pure: weeks, fees, back-offs, what a balance line matches, the laws."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.calls import ActorAway
from actors.payments.client import PaymentsClient
from actors.payments.setup import NoProcessor
from market.accounting.chart import Code, Posting
from market.accounting.rows import Snapshot
from market.accounting.state_rows import (
    DisputeRow,
    PayeeRow,
    PayoutRow,
    RefundRow,
    TopUpRow,
)
from market.errors import InvalidRequest, Unavailable
from market.payments import payouts
from market.payments.answers import RETRY_LAST_NS, SETTLE_NS, Trouble, look_again_ns, retry_ns
from market.payments.desk import Desk
from market.payments.laws import broken_payment_laws
from market.payments.matching import Posted, why_unexplained
from market.payments.processor import BalanceLine, Transfer
from market.payments.quotes import fee_cents
from market.settings import PaymentSettings
from tests.support.books import NOW, OWNERS, make_books

ANN = OWNERS[0]
CENT = 10_000_000
DAY_NS = 86_400 * 10**9
YEARS_NS = st.integers(0, 4 * 10**18)


@given(YEARS_NS)
def test_a_week_begins_on_its_monday(now_ns: int) -> None:
    """The Monday of a moment is a Monday, not after it and less than a week before it."""
    monday = payouts.monday_of(now_ns)
    assert 0 <= now_ns // DAY_NS - monday < 7
    assert (date(1970, 1, 1) + timedelta(days=monday)).weekday() == 0


@given(
    st.integers(1, 10**8), st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10**13)
)
def test_a_quote_adds_up(amount_cents: int, fixed: int, bps: int, earned_nano: int) -> None:
    """Fee and what is received are the sum that leaves, in whole cents, never below zero."""
    desk = _desk(PaymentSettings(payout_fee_cents=fixed, payout_fee_bps=bps))
    _credit(desk, Code.PROVIDER_EARNINGS, earned_nano)
    for asked in (None, min(amount_cents, 99_999_999)):
        quoted = payouts.quote(desk, ANN, asked)
        assert quoted.fee_nano + quoted.receives_cents * CENT == quoted.amount_cents * CENT
        assert 0 <= quoted.fee_nano <= quoted.amount_cents * CENT
        assert quoted.fee_nano <= fee_cents(quoted.amount_cents, desk.terms) * CENT
    assert 0 <= earned_nano - payouts.quote(desk, ANN, None).amount_cents * CENT < CENT


@given(st.integers(0, 10_000), YEARS_NS, YEARS_NS)
def test_waiting_grows_and_ends(tries: int, since_ns: int, now_ns: int) -> None:
    """Each wait is at least as long as the one before, seconds at least, an hour at most."""
    assert 5 * 10**9 <= retry_ns(tries) <= retry_ns(tries + 1) <= RETRY_LAST_NS
    assert 5 * 10**9 <= look_again_ns(since_ns, now_ns) <= RETRY_LAST_NS


# ── payouts, call by call ─────────────────────────────────────────────────────────────

REFUSED = Trouble("refused", "account_invalid", "No.")
POOR = Trouble("refused", "balance_insufficient", "Too little.")
BUSY = Trouble("busy", "rate_limit", "Not now.")
UNKNOWN = Trouble("unknown", "no_answer", "?")


def _payout(desk: Desk) -> PayoutRow:
    _credit(desk, Code.PROVIDER_EARNINGS, 50 * 10**9)
    desk.put(PayeeRow(ANN, "US", "acct_1", "active", "", 1, NOW, NOW))
    row = payouts.decide(
        desk, "po_1", ANN, 1000,
        expected_fee_nano=None, minimum_cents=100, idempotency="", now_ns=NOW,
    )  # fmt: skip
    return payouts.sending(desk, row, NOW)[0]


@pytest.mark.parametrize(
    ("trouble", "first", "waited_ns", "state", "tries"),
    [
        (REFUSED, True, 0, "failed", 0),
        (POOR, True, 0, "decided", 1),
        (BUSY, True, 0, "decided", 1),
        (UNKNOWN, True, 0, "unknown", 0),
        # After a call without an answer, a no to the next call says nothing about the first …
        (REFUSED, False, SETTLE_NS - 1, "unknown", 0),
        (POOR, False, 0, "unknown", 0),
        (BUSY, False, 0, "unknown", 0),
        # … until the first cannot be on its way any more.
        (REFUSED, False, SETTLE_NS, "failed", 0),
        (POOR, False, SETTLE_NS, "decided", 1),
        (UNKNOWN, False, 99 * SETTLE_NS, "unknown", 0),
    ],
)
def test_what_a_failed_call_means(
    trouble: Trouble, first: bool, waited_ns: int, state: str, tries: int
) -> None:
    """Earnings come back only when the transfer has definitely not been made."""
    desk = _desk()
    row = _payout(desk)
    if not first:
        row = payouts.failed(desk, row, 0, UNKNOWN, first=True, now_ns=NOW)
    row = payouts.failed(desk, row, 0, trouble, first=first, now_ns=NOW + waited_ns)

    assert (row.state, row.tries) == (state, tries)
    back = desk.available_nano(Code.PROVIDER_EARNINGS, ANN) == 50 * 10**9
    assert back == (state == "failed")
    assert broken_payment_laws(desk) == []


def test_a_late_answer_about_an_earlier_attempt_changes_nothing() -> None:
    """Two workers for a moment: only the attempt that is under way can fail."""
    desk = _desk()
    row = payouts.failed(desk, _payout(desk), 0, POOR, first=True, now_ns=NOW)
    row, first = payouts.sending(desk, row, NOW)
    assert first
    assert payouts.failed(desk, row, 0, REFUSED, first=True, now_ns=NOW) is row


def test_a_transfer_of_another_sum_is_not_taken_for_ours() -> None:
    """Nothing is booked: the balance's line will find no match, and a person looks."""
    desk = _desk()
    row = _payout(desk)
    assert payouts.look(desk, row, Transfer("tr_1", row.id, "acct_1", 999), 0, NOW) is row


# ── lines and laws ────────────────────────────────────────────────────────────────────

TOPUP = TopUpRow("t", ANN, 500, "paid", "cs", "", "pi_1", 0, 0, "", "", 1, 1)
REFUND = RefundRow("r", ANN, "t", "pi_1", 200, "done", "re_1", 0, 0, "", "", 1, 1)
PAYOUT = PayoutRow("p", ANN, 0, 300, 0, "a", "reversed", "tr_1", 0, 0, "", "", 1, 1)
POSTED = {
    ("topup:t", 0): 500 * CENT,
    ("refund:r", 0): 200 * CENT,
    ("refund:r", 1): 200 * CENT,
    ("payout:p", 2): 300 * CENT,
    ("reversed:p", 100): 100 * CENT,
}


def _line(kind: str, source: str, intent: str, cents: int) -> BalanceLine:
    return BalanceLine("txn_1", kind, source, "", intent, cents, 0, cents, 1)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (_line("charge", "ch_1", "pi_1", 500), TOPUP),
        (_line("refund", "re_1", "pi_1", -200), REFUND),
        (_line("refund_failure", "re_1", "pi_1", 200), REFUND),
        (_line("transfer", "tr_1", "", -300), PAYOUT),
        (_line("transfer_refund", "trr_1", "tr_1", 100), PAYOUT),
    ],
)
def test_a_line_matches_its_own_posting_and_no_other(line: BalanceLine, row: Any) -> None:
    """Another sum, another object, another kind, nothing posted: each is unexplained."""
    nothing: Posted = {}
    assert why_unexplained(line, row, POSTED) == ""
    for other in (
        _line(line.kind, line.source, line.intent, line.amount_cents * 7),
        _line(line.kind, line.source + "x", line.intent + "x", line.amount_cents),
        _line("stripe_fee", line.source, line.intent, line.amount_cents),
    ):
        assert why_unexplained(other, row, POSTED) != ""
    assert why_unexplained(line, row, nothing) != ""
    assert why_unexplained(line, None, POSTED) != ""


def test_the_laws_see_what_is_wrong() -> None:
    """A payout or a dispute that the ledger does not know, and the other way round."""
    desk = _desk()
    row = _payout(desk)
    assert broken_payment_laws(desk) == []
    desk.payouts.put(row._replace(amount_cents=999))
    assert "holds" in broken_payment_laws(desk)[0]
    desk.payouts.put(row)
    desk.payouts.put(row._replace(id="po_2", owner=OWNERS[1]))
    assert "nothing is in transit" in broken_payment_laws(desk)[0]
    desk.payouts.put(row._replace(id="po_2", owner=OWNERS[1], state="failed"))
    desk.disputes.put(DisputeRow("dp", ANN, "t", 5, 5, 0, 0, 5, "open", 1, 1))
    assert "owed" in broken_payment_laws(desk)[0]


@pytest.mark.parametrize(
    "terms",
    [
        {"topup_min_cents": 49},
        {"topup_min_cents": 1000, "topup_max_cents": 999},
        {"payout_fee_bps": 10_001},
        {"withdraw_min_cents": 0},
        {"topup_day_cents": -1},
    ],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, int]) -> None:
    """An operator hears of it at start, with the bounds."""
    with pytest.raises(InvalidRequest):
        PaymentSettings(**terms)  # type: ignore[arg-type]


# ── the gateway's side ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.topup(ANN, 500, None),
        lambda client: client.refund(ANN, "top_1", None, None),
        lambda client: client.withdraw(ANN, None, None, None),
        lambda client: client.onboard(ANN, "US", None),
    ],
)
async def test_a_repeated_call_is_the_same_call(act: Callable[[PaymentsClient], Any]) -> None:
    """A caller without a key gets one, and it stays while the actor restarts."""
    heard: list[tuple[object, ...]] = []

    async def restarting(method: str, *args: object) -> object:
        heard.append((method, *args))
        if len(heard) < 3:
            raise ActorAway("it restarts")
        return None

    await act(PaymentsClient(restarting))

    assert heard[0] == heard[1] == heard[2]
    assert isinstance(heard[0][-1], str)


def test_without_a_processor_whatever_is_asked_says_so() -> None:
    """One sentence with the fix, wherever somebody would have called it."""
    with pytest.raises(Unavailable) as off:
        NoProcessor().transfer  # noqa: B018
    assert "STRIPE_API_KEY" in off.value.message


def _desk(terms: PaymentSettings | None = None) -> Desk:
    return Desk(make_books(), Snapshot(), terms or PaymentSettings())


def _credit(desk: Desk, code: Code, nano: int) -> None:
    cash = desk.ledger.account(Code.CONSUMER_CASH, "acct_other")
    moves = (
        (desk.clearing, cash, Posting.TOP_UP),
        (cash, desk.ledger.account(code, ANN), Posting.SETTLE_PROVIDER),
    )
    for leg, (debit, credit, posting) in enumerate(moves):
        desk.post("seed", leg, posting, debit, credit, nano, NOW)
