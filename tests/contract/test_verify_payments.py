"""Rows of payments are not sealed, and are compared with what is: the transfers and acts."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from actors.accounting import payments_out
from market.accounting.rows import OperationRow
from market.accounting.state_rows import PayeeRow
from storage.verify import verify
from tests.contract.test_verify import spoil
from tests.support.memory_processor import MemoryProcessor
from tests.support.payments import ANN, BOB, Till
from tests.support.till import hear_all, paid, shop


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann has paid in twice, got something back and disputes the rest; Bob was paid out."""
    folder = tmp_path_factory.mktemp("payments") / "data"

    async def fill() -> None:
        till = await _till(folder).open()
        await till.people()
        await till.payee(BOB, shop(till).activate)
        await till.work()  # this week's run: he has earned nothing yet
        shop(till).stray(1_000_000)
        await till.earn(BOB, 5_000)
        first, second = [await paid(till, key=key) for key in ("one", "two")]
        await till.payments.refund(ANN, first, 700, "back")
        await till.payments.withdraw(BOB, 3_000, None, "out")
        await till.work()
        await till.payments.topup(ANN, 1_000, "never paid")
        shop(till).open_dispute(f"pi_{second}", 2_500)
        await hear_all(till)
        assert till.problems() == []
        await till.close()

    asyncio.run(fill())
    return folder


def _till(folder: Path) -> Till:
    return Till(folder, lambda till: MemoryProcessor(lambda: int(till.now_s)), on_disk=True)


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(healthy, tmp_path / "data"))


SPOILT = {
    "a top-up that was never paid": (
        "UPDATE topup SET state = 'paid' WHERE state <> 'paid'",
        r"The top-up \S+ says 10000000000 nano-USD became credit; 0 were posted",
    ),
    "a top-up that was paid": (
        "UPDATE topup SET state = 'expired' WHERE state = 'paid'",
        r"The top-up \S+ says 0 nano-USD became credit; 25000000000 were posted",
    ),
    "a top-up's sum": (
        "UPDATE topup SET amount_cents = 2600 WHERE state = 'paid'",
        r"The top-up \S+ says 26000000000 nano-USD became credit",
    ),
    "a top-up's owner": (
        f"UPDATE topup SET owner = '{BOB}' WHERE state = 'paid'",
        rf"The top-up \S+ says it is of {BOB}; {ANN} was booked for it",
    ),
    "a top-up deleted": (
        "DELETE FROM topup WHERE state = 'paid'",
        r"The top-up \S+ was booked, and its row is missing",
    ),
    "what was refunded of a top-up": (
        "UPDATE topup SET refunded_cents = 0 WHERE refunded_cents > 0",
        r"The top-up \S+ says 0 cents were refunded; the rows of that say 700",
    ),
    "what was disputed of a top-up": (
        "UPDATE topup SET disputed_cents = 1 WHERE disputed_cents > 0",
        r"The top-up \S+ says 1 cents were disputed; the rows of that say 2500",
    ),
    "a refund's sum": (
        "UPDATE refund SET amount_cents = 100",
        r"The refund \S+ says 1000000000 nano-USD were taken from credit; 7000000000 were posted",
    ),
    "a refund called failed": (
        "UPDATE refund SET state = 'failed'",
        r"The refund \S+ says 7000000000 nano-USD came back from it; 0 were posted",
    ),
    "a payout called failed": (
        "UPDATE payout SET state = 'failed'",
        r"The payout \S+ says 0 nano-USD were sent; 30000000000 were posted",
    ),
    "a payout's sum": (
        "UPDATE payout SET amount_cents = amount_cents + 1",
        r"The payout \S+ says 30010000000 nano-USD were taken from earnings",
    ),
    "a payout's fee": (
        "UPDATE payout SET fee_nano = 5",
        r"The payout \S+ says 5 nano-USD were its fee; 0 were posted",
    ),
    "a payout deleted": (
        "DELETE FROM payout",
        r"The payout \S+ was booked, and its row is missing",
    ),
    "a dispute's sum": (
        "UPDATE dispute SET withdrawn_cents = 1",
        r"The dispute \S+ says 10000000 nano-USD were withdrawn; 25000000000 were posted",
    ),
    "a dispute's fee": (
        "UPDATE dispute SET fee_cents = 0",
        r"The dispute \S+ says 0 nano-USD were its fees",
    ),
    "what a dispute took": (
        "UPDATE dispute SET cash_nano = cash_nano - 1",
        r"The dispute \S+ says 24999999999 nano-USD were taken from credit",
    ),
    "where somebody is paid": (
        "UPDATE payee SET account = 'acct_attacker'",
        rf"{BOB} is paid out to acct_attacker; the journal says to acct_",
    ),
    "a payee deleted": ("DELETE FROM payee", rf"{BOB} is paid out to \S+ in the journal"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_payment_is_what_was_posted(data: Path, case: str) -> None:
    """The report names the payment, what it says and what was posted."""
    statement, sentence = SPOILT[case]
    assert verify(data).problems == []
    spoil(data, statement)

    report = verify(data)
    assert any(re.search(sentence, problem) for problem in report.problems), report.problems


def test_a_damaged_reason_does_not_end_the_audit(data: Path) -> None:
    """The transfer is named by its number, and all other findings stay."""
    spoil(data, "UPDATE transfer SET code = 99 WHERE code = 10 AND id LIKE 'topup:%'")

    report = verify(data)
    assert any("was changed after it was written" in problem for problem in report.problems)
    assert any("nano-USD became credit; 0 were posted" in problem for problem in report.problems)


async def test_payees_from_before_there_were_acts_are_given_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not turn red; a market that opens them writes the acts once."""
    data = tmp_path / "data"
    with monkeypatch.context() as older:
        older.setattr(payments_out, "payee_act", _older)
        till = await _till(data).open()
        await till.people()
        await till.payee(BOB, shop(till).activate)
        await till.close()
    assert verify(data).problems == []
    for _ in range(2):
        till = await _till(data).open()
        await till.close()
    assert verify(data).problems == []
    spoil(data, "UPDATE payee SET account = 'acct_attacker'")
    assert any("acct_attacker" in problem for problem in verify(data).problems)


def _older(row: PayeeRow) -> OperationRow:
    return OperationRow(f"older:{row.owner}", "", "{}", row.created_ns)
