"""The audit goes red, naming the row, whatever is done to a ledger behind our back."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from market.accounting.chain import batch_hash, crc_of, row_text, sealed_text
from market.messages import Void
from market.types import RequestId
from storage.database import LEDGER_FILE, StorageError
from storage.statements import JOURNALS
from storage.verify import verify, verify_file
from tests.support.ledger_bench import start

Spoil = Callable[[sqlite3.Connection], object]

GUARDS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with settled, voided and open requests, over several batches."""
    folder = tmp_path_factory.mktemp("healthy") / "data"

    async def fill() -> None:
        bench = await start(folder, fee_bps=500)
        for number in range(6):
            await bench.do(bench.admit(f"req_{number}"))
        for number in range(4):
            await bench.do(bench.settle(f"req_{number}", 100 + number))
        await bench.do(Void(RequestId("req_4"), "no provider"))
        await bench.accountant.create_account("Ann", idempotency="once")
        await bench.accountant.stop()

    asyncio.run(fill())
    return folder


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(healthy, tmp_path / "data"))


def spoil(data: Path, *statements: str) -> None:
    """Change the file as an intruder would: guards off, then SQL, then guards on again."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    guards = connection.execute(GUARDS).fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA ignore_check_constraints=1")
    for statement in statements:
        assert connection.execute(statement).rowcount >= 1
    for _, guard in guards:
        connection.execute(guard)
    connection.commit()
    connection.close()


def test_healthy_books_balance(data: Path) -> None:
    """No problem, exact totals, and a head to keep elsewhere."""
    report = verify(data)

    assert report.problems == []
    assert report.ok
    assert report.counts["requests"] == 5
    assert report.counts["holds"] == 1
    spent = sum(412 * 100 + (100 + number) * 780 for number in range(4))
    assert report.totals_nano["spent"] == spent
    assert report.totals_nano["providers"] + report.totals_nano["fees"] == spent
    assert report.totals_nano["debits"] == report.totals_nano["credits"]
    assert len(report.head_hash) == 64


SPOILT = {
    "a transfer's amount": (
        "UPDATE transfer SET amount_nano = amount_nano + 1 WHERE id = 'req_2' AND leg = 0",
        r"The transfer \d+ \(req_2, leg 0\) was changed",
    ),
    "a transfer's time": (
        "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE id = 'req_2' AND leg = 0",
        r"The transfer \d+ \(req_2, leg 0\) was changed",
    ),
    "a transfer's name": (
        "UPDATE transfer SET id = 'req_z' WHERE id = 'req_2' AND leg = 0",
        r"The transfer \d+ \(req_z, leg 0\) was changed",
    ),
    "a transfer's checksum": (
        "UPDATE transfer SET crc = crc + 1 WHERE id = 'req_2' AND leg = 0",
        r"The transfer \d+ \(req_2, leg 0\) was changed",
    ),
    "a deleted transfer": (
        "DELETE FROM transfer WHERE seq = 3",
        r"The transfer 3 of batch \d+ is missing",
    ),
    "the last transfer deleted": (
        "DELETE FROM transfer WHERE seq = (SELECT max(seq) FROM transfer)",
        r"The transfer \d+ of batch \d+ is missing",
    ),
    "an altered balance": (
        "UPDATE account SET cpo = cpo + 1 WHERE code = 2110 AND owner = 'acct_consumer'",
        r"Account \d+ \(2110 consumer_promo of acct_consumer\) says \d+ nano-USD credited",
    ),
    "an altered reservation": (
        "UPDATE account SET dp = 0 WHERE dp > 0",
        r"Account \d+ \(2110 consumer_promo of acct_consumer\) says 0 nano-USD held",
    ),
    "an account's owner": (
        "UPDATE account SET owner = 'acct_thief' WHERE code = 2310",
        r"The account \d+ \(2310\) was changed",
    ),
    "a deleted account": (
        "DELETE FROM account WHERE code = 2310",
        r"The account \d+ of batch \d+ is missing",
    ),
    "a request's cost": (
        "UPDATE request SET cost_nano = cost_nano + 1 WHERE request_id = 'req_1'",
        r"The request \d+ \(req_1\) was changed",
    ),
    "a request's tokens": (
        "UPDATE request SET completion_tokens = 1 WHERE request_id = 'req_1'",
        r"The request req_1 cost \d+ nano-USD; its tokens cost",
    ),
    "a request's payee": (
        "UPDATE request SET payee = 'acct_thief' WHERE request_id = 'req_1'",
        r"The transfers of req_1 do not move what the request cost",
    ),
    "a request's fee": (
        "UPDATE request SET fee_bps = 10001 WHERE request_id = 'req_1'",
        r"The request req_1 is not split at its fee",
    ),
    "a deleted request": (
        "DELETE FROM request WHERE request_id = 'req_4'",
        r"The request \d+ of batch \d+ is missing",
    ),
    "an open hold": (
        "UPDATE hold SET promo_nano = promo_nano - 1",
        r"The hold req_5 was changed",
    ),
    "a deleted hold": (
        "DELETE FROM hold",
        r"consumer_promo of acct_consumer\) says \d+ nano-USD held; its rows add up to 0",
    ),
    "an operation": (
        "UPDATE operation SET result = 'acct_other'",
        r"The operation \d+ \(\w+\) was changed",
    ),
    "a batch's hash": (
        "UPDATE batch SET hash = zeroblob(32) WHERE number = 3",
        r"Batch 3 does not match its hash",
    ),
    "a batch's time": (
        "UPDATE batch SET ts_ns = ts_ns + 1 WHERE number = 3",
        r"Batch 3 does not match its hash",
    ),
    "a deleted batch": ("DELETE FROM batch WHERE number = 3", r"Batch 3 is missing"),
    "the last batch deleted": (
        "DELETE FROM batch WHERE number = (SELECT max(number) FROM batch)",
        r"head is batch \d+ .* batches are missing at the end",
    ),
    "the head": ("UPDATE meta SET head_number = head_number - 1", r"The ledger's head is batch"),
    "a deleted head": ("DELETE FROM meta", r"The ledger's head is missing"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_tampering_is_named(data: Path, case: str) -> None:
    """One changed or missing row, and the report says which."""
    statement, sentence = SPOILT[case]
    spoil(data, statement)

    report = verify(data)

    assert not report.ok
    assert any(re.search(sentence, problem) for problem in report.problems), report.problems


def forge(data: Path) -> tuple[int, list[str]]:
    """Move a transfer's time, which no sum notices, and recompute its checksum."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    row = list(connection.execute("SELECT * FROM transfer WHERE seq = 3").fetchone())
    connection.close()
    row[7] += 1
    crc = crc_of(row_text("transfer", row[:-1]))
    return row[8], [f"UPDATE transfer SET ts_ns = {row[7]}, crc = {crc} WHERE seq = 3"]


