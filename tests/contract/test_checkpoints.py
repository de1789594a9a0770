"""Audits that begin where the last one ended: what they replay, see, refuse and never write."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from coster.databases import check_books
from coster.paths import MarketPaths
from market.accounting.audit import VerifyReport
from market.accounting.chain import batch_hash, crc_of, sealed_text
from market.accounting.checkpoints import Checkpoint, checkpoint_of, checkpoint_row
from market.accounting.state_rows import VerifiedRow
from market.errors import InvalidRequest
from storage.database import LEDGER_FILE, StorageError
from storage.statements import JOURNALS
from storage.verify import verify
from tests.contract.test_verify import spoil
from tests.support.ledger_bench import Bench, start


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A stopped ledger: four requests before the checkpoint, four after it."""
    folder = tmp_path / "data"
    bench = await start(folder, fee_bps=500)
    for number in range(8):
        if number == 4:
            assert (await bench.accountant.audit()).ok
        await bench.do(bench.admit(f"req_{number}"))
        await bench.do(bench.settle(f"req_{number}", 100 + number))
    await bench.accountant.stop()
    return folder


def execute(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / LEDGER_FILE)
    connection.execute(statement)
    connection.commit()
    connection.close()


def kept(data: Path) -> list[tuple[int, bytes]]:
    connection = sqlite3.connect(data / LEDGER_FILE)
    rows = connection.execute("SELECT number, hash FROM verified").fetchall()
    connection.close()
    return rows


def test_both_ways_tell_the_same_story(data: Path) -> None:
    """Counts, sums, head and checkpoint agree; only one of them has replayed it all."""
    quick, full = verify(data, full=False), verify(data)

    assert quick.ok
    assert (quick.counts, quick.totals_nano) == (full.counts, full.totals_nano)
    assert (quick.head_hash, quick.checkpoint) == (full.head_hash, full.checkpoint)
    assert full.since_batch == 0
    assert quick.since_batch == kept(data)[0][0] > 0
    assert quick.counts["requests"] == 8


BEFORE, AFTER = (
    "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE id = 'req_1' AND leg = 0",
    ("UPDATE transfer SET ts_ns = ts_ns + 1 WHERE id = 'req_6' AND leg = 0"),
)


def test_what_is_new_is_looked_at_and_what_is_old_only_in_full(data: Path) -> None:
    """A change after the checkpoint is red both ways, one before it when all is replayed."""
    spoil(data, BEFORE)
    assert verify(data, full=False).ok
    assert "(req_1, leg 0) was changed" in verify(data).problems[0]

    spoil(data, AFTER)
    assert "(req_6, leg 0) was changed" in verify(data, full=False).problems[0]


def test_a_balance_is_compared_wherever_the_audit_begins(data: Path) -> None:
    """A counter is the checkpoint's sum and what came after it; nothing else."""
    spoil(data, "UPDATE account SET cpo = cpo + 1 WHERE code = 2310")

    (problem, _) = verify(data, full=False).problems

    assert "2310 provider_earnings of acct_provider) says" in problem


def test_a_row_slipped_into_an_old_batch_is_seen(data: Path) -> None:
    """Its number is new though its batch is old, so every audit meets it."""
    columns = ", ".join(JOURNALS["operation"])
    execute(data, f"INSERT INTO operation ({columns}) VALUES (999, 'k', 'f', 'r', 1, 2, 0)")

    assert any("operation 999" in problem for problem in verify(data, full=False).problems)


