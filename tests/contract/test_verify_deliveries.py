"""The audit over answers by several Macs: green as written, red and by name when touched."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from beancount import loader
from beancount.core import data as core

from market.accounting.chart import LEGS_PER_MAC
from market.accounting.exports import Selection
from market.accounting.rows import DeliveryRow
from market.messages import Part
from market.types import AccountId, MachineId, ProviderId
from storage.backup import backup
from storage.database import LEDGER_FILE, migrate
from storage.export import export_lines
from storage.opening import open_rows
from storage.postgres import Address
from storage.restore import restore
from storage.verify import verify
from tests.contract.test_migrations import run
from tests.contract.test_verify import spoil
from tests.support.places import Place
from tests.support.postgres import Postgres

OTHER = AccountId("acct_other")


async def fill(place: Place) -> None:
    """Ordinary requests, one below the market's price, two over several Macs; one still open."""
    bench = await place.start(fee_bps=500)

    def part(tokens: int, ask_pct: int) -> Part:
        return Part(OTHER, MachineId("mac_9"), ProviderId("prv_9"), tokens, ask_pct)

    for number in range(6):
        await bench.do(bench.admit(f"req_{number}"))
    await bench.do(bench.settle("req_0"))
    await bench.do(replace(bench.settle("req_1"), before=(part(100, 95),)))
    await bench.do(replace(bench.settle("req_2"), ask_pct=90))
    await bench.do(replace(bench.settle("req_3"), before=(part(50, 100), part(0, 7), part(1, 99))))
    await bench.do(bench.settle("req_4"))
    await bench.accountant.stop()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy") / "data"
    asyncio.run(fill(Place(folder, "")))
    return folder


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(healthy, tmp_path / "data"))


def test_healthy_books_balance(data: Path) -> None:
    """No problem; the deliveries are counted beside the requests."""
    report = verify(data)

    assert report.problems == []
    assert (report.counts["requests"], report.counts["deliveries"]) == (5, 7)
    totals = report.totals_nano
    assert totals["spent"] == totals["providers"] + totals["fees"]


def test_books_without_such_answers_do_not_speak_of_them(tmp_path: Path) -> None:
    """Nothing of it reaches an operator who has none."""

    async def quiet() -> None:
        bench = await Place(tmp_path, "").start()
        await bench.do(bench.admit("req_1"), bench.settle("req_1"))
        await bench.accountant.stop()

    asyncio.run(quiet())
    assert "deliveries" not in verify(tmp_path).counts