def test_a_forged_checksum_does_not_hide_a_forged_row(data: Path) -> None:
    """Even with its checksum recomputed, a changed row breaks the batch's hash."""
    number, statements = forge(data)
    spoil(data, *statements)

    report = verify(data)

    assert any(f"Batch {number} does not match" in problem for problem in report.problems)


def test_a_forged_batch_does_not_hide_a_forged_row(data: Path) -> None:
    """Even with its batch's hash recomputed, the batch after it no longer follows."""
    number, statements = forge(data)
    spoil(data, *statements)
    connection = sqlite3.connect(data / LEDGER_FILE)
    (before,) = connection.execute(f"SELECT hash FROM batch WHERE number = {number - 1}").fetchone()
    head = connection.execute(f"SELECT * FROM batch WHERE number = {number}").fetchone()[:-1]
    texts = [
        sealed_text(kind, row[:-2], row[-2])
        for kind, columns in JOURNALS.items()
        for row in connection.execute(
            f"SELECT {', '.join(columns)} FROM {kind} WHERE batch = {number}"
        )
    ]
    connection.close()
    spoil(
        data,
        f"UPDATE batch SET hash = x'{batch_hash(before, head, texts).hex()}' "
        f"WHERE number = {number}",
    )

    assert [problem.split(" does")[0] for problem in verify(data).problems] == [
        f"Batch {number + 1}"
    ]


def test_no_flipped_byte_of_a_row_goes_unnoticed(data: Path) -> None:
    """Flip each byte in which the journal's ids are stored, one at a time, in the raw file."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    path = data / LEDGER_FILE
    clean = path.read_bytes()
    places = [found.start() + 4 for found in re.finditer(rb"req_[0-4]", clean)]
    assert len(places) >= 10

    for place in places:
        path.write_bytes(clean[:place] + bytes([clean[place] ^ 1]) + clean[place + 1 :])
        assert not verify(data).ok, place
    path.write_bytes(clean)
    assert verify(data).ok


def test_a_damaged_schema_is_a_finding(data: Path) -> None:
    """SQLite's own message may hold bytes that are no text; the report does."""
    path = data / LEDGER_FILE
    clean = path.read_bytes()
    place = clean.index(b"CREATE TABLE account")
    path.write_bytes(clean[:place] + b"\xff\xfe" + clean[place + 2 :])

    assert not verify(data).ok


