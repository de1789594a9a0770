"""What an audit says of transfers that no rule of ours would have made, sealed as they are."""

from __future__ import annotations

import re

import pytest

from market.accounting.audit import Audit, VerifyReport
from market.accounting.chain import BatchContents, Head, seal
from market.accounting.chart import Account, Code, Posting
from market.accounting.ledger import Ledger
from market.accounting.rows import Snapshot, TransferRow
from market.accounting.settlements import payment_problems
from market.accounting.state_rows import DisputeRow, PayoutRow
from market.money import NANO_PER_CENT
from market.types import AccountId

ANN, BOB = AccountId("acct_ann"), AccountId("acct_bob")
Move = tuple[Posting, tuple[Code, str], tuple[Code, str], int]

TOP_UP: Move = (Posting.TOP_UP, (Code.STRIPE_CLEARING, ""), (Code.CONSUMER_CASH, ANN), 100)
EARN: Move = (Posting.CAPITAL_IN, (Code.STRIPE_CLEARING, ""), (Code.PLATFORM_CAPITAL, ""), 9)


def audited(*moves: Move, name: str = "") -> VerifyReport:
    """Seal these transfers as one batch, whatever they are, and audit it."""
    ledger = Ledger(Snapshot(), lease_ends_tick_ns=0)
    for number, (posting, debit, credit, amount_nano) in enumerate(moves):
        sides = ledger.account(*debit), ledger.account(*credit)
        sides[0].dpo += amount_nano
        sides[1].cpo += amount_nano
        ledger.changes.transfers.append(
            TransferRow(
                name or f"act_{number}",
                number,
                sides[0].number,
                sides[1].number,
                amount_nano,
                int(posting),
                1,
            )
        )
    accounts = list(ledger.accounts())
    sealed = seal(ledger.take(), Head(), 1)
    assert sealed.batch is not None
    audit = Audit(accounts)
    contents = BatchContents(sealed.accounts, sealed.transfers, [], [])
    audit.batch(sealed.batch, contents)
    audit.head(sealed.head.number, sealed.head.hash, sealed.batch.ts_ns, sealed.batch.epoch)
    return audit.finish()


def test_what_the_rules_allow_is_green() -> None:
    """A top-up and what follows from it, under one name, has nothing to be said against it."""
    repay: Move = (
        Posting.REPAY_DEBT,
        (Code.CONSUMER_CASH, ANN),
        (Code.CONSUMER_RECEIVABLE, ANN),
        100,
    )
    assert audited(TOP_UP, repay, EARN, name="topup").problems == []


CASH_OUT = (Code.CONSUMER_CASH, ANN)
WRONG: dict[str, tuple[tuple[Move, ...], str]] = {
    "a reason that may not": (
        (TOP_UP, (Posting.PAYOUT_SENT, CASH_OUT, (Code.STRIPE_CLEARING, ""), 1)),
        r"payout_sent\) moves money from 2100 consumer_cash of acct_ann to 1000",
    ),
    "another's payout": (
        (
            (Posting.REFUND_RETURNED, (Code.STRIPE_CLEARING, ""), CASH_OUT, 9),
            (
                Posting.PAYOUT_REVERSED,
                (Code.STRIPE_CLEARING, ""),
                (Code.PROVIDER_EARNINGS, ANN),
                9,
            ),
            (
                Posting.PAYOUT,
                (Code.PROVIDER_EARNINGS, ANN),
                (Code.PAYOUT_IN_TRANSIT, BOB),
                9,
            ),
        ),
        "concern acct_ann and acct_bob; they may concern one owner only",
    ),
    "more than there is, paid back at once": (
        (
            TOP_UP,
            (Posting.REFUND, CASH_OUT, (Code.STRIPE_CLEARING, ""), 150),
            (Posting.REFUND_RETURNED, (Code.STRIPE_CLEARING, ""), CASH_OUT, 150),
        ),
        "takes 150 nano-USD from account 2 .*, which had 100",
    ),
    "promo spent by nobody's request": (
        (
            (Posting.PROMO_GRANT, (Code.PROMO_EXPENSE, ""), (Code.CONSUMER_PROMO, ANN), 7),
            (Posting.SETTLE_FEE, (Code.CONSUMER_PROMO, ANN), (Code.PLATFORM_FEE, ""), 7),
        ),
        "sums of promo spent and taken from promo credit are",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_transfer_that_could_not_be_is_named(case: str) -> None:
    """Though every checksum and hash is right, and every balance at the end."""
    moves, sentence = WRONG[case]

    problems = audited(*moves).problems

    assert any(re.search(sentence, problem) for problem in problems), problems


def payout(owner: AccountId, cents: int, state: str) -> PayoutRow:
    return PayoutRow("po", owner, 0, cents, 0, "acct", state, "", 0, 0, "", "", 1, 1)


def dispute(owner: AccountId, owed_nano: int, state: str) -> DisputeRow:
    return DisputeRow("dp", owner, "t", 1, 1, 0, 0, owed_nano, state, 1, 1)


def test_open_payouts_are_what_is_in_transit() -> None:
    """One that looks open again would be paid again; one that is closed would never be."""
    transit = Account(1, Code.PAYOUT_IN_TRANSIT, ANN, cpo=500 * NANO_PER_CENT)
    rows = [payout(ANN, 200, "decided"), payout(ANN, 300, "unknown"), payout(ANN, 900, "paid")]

    assert list(payment_problems([transit], rows, [])) == []
    reopened = [*rows[:2], rows[2]._replace(state="decided")]
    (problem,) = payment_problems([transit], reopened, [])
    assert problem.startswith("The account 2400 payout_in_transit of acct_ann is at 5000000000")
    (problem,) = payment_problems([], [payout(BOB, 1, "sent")], [])
    assert "of acct_bob is at 0 nano-USD; the open payouts add up to 10000000" in problem


def test_open_disputes_are_what_is_owed() -> None:
    """Forgetting a debt in the row would forget it for good."""
    owing = Account(1, Code.CONSUMER_RECEIVABLE, ANN, dpo=70)

    assert list(payment_problems([owing], [], [dispute(ANN, 70, "open")])) == []
    assert len(list(payment_problems([owing], [], [dispute(ANN, 70, "lost")]))) == 1
    assert len(list(payment_problems([owing], [], [dispute(ANN, 71, "open")]))) == 1