def rewrite(data: Path, sequence: int) -> None:
    """Change a transfer's time and seal everything anew from its batch on, as an owner could."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(f"UPDATE transfer SET ts_ns = ts_ns + 1 WHERE seq = {sequence}")
    columns = ", ".join(JOURNALS["transfer"])
    row = connection.execute(f"SELECT {columns} FROM transfer WHERE seq = {sequence}").fetchone()
    crc = crc_of(sealed_text("transfer", row[:-2], row[-2]))
    connection.execute(f"UPDATE transfer SET crc = {crc} WHERE seq = {sequence}")
    previous = bytes(32)
    for number, *head, _ in connection.execute("SELECT * FROM batch ORDER BY number").fetchall():
        texts = [
            sealed_text(kind, row[:-2], row[-2])
            for kind, fields in JOURNALS.items()
            for row in connection.execute(
                f"SELECT {', '.join(fields)} FROM {kind} "
                f"WHERE batch = {number} ORDER BY {fields[0]}"
            )
        ]
        previous = batch_hash(previous, (number, *head), texts)
        connection.execute("UPDATE batch SET hash = ? WHERE number = ?", (previous, number))
    connection.execute("UPDATE meta SET head_hash = ?", (previous,))
    connection.commit()
    connection.close()


def told(report: VerifyReport) -> list[str]:
    return [problem for problem in report.problems if not problem.startswith("The trigger")]


@pytest.mark.parametrize("full", [True, False])
def test_a_rewritten_history_contradicts_its_checkpoint(data: Path, full: bool) -> None:
    """Even with every checksum and hash made anew: an audit has seen another batch there."""
    rewrite(data, 3)

    problems = told(verify(data, full=full))

    number = kept(data)[0][0]
    assert problems[0].startswith(f"Batch {number} had another hash when it was last audited")


def test_a_history_cut_back_contradicts_its_checkpoint(data: Path) -> None:
    """Batches that were audited and are gone are missed, in full and from the checkpoint."""
    number = kept(data)[0][0]
    spoil(data, f"DELETE FROM batch WHERE number >= {number}")

    for full in (True, False):
        assert any(
            f"Batch {number} was audited and is not there any more" in problem
            for problem in verify(data, full=full).problems
        )


@pytest.mark.parametrize("counters", ["", "[]", '{"sums": 3}', '{"sums": {"1": [1]}}'])
def test_a_checkpoint_that_cannot_be_read_proves_nothing(data: Path, counters: str) -> None:
    """Then everything is replayed, and an old change is seen."""
    execute(data, f"UPDATE verified SET counters = '{counters}'")
    assert verify(data, full=False).since_batch == 0
    spoil(data, BEFORE)

    assert not verify(data, full=False).ok


def test_an_audit_writes_nothing(data: Path) -> None:
    """Neither way moves the checkpoint; only the accountant keeps one."""
    before = kept(data)
    assert verify(data, full=False).ok
    assert verify(data).ok
    assert kept(data) == before


def test_a_checkpoint_is_read_back_as_it_was_written() -> None:
    """Canonical text: equal checkpoints are equal rows."""
    found = Checkpoint(
        7,
        b"h" * 32,
        {2: (3, 2**62), 1: (0, 5)},
        {"account": 3, "transfer": 9, "request": 2, "delivery": 4, "operation": 1},
        {"batches": 7},
        {"spent": 12},
    )
    row = checkpoint_row(found, 5)

    assert checkpoint_of(row) == found
    assert isinstance(row, VerifiedRow)
    assert row.counters.startswith('{"counts":{"batches":7},"following":{"account":3')


def test_a_checkpoint_from_before_a_journal_existed_has_seen_none_of_it() -> None:
    """Books of an earlier version go on from their checkpoint; nothing is replayed for it."""
    row = checkpoint_row(Checkpoint(7, b"h" * 32), 5)
    older = row._replace(counters=row.counters.replace('"delivery":1,', ""))
    assert older != row

    assert checkpoint_of(older) == checkpoint_of(row)


Open = Callable[[], Awaitable[Bench]]


@pytest.fixture
async def opened(data: Path) -> AsyncIterator[Open]:
    """Opens the books again and again; whatever is open at the end is stopped."""
    benches: list[Bench] = []

    async def open_books() -> Bench:
        benches.append(await start(data))
        return benches[-1]

    yield open_books
    for bench in benches:
        await bench.accountant.stop()


async def test_the_accountant_audits_before_it_opens(data: Path, opened: Open) -> None:
    """It moves the checkpoint to the head; a broken ledger stays closed, with the way back."""
    before = kept(data)
    bench = await opened()
    await bench.accountant.stop()
    (after,) = kept(data)
    assert after[0] > before[0][0]

    bench = await opened()
    await bench.do(bench.admit("req_new"), bench.settle("req_new"))
    await bench.accountant.stop()
    spoil(data, "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE id = 'req_new' AND leg = 0")
    with pytest.raises(
        StorageError, match=r"\(req_new, leg 0\) was changed.*coster ledger restore"
    ):
        await opened()


async def test_a_finding_while_it_runs_ends_the_accountant(data: Path, opened: Open) -> None:
    """It answers nothing more, says why, counts it, and leaves the checkpoint where it was."""
    bench = await opened()
    await bench.do(bench.admit("req_new"), bench.settle("req_new"))
    before = kept(data)
    spoil(data, "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE id = 'req_new' AND leg = 0")

    report = await bench.accountant.audit()

    assert not report.ok
    assert "(req_new, leg 0) was changed" in str(bench.accountant.failed)
    (refused,) = await bench.do(bench.admit("req_later"))
    assert getattr(refused, "code", None) == "ledger_unavailable"
    metrics = await bench.accountant.metrics()
    assert metrics["coster_ledger_audit_problems"] == report.problem_count
    assert kept(data) == before
    await bench.accountant.stop()


async def test_audits_come_with_commits_and_with_time(data: Path, opened: Open) -> None:
    """Enough commits, or some and five minutes; a market at rest is left alone."""
    bench = await opened()
    auditor = bench.accountant._auditor
    commits = bench.accountant._commits.commits
    await bench.accountant.audit()

    assert not auditor.due(commits + 19_999)
    assert auditor.due(commits + 20_000)
    auditor._last_tick_ns -= 301 * 10**9
    assert auditor.due(commits + 1)
    assert not auditor.due(commits)
    await bench.accountant.stop()


def test_a_market_is_not_started_over_books_that_do_not_add_up(data: Path) -> None:
    """Said at once, with the row and the way back, and not after everything was started."""
    check_books(MarketPaths(data), "")
    check_books(MarketPaths(data.parent / "nothing yet"), "")
    spoil(data, AFTER)

    with pytest.raises(
        InvalidRequest, match=r"\(req_6, leg 0\) was changed.*coster ledger restore"
    ):
        check_books(MarketPaths(data), "")
