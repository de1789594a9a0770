"""The audit of a PostgreSQL ledger: it sees what was done behind our back, and so do its guards.

The audit itself is the one of SQLite and is tried there in full; here it is shown that every
kind of row reaches it, and that the schema's guards are compared with what they must be.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from market.accounting.state_rows import KEY_FIELDS, OwnerRow
from market.messages import Void
from market.types import RequestId
from storage.opening import open_reads, open_rows, verify_ledger
from storage.postgres import Address
from storage.postgres_migrations import revision_of
from storage.postgres_schema import schema_problems
from storage.private_loop import PrivateLoop
from storage.statements import JOURNALS
from tests.contract.test_verify import SPOILT
from tests.support.places import Place
from tests.support.postgres import Postgres

REACHED = (
    "a transfer's amount",
    "the last transfer deleted",
    "an altered balance",
    "an account's owner",
    "a request's payee",
    "an open hold",
    "an operation",
    "a batch's hash",
    "a deleted batch",
    "a deleted head",
)


async def fill(place: Place) -> None:
    """Settled, voided and open requests, over several batches."""
    bench = await place.start(fee_bps=500)
    for number in range(6):
        await bench.do(bench.admit(f"req_{number}"))
    for number in range(4):
        await bench.do(bench.settle(f"req_{number}", 100 + number))
    await bench.do(Void(RequestId("req_4"), "no provider"))
    await bench.accountant.create_account("Ann", idempotency="once")
    await bench.accountant.stop()


@pytest.fixture
async def filled(database: str, tmp_path: Path) -> Place:
    place = Place(tmp_path / "data", database)
    await fill(place)
    return place


async def test_both_databases_hold_the_same_ledger(
    filled: Place, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """What one program does is the same rows, sums and report on SQLite and on PostgreSQL."""
    other = Place(tmp_path / "other", "")
    await fill(other)
    ours, theirs = open_rows(filled.data, filled.database), open_rows(other.data)

    def untimed(row: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(cell for cell in row if not (isinstance(cell, int) and cell > 10**9))

    with subtests.test("report"):
        assert filled.verify().problems == []
        assert filled.verify().counts == other.verify().counts
        assert filled.verify().totals_nano == other.verify().totals_nano
    for kind in JOURNALS:
        with subtests.test(kind):
            rows = list(ours.journal(kind))  # type: ignore[arg-type]
            assert len(rows) == len(list(theirs.journal(kind)))  # type: ignore[arg-type]
            assert list(ours.journal(kind, after=2)) == [r for r in rows if r[0] > 2]  # type: ignore[arg-type]
    with subtests.test("present"):
        assert [a.available_nano for a in ours.accounts()] == [
            a.available_nano for a in theirs.accounts()
        ]
        assert [hold.terms.request_id for hold in ours.holds()] == ["req_5"]
        assert len(list(ours.state(OwnerRow))) == 3
        assert all(list(ours.state(kind)) is not None for kind in KEY_FIELDS)  # type: ignore[type-var]
        assert next(ours.batches(after=3)).number == 4
    ours.close()
    theirs.close()


async def test_a_reader_sees_one_moment(filled: Place) -> None:
    """What is committed meanwhile does not reach a picture that was taken before."""
    rows = open_rows(filled.data, filled.database)
    before = rows.meta()
    bench = await filled.start()
    await bench.do(bench.settle("req_5"))
    await bench.accountant.stop()

    assert rows.meta() == before
    assert [hold.terms.request_id for hold in rows.holds()] == ["req_5"]
    rows.close()
    assert open_meta(filled) != before


def open_meta(place: Place) -> object:
    rows = open_rows(place.data, place.database)
    try:
        return rows.meta()
    finally:
        rows.close()


async def test_tampering_is_named(filled: Place, postgres: Postgres) -> None:
    """One changed or missing row of each kind, its guards off meanwhile, and it is named."""
    name = Address.of(filled.database).name.rpartition("/")[2]
    for case in REACHED:
        statement, sentence = SPOILT[case]
        statement = statement.replace("zeroblob(32)", "decode(repeat('00', 32), 'hex')")
        copy = await postgres.new_database(name)
        connection = await postgres.connect(copy)
        for (table,) in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = "
            "'public'::regnamespace"
        ):
            await connection.execute(f'ALTER TABLE "{table}" DISABLE TRIGGER ALL')
        done = await connection.execute(statement)
        await connection.close()

        problems = verify_ledger(filled.data, postgres.url(copy)).problems

        assert not done.endswith(" 0")
        assert any(re.search(sentence, problem) for problem in problems), (case, problems)


@pytest.fixture
async def owner(database: str, postgres: Postgres) -> AsyncIterator[asyncpg.Connection]:
    """A session of the very role that the market uses."""
    connection = await postgres.connect(database.rpartition("/")[2], "coster")
    yield connection
    await connection.close()


FINAL = (
    "UPDATE transfer SET amount_nano = 1",
    "DELETE FROM transfer",
    "TRUNCATE transfer",
    "UPDATE request SET cost_nano = 0",
    "DELETE FROM request",
    "TRUNCATE request CASCADE",
    "UPDATE batch SET number = 1",
    "DELETE FROM batch",
    "TRUNCATE batch",
    "UPDATE operation SET key = ''",
    "DELETE FROM operation",
    "TRUNCATE operation",
    "UPDATE account SET owner = 'acct_thief'",
    "DELETE FROM account",
    "TRUNCATE account",
    "UPDATE hold SET price_in_nano = 0",
    "UPDATE hold SET price_cached_nano = 0",
    "INSERT INTO batch SELECT * FROM batch ON CONFLICT (number) DO UPDATE SET ts_ns = 2",
)


async def test_the_journal_guards_itself(
    owner: asyncpg.Connection, subtests: pytest.Subtests
) -> None:
    """Plain SQL can neither change, delete nor empty what is final."""
    for statement in FINAL:
        with (
            subtests.test(statement),
            pytest.raises(asyncpg.RestrictViolationError, match=r"final|never deleted"),
        ):
            await owner.execute(statement)
    await owner.execute("UPDATE hold SET ckpt_prompt_tokens = 1")
    await owner.execute("UPDATE account SET dp = 0")


async def test_a_session_without_triggers_is_refused_too(database: str, postgres: Postgres) -> None:
    """The guards also hold where replication's own setting has put ordinary triggers off."""
    connection = await postgres.connect(database.rpartition("/")[2])
    await connection.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("DELETE FROM transfer")
    await connection.close()