WHERE = "WHERE request_id = 'req_1' AND number = 0"
SPOILT = {
    **{
        f"a delivery's {column}": (
            f"UPDATE delivery SET {column} = {column} + 1 {WHERE}",
            r"The delivery \d+ \(req_1\) was changed after it was written",
        )
        for column in ("completion_tokens", "ask_pct", "price_out_nano", "fee_nano", "batch", "crc")
    },
    **{
        f"a delivery's {column}": (
            f"UPDATE delivery SET {column} = 'thief' {WHERE}",
            r"The delivery \d+ \(req_1\) was changed after it was written",
        )
        for column in ("payee", "machine", "provider")
    },
    "a deleted delivery": (
        f"DELETE FROM delivery {WHERE}",
        r"The delivery 1 of batch \d+ is missing",
    ),
    "the last delivery of an answer deleted": (
        "DELETE FROM delivery WHERE request_id = 'req_1' AND number = 1",
        r"The request req_1 says that it has 2 deliveries; there are: 0",
    ),
    "all deliveries of an answer deleted": (
        "DELETE FROM delivery WHERE request_id = 'req_1'",
        r"The request req_1 says that it has 2 deliveries; there are: none",
    ),
    "the very last delivery deleted": (
        "DELETE FROM delivery WHERE seq = (SELECT max(seq) FROM delivery)",
        r"The delivery 7 of batch \d+ is missing",
    ),
    "a request's number of deliveries": (
        "UPDATE request SET deliveries = NULL WHERE request_id = 'req_1'",
        r"The request \d+ \(req_1\) was changed after it was written",
    ),
    "an absurd number of deliveries": (
        f"UPDATE request SET deliveries = {2**62} WHERE request_id = 'req_1'",
        r"The request \d+ \(req_1\) was changed after it was written",
    ),
    "a request made one with deliveries": (
        "UPDATE request SET deliveries = 1 WHERE request_id = 'req_0'",
        r"The request req_0 says that it has 1 deliveries; there are: none",
    ),
    "a delivery of another request": (
        f"UPDATE delivery SET request_id = 'req_0' {WHERE}",
        r"The delivery \d+ \(req_0\) was changed after it was written",
    ),
    "another Mac's transfer": (
        f"UPDATE transfer SET leg = leg + {LEGS_PER_MAC * 5} WHERE id = 'req_1' AND leg = 0",
        r"The transfers of req_1 pay for a delivery 5 that is not there",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_tampering_is_named(data: Path, case: str) -> None:
    """One changed or missing row, and the report says which."""
    statement, sentence = SPOILT[case]
    spoil(data, statement)

    problems = verify(data).problems

    assert any(re.search(sentence, problem) for problem in problems), problems


def test_a_delivery_slipped_into_an_old_batch_is_seen(data: Path) -> None:
    """Its number is new though its batch is old, so every audit meets it."""
    columns = ", ".join(["seq", *DeliveryRow._fields, "batch", "crc"])
    chosen = columns.replace("seq", "99", 1).replace("number", "9").replace("batch", "2")
    spoil(data, f"INSERT INTO delivery ({columns}) SELECT {chosen} FROM delivery {WHERE}")

    for full in (True, False):
        assert any("delivery 99 (req_1)" in problem for problem in verify(data, full=full).problems)


def test_the_journal_guards_itself(data: Path) -> None:
    """Plain SQL can neither change nor delete a delivery; a hold's progress it may."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    for statement in ("UPDATE delivery SET payee = 'x'", "DELETE FROM delivery"):
        with pytest.raises(sqlite3.IntegrityError, match="delivery rows are final"):
            connection.execute(statement)
    for cells in ("ask_pct = 101", "cost_nano = cost_nano + 1", "cached_tokens = -1"):
        connection.execute("DROP TRIGGER IF EXISTS delivery_no_update")
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            connection.execute(f"UPDATE delivery SET {cells}")
    connection.execute("UPDATE hold SET ask_pct = 50, parts = ''")
    connection.close()


def test_a_schema_without_a_guard_of_deliveries_is_red(data: Path) -> None:
    """What keeps them final is compared with what the migrations made."""
    connection = sqlite3.connect(data / LEDGER_FILE)
    connection.execute("DROP TRIGGER delivery_no_delete")
    connection.commit()
    connection.close()

    assert verify(data).problems == [
        "The trigger delivery_no_delete of the table delivery is missing."
    ]


async def test_an_audit_may_begin_between_such_answers(tmp_path: Path) -> None:
    """Both ways tell the same story; only one of them has replayed it all."""
    place = Place(tmp_path, "")
    await fill(place)
    bench = await place.start(fee_bps=500)
    lost = (Part(OTHER, MachineId("mac_9"), ProviderId("prv_9"), 30, 95),)
    await bench.do(bench.admit("req_6"), replace(bench.settle("req_6"), before=lost))
    await bench.accountant.stop()

    quick, full = verify(tmp_path, full=False), verify(tmp_path)

    assert (quick.problems, quick.counts["deliveries"]) == ([], 9)
    assert (quick.counts, quick.totals_nano) == (full.counts, full.totals_nano)
    assert quick.checkpoint == full.checkpoint
    assert quick.since_batch > full.since_batch == 0
    spoil(tmp_path, "UPDATE delivery SET ask_pct = 94 WHERE request_id = 'req_6' AND number = 0")
    assert not verify(tmp_path, full=False).ok


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def filled(database: str, tmp_path: Path) -> Place:
    place = Place(tmp_path / "data", database)
    await fill(place)
    return place


@pytest.fixture
async def owner(filled: Place, postgres: Postgres) -> AsyncIterator[asyncpg.Connection]:
    name = Address.of(filled.database).name.rpartition("/")[2]
    connection = await postgres.connect(name, "coster")
    yield connection
    await connection.close()


async def test_postgresql_s_journal_is_audited_and_guards_itself(
    filled: Place, owner: asyncpg.Connection, subtests: pytest.Subtests
) -> None:
    """The same rows, the same sentences, and no way round them for whoever owns the tables."""
    assert filled.verify().problems == []
    assert filled.verify().counts["deliveries"] == 7
    for statement in (
        "UPDATE delivery SET payee = 'x'",
        "DELETE FROM delivery",
        "TRUNCATE delivery",
    ):
        with subtests.test(statement), pytest.raises(asyncpg.RestrictViolationError, match="final"):
            await owner.execute(statement)
    await owner.execute("UPDATE hold SET ask_pct = 50, parts = ''")
    for statement, sentence in (SPOILT["a delivery's payee"], SPOILT["a deleted delivery"]):
        with subtests.test(statement):
            await owner.execute("ALTER TABLE delivery DISABLE TRIGGER USER")
            await owner.execute(statement)
            await owner.execute("ALTER TABLE delivery ENABLE TRIGGER USER")
            problems = filled.verify().problems
            assert any(re.search(sentence, problem) for problem in problems), problems


# ── older books, copies, other programs ───────────────────────────────────────────────


async def test_books_from_before_deliveries_are_brought_forward_as_they_are(tmp_path: Path) -> None:
    """Every hash, sum and open hold stays; the chain goes on over the change of schema."""
    place = Place(tmp_path, "")
    bench = await place.start(fee_bps=500)
    for number in range(3):
        await bench.do(bench.admit(f"req_{number}"))
    await bench.do(bench.settle("req_0"))
    await bench.accountant.stop()
    before = verify(tmp_path)
    run(tmp_path / LEDGER_FILE, "downgrade", "0002")

    migrate(tmp_path / LEDGER_FILE, 7)

    assert verify(tmp_path) == before
    assert before.ok
    bench = await place.start(fee_bps=500)
    op = replace(bench.settle("req_1"), before=(Part(OTHER, MachineId("m"), ProviderId("p"), 9),))
    await bench.do(op, bench.settle("req_2"))
    await bench.accountant.stop()
    assert verify(tmp_path).problems == []
    assert verify(tmp_path).counts["deliveries"] == 2


async def test_a_backup_holds_them_and_a_restore_brings_them_back(
    data: Path, tmp_path: Path
) -> None:
    """The copy is audited with them, and so is what is restored from it."""
    before = verify(data)
    made = backup(data, now_ns=1_800_000_000 * 10**9, out=tmp_path / "copy.sqlite3")
    assert made.report.counts["deliveries"] == 7

    restored = await restore(tmp_path / "other", made.path, now_ns=1)

    assert restored.report == before
    spoil(data, SPOILT["a delivery's payee"][0])
    with pytest.raises(Exception, match=r"not sound.*req_1\) was changed"):
        backup(data, now_ns=1, out=tmp_path / "bad.sqlite3")


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest) -> Place:
    if request.param == "postgres":
        place: Place = request.getfixturevalue("filled")
        return place
    return Place(request.getfixturevalue("data"), "")


def test_an_export_says_which_mac_a_transfer_pays_and_what_it_asks(books: Place) -> None:
    """In every form, for these answers alone; beancount agrees with every balance."""
    rows = open_rows(books.data, books.database)
    text, lines, table = (
        "".join(export_lines(rows, form, Selection())) for form in ("beancount", "jsonl", "csv")
    )
    deliveries = {(row[1], row[2]): DeliveryRow(*row[1:-2]) for row in rows.journal("delivery")}
    rows.close()
    told = [json.loads(line) for line in lines.splitlines()]
    cells = list(csv.DictReader(io.StringIO(table)))

    entries, errors, _ = loader.load_string(text)
    assert errors == []
    shares: dict[tuple[str, int], int] = {}
    for line, row in zip(told, cells, strict=True):
        assert {name: str(cell) for name, cell in line.items()} == row
        if line["delivery"] != "":
            key = (line["id"], line["delivery"])
            assert line["ask_pct"] == deliveries[key].ask_pct
            shares[key] = shares.get(key, 0) + int(line["amount_nano_usd"])
        else:
            assert line["id"] not in {request_id for request_id, _ in deliveries}
    assert shares == {
        key: delivery.cost_nano for key, delivery in deliveries.items() if delivery.cost_nano
    }
    meta = [
        (entry.meta["delivery"], entry.meta["ask_pct"])
        for entry in entries
        if isinstance(entry, core.Transaction) and "delivery" in entry.meta
    ]
    assert [(int(number), int(ask)) for number, ask in meta] == [
        (line["delivery"], line["ask_pct"]) for line in told if line["delivery"] != ""
    ]