def rebuild(data: Path, *statements: str) -> None:
    """Change the schema."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


UNGUARD = "DROP TRIGGER transfer_no_update"
WEAK = "BEGIN SELECT 1; END"
UNCHECKED = "UPDATE sqlite_schema SET sql = replace(sql, 'amount_nano > 0', '1') WHERE name = "
SCHEMAS = {
    "a trigger gone": (
        [UNGUARD],
        "The trigger transfer_no_update of the table transfer is missing.",
    ),
    "a trigger that guards nothing": (
        [UNGUARD, f"CREATE TRIGGER transfer_no_update BEFORE UPDATE ON transfer {WEAK}"],
        "The trigger transfer_no_update of the table transfer is not what the migrations made.",
    ),
    "a trigger of somebody else": (
        [f"CREATE TRIGGER skim AFTER INSERT ON transfer {WEAK}"],
        "The trigger skim of the table transfer is not one of coster's.",
    ),
    "an index gone": (
        ["DROP INDEX ix_api_key_owner"],
        "The index ix_api_key_owner of the table api_key is missing.",
    ),
    "a table gone": (["DROP TABLE quota"], "The table quota is missing."),
    "a CHECK gone": (
        ["PRAGMA writable_schema=1", f"{UNCHECKED}'transfer'"],
        "The table transfer is not what the migrations made.",
    ),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_lost_guard_is_named(data: Path, case: str) -> None:
    """The rows still add up, but what keeps them so is gone: red, and nothing else is."""
    statements, sentence = SCHEMAS[case]
    rebuild(data, *statements)

    assert verify(data).problems == [sentence]


def test_a_lost_journal_is_named(data: Path) -> None:
    """Without its table the audit cannot go on; the report says which one is missing."""
    rebuild(data, "DROP TABLE request")

    assert "The table request is missing." in verify(data).problems


def test_what_an_operator_adds_for_reading_harms_nobody(data: Path) -> None:
    """An index for a report and the statistics of ANALYZE leave the books green."""
    rebuild(data, "CREATE INDEX by_machine ON request (machine)", "ANALYZE")

    assert verify(data).problems == []


def test_books_of_a_newer_version_are_not_guessed_at(data: Path) -> None:
    """One sentence says so, and no count pretends that they were read."""
    rebuild(data, "UPDATE alembic_version SET version_num = '9999'")

    report = verify(data)

    (problem,) = report.problems
    assert "newer version of coster (schema 9999; this one knows up to 0004)" in problem
    assert report.counts == {}


def test_a_copy_is_verified_by_its_own_name(data: Path, tmp_path: Path) -> None:
    """A backup is audited as the file it is, not as the ledger beside it."""
    copy = Path(shutil.copy(data / LEDGER_FILE, data / "copy.sqlite3"))
    spoil(data, "UPDATE transfer SET amount_nano = 1 WHERE seq = 3")

    assert verify_file(copy).ok
    assert not verify_file(data / LEDGER_FILE).ok
    with pytest.raises(StorageError, match="no ledger file"):
        verify_file(tmp_path / "none.sqlite3")


def test_a_file_cut_short_is_a_finding(data: Path) -> None:
    """A damaged file gets a report, not a traceback."""
    path = data / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:9_000])

    report = verify(data)

    assert not report.ok
    assert report.problems


def test_the_journal_guards_itself(data: Path) -> None:
    """Plain SQL can neither change nor delete what is final."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    for statement in (
        "UPDATE transfer SET amount_nano = 1",
        "DELETE FROM transfer",
        "UPDATE request SET cost_nano = 0",
        "DELETE FROM request",
        "UPDATE batch SET hash = zeroblob(32)",
        "DELETE FROM operation",
        "UPDATE account SET owner = 'acct_thief'",
        "DELETE FROM account",
        "UPDATE hold SET price_in_nano = 0",
    ):
        with pytest.raises(sqlite3.IntegrityError, match=r"final|never deleted"):
            connection.execute(statement)
    connection.close()


def test_a_folder_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    """There is nothing to verify, and nothing is created."""
    with pytest.raises(StorageError, match="no ledger"):
        verify(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_books_are_verified_while_the_market_runs(tmp_path: Path) -> None:
    """Audits during commits see one consistent picture, and stop nothing."""
    bench = await start(tmp_path / "data")
    running = True

    async def trade(lane: int) -> int:
        count = 0
        while running:
            await bench.do(bench.admit(f"req_{lane}_{count}"))
            await bench.do(bench.settle(f"req_{lane}_{count}"))
            count += 1
        return count

    lanes = [asyncio.create_task(trade(lane)) for lane in range(8)]
    reports = [await bench.accountant.verify() for _ in range(5)]
    running = False
    counts = await asyncio.gather(*lanes)
    await bench.accountant.stop()

    assert [report.problems for report in reports] == [[]] * 5
    assert verify(tmp_path / "data").counts["requests"] == sum(counts)