async def test_checks_hold(owner: asyncpg.Connection, subtests: pytest.Subtests) -> None:
    """A negative balance, an amount of nothing and a second head cannot be written."""
    for statement in (
        "INSERT INTO account VALUES (1, 2100, 'a', 1, 0, 5, 0, 0, 0)",
        "INSERT INTO transfer VALUES (1, 'x', 0, 1, 2, 0, 1, 0, 1, 0)",
        "INSERT INTO meta VALUES (2, 0, 0, '', 0)",
    ):
        with subtests.test(statement), pytest.raises(asyncpg.CheckViolationError):
            await owner.execute(statement)


SCHEMAS = {
    "DROP TRIGGER transfer_no_update ON transfer": (
        "The trigger transfer_no_update of the table transfer is missing."
    ),
    "ALTER TABLE transfer DISABLE TRIGGER transfer_no_update": (
        "The trigger transfer_no_update of the table transfer is not what the migrations made."
    ),
    "CREATE OR REPLACE FUNCTION coster_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NULL; END'": ("The function coster_refuse is not what the migrations made."),
    "CREATE TRIGGER skim AFTER INSERT ON transfer EXECUTE FUNCTION coster_refuse('x')": (
        "The trigger skim of the table transfer is not one of coster's."
    ),
    "CREATE RULE lose AS ON INSERT TO transfer DO INSTEAD NOTHING": (
        "The rule lose of the table transfer is not one of coster's."
    ),
    "DROP INDEX ix_api_key_owner": "The index ix_api_key_owner of the table api_key is missing.",
    "ALTER TABLE transfer DROP CONSTRAINT uq_transfer_id_leg": (
        "The constraint uq_transfer_id_leg of the table transfer is missing."
    ),
    "ALTER TABLE hold DROP CONSTRAINT ck_hold_fee, ADD CONSTRAINT ck_hold_fee CHECK (n > 0)": (
        "The constraint ck_hold_fee of the table hold is not what the migrations made."
    ),
    "ALTER TABLE quota SET UNLOGGED": "The table quota is not what the migrations made.",
    "ALTER TABLE hold ENABLE ROW LEVEL SECURITY": (
        "The table hold is not what the migrations made."
    ),
    "ALTER TABLE hold ALTER COLUMN n DROP NOT NULL": (
        "The table hold is not what the migrations made."
    ),
}


def test_a_lost_guard_is_named(
    database: str, postgres: Postgres, subtests: pytest.Subtests
) -> None:
    """Whatever keeps the rows as they are is compared with what the migrations make."""
    address = Address.of(database)
    with PrivateLoop() as loop:
        connection = loop.run(postgres.connect(database.rpartition("/")[2], "coster"))
        revision = loop.run(revision_of(connection, address))
        assert revision is not None
        for statement, sentence in SCHEMAS.items():
            loop.run(connection.execute("BEGIN"))
            loop.run(connection.execute(statement))
            with subtests.test(statement[:40]):
                found = schema_problems(loop, connection, address, revision)
                assert found == [sentence]
            loop.run(connection.execute("ROLLBACK"))
        assert schema_problems(loop, connection, address, revision) == []
        loop.run(connection.close())


async def test_what_an_operator_adds_for_reading_harms_nobody(
    filled: Place, owner: asyncpg.Connection
) -> None:
    """An index, a view, a table and a trigger on that table leave the books green."""
    for statement in (
        "CREATE INDEX by_machine ON request (machine)",
        "CREATE VIEW spent AS SELECT owner, sum(cost_nano) FROM request GROUP BY owner",
        "CREATE TABLE notes (x int)",
        "CREATE TRIGGER mine BEFORE DELETE ON notes EXECUTE FUNCTION coster_refuse('x')",
        "ANALYZE",
    ):
        await owner.execute(statement)

    assert filled.verify().problems == []


async def test_the_audit_leaves_nothing_behind(filled: Place, owner: asyncpg.Connection) -> None:
    """No schema, no table and no row is there afterwards that was not there before."""
    schemas = "SELECT nspname FROM pg_namespace ORDER BY nspname"
    before = await owner.fetch(schemas)
    assert filled.verify().ok

    assert await owner.fetch(schemas) == before


async def test_a_lost_journal_is_named(filled: Place, owner: asyncpg.Connection) -> None:
    """Without its table the audit cannot go on; the report says which one is missing."""
    await owner.execute("DROP TABLE request")

    assert "The table request is missing." in filled.verify().problems


async def test_an_empty_database_is_a_finding(postgres: Postgres, tmp_path: Path) -> None:
    """Nothing is in it, and nothing is made."""
    url = postgres.url(await postgres.new_database())

    (problem,) = verify_ledger(tmp_path, url).problems
    assert "is empty: all its tables are missing" in problem


async def test_books_are_verified_while_the_market_runs(database: str, tmp_path: Path) -> None:
    """Audits during commits see one consistent picture, and stop nothing."""
    place = Place(tmp_path / "data", database)
    bench = await place.start()
    running = True

    async def trade(lane: int) -> int:
        count = 0
        while running:
            await bench.do(bench.admit(f"req_{lane}_{count}"))
            await bench.do(bench.settle(f"req_{lane}_{count}"))
            count += 1
        return count

    lanes = [asyncio.create_task(trade(lane)) for lane in range(4)]
    reports = [await bench.accountant.verify() for _ in range(3)]
    running = False
    counts = await asyncio.gather(*lanes)
    await bench.accountant.stop()

    assert [report.problems for report in reports] == [[]] * 3
    assert place.verify().counts["requests"] == sum(counts)


async def test_reads_beside_the_writer_cannot_write(filled: Place) -> None:
    """They see each commit, and the server itself refuses them anything else."""
    reads = open_reads(filled.data, filled.database)
    try:
        row = await reads.generation(RequestId("req_1"))
        assert row is not None
        assert (await reads.usage(row.owner, 2))[0].request_id == "req_3"
        async with reads._engine.connect() as connection:
            with pytest.raises(Exception, match="read-only transaction"):
                await connection.exec_driver_sql("DELETE FROM hold")
    finally:
        await reads.close()
