"""A recount of the journal finds the sums as they are, and names each that was changed."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy.engine import Connection

from market.accounting.folding import Folding
from market.accounting.reading import UNFOLDED
from market.accounting.recount import Recount
from market.accounting.rollups import LIFE_S, MACHINE_SPANS_S, USE_SPANS_S, WorkKey
from market.accounting.rows import Changes
from market.accounting.state_rows import FoldedRow
from market.accounting.store import LedgerStore
from market.types import AccountId, MachineId, ModelId
from storage import postgres as connections
from storage.database import LEDGER_FILE, alembic_config, migration_engine
from storage.ledger_store import SqliteLedgerStore
from storage.opening import open_rows
from storage.postgres import Address
from storage.postgres_store import PostgresLedgerStore
from storage.recounting import recount
from storage.rollup_statements import SIDES
from tests.support.past import NS, Past
from tests.support.places import Place


async def open_store(place: Place) -> LedgerStore:
    if place.database:
        address = Address.of(place.database)
        return await PostgresLedgerStore.open(address, place.data, now_ns=1, locked=False)
    return await SqliteLedgerStore.open(place.data, now_ns=1, locked=False)


async def fill(place: Place, batches: int = 12, gap_s: float = 2_000.0) -> Past:
    """Requests over some days, mostly folded, the oldest minutes forgotten."""
    store, past = await open_store(place), Past(random.Random(11))
    for number in range(batches):
        changes = past.batch(8, gap_s)
        folding = Folding((await store.load()).rows(FoldedRow))
        if number % 3 == 0:
            folding.fold(folding.to_fold(past.now_ns // NS)[1], changes)
        await store.commit(changes)
    changes = Changes(last_ts_ns=past.now_ns)
    folding.forget(past.rows[4].finished_ns // NS // 60 * 60, changes)
    await store.commit(changes)
    await store.close()
    return past


def problems(place: Place) -> list[str]:
    """What the recount says, without the audit around it."""
    from market.accounting.audit import VerifyReport

    report, rows = VerifyReport(), open_rows(place.data, place.database)
    try:
        recount(rows, report)
    finally:
        rows.close()
    assert report.sums is not None
    assert report.sums > 50
    return report.problems


async def run_sql(place: Place, *statements: str) -> None:
    """Behind the market's back."""

    def run(connection: Connection) -> None:
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount >= 1

    await within(place, run)


async def within(place: Place, work: Callable[[Connection], Any]) -> Any:
    if not place.database:
        sync_engine = migration_engine(place.data / LEDGER_FILE)
        with sync_engine.begin() as connection:
            result = work(connection)
        sync_engine.dispose()
        return result
    engine = connections.engine(Address.of(place.database), "test")
    try:
        async with engine.begin() as session:
            return await session.run_sync(work)
    finally:
        await engine.dispose()


ONE = "span_s = {0} AND start_s = (SELECT min(start_s) FROM work_sum WHERE span_s = {0})"
SPOILT = {
    "a minute made more": (
        "UPDATE work_sum SET earned_nano = earned_nano + 1 WHERE " + ONE.format(60),
        r"The sums of the minute \d{4}-\d\d-\d\d \d\d:\d\d of .* earned_nano \d+ where the journal",
    ),
    "an hour deleted": (
        "DELETE FROM work_sum WHERE " + ONE.format(3600),
        r"The sums of the hour .* are missing",
    ),
    "a day moved": (
        "UPDATE work_sum SET start_s = start_s + 86400000 WHERE " + ONE.format(86400),
        r"The sums of the day .* are kept; nothing in the journal is of it",
    ),
    "all time of a payee made less": (
        "UPDATE work_sum SET jobs = jobs - 1 WHERE span_s = 0 AND payee = 'acct_x'",
        r"The sums of all time of .*, acct_x, .* say jobs \d+ where the journal says",
    ),
    "a caller's hour given to another": (
        "UPDATE use_sum SET owner = 'acct_eve' WHERE span_s = 3600 AND owner = 'acct_ann'",
        r"The sums of the hour .* of key_acct_ann_\d, acct_eve, .* are kept; nothing",
    ),
    "a failure forgotten": (
        "UPDATE use_sum SET failures = failures - 1 WHERE span_s = 0 AND failures > 0",
        r"The sums of all time of key_.* say failures \d+ where",
    ),
    "folded further than it was": (
        "UPDATE folded SET to_s = to_s + 86400",
        r"The sums of the hour .* are missing",
    ),
}


async def test_sums_are_found_as_they_were_counted_and_each_change_is_named(place: Place) -> None:
    """Right at first; then wrong in one place after the other, and right again when undone."""
    await fill(place)
    assert problems(place) == []
    for statement, sentence in SPOILT.values():
        kept = await within(place, tables)
        await run_sql(place, statement)
        found = problems(place)
        assert any(re.match(sentence, problem) for problem in found), (statement, found)
        await within(place, lambda connection, kept=kept: put_back(connection, kept))  # type: ignore[misc]
    assert problems(place) == []


TABLES = [*(side.table for side in SIDES), "folded"]


def tables(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {
        name: sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}"))
        for name in TABLES
    }


def put_back(connection: Connection, kept: dict[str, list[tuple[Any, ...]]]) -> None:
    for name, rows in kept.items():
        connection.exec_driver_sql(f"DELETE FROM {name}")
        for row in rows:
            cells = ", ".join(repr(cell) for cell in row)
            connection.exec_driver_sql(f"INSERT INTO {name} VALUES ({cells})")


async def test_books_from_before_there_were_sums_get_them_all(place: Place) -> None:
    """The migration counts what is there: as if the sums had always been kept."""
    await fill(place)
    store = await open_store(place)
    changes = Changes(last_ts_ns=(await store.load()).last_ts_ns)
    folding = Folding((await store.load()).rows(FoldedRow))
    folding.fold(folding.to_fold(changes.last_ts_ns // NS)[1], changes)
    await store.commit(changes)
    await store.close()
    kept = await within(place, tables)

    def there_and_back(connection: Connection) -> None:
        config = alembic_config(connection)
        command.downgrade(config, "0003")
        command.upgrade(config, "head")

    await within(place, there_and_back)

    counted = await within(place, tables)
    assert problems(place) == []
    minutes_from_s = kept["folded"][0][2]
    assert minutes_from_s > 0
    assert counted["folded"] == [(1, kept["folded"][0][1], 0)]
    assert counted["use_sum"] == kept["use_sum"]
    young = [row for row in counted["work_sum"] if row[0] != 60 or row[1] >= minutes_from_s]
    assert young == kept["work_sum"]


async def test_the_whole_audit_counts_too_and_the_quick_one_does_not(place: Place) -> None:
    """`--full` finds a wrong sum, `--rollups` finds it, and neither costs the quick audit."""
    bench = await place.start()
    await bench.do(bench.admit("req_1"))
    await bench.do(bench.settle("req_1"))
    await bench.accountant.stop()
    from storage.opening import verify_ledger

    assert verify_ledger(place.data, place.database).sums == 2
    await run_sql(place, "UPDATE work_sum SET cached_tokens = 7")
    for full, rollups in ((True, False), (False, True)):
        report = verify_ledger(place.data, place.database, full=full, rollups=rollups)
        assert [p.partition(" say ")[2] for p in report.problems] == [
            "cached_tokens 7 where the journal says 0."
        ]
        assert report.checkpoint is None
    quick = verify_ledger(place.data, place.database, full=False)
    assert (quick.ok, quick.sums) == (True, None)


def test_a_damaged_beginning_is_named_too(tmp_path: Path) -> None:
    """A number that is no time at all does not end the recount."""
    place = Place(tmp_path / "data", "")
    asyncio.run(fill(place))
    connection = sqlite3.connect(place.data / LEDGER_FILE)
    connection.execute(
        "UPDATE use_sum SET start_s = 9223372036854775807 WHERE span_s = 86400 AND "
        "(owner, start_s, model, key_id) = "
        "(SELECT owner, start_s, model, key_id FROM use_sum WHERE span_s = 86400 LIMIT 1)"
    )
    connection.commit()
    connection.close()

    assert any("at second 9223372036854775807" in problem for problem in problems(place))


def test_a_damaged_span_is_named_too() -> None:
    """An index may still say "minute" of a row that says something else."""
    told: list[str] = []
    row = WorkKey(61, 120, ModelId("m"), MachineId("mac_1"), AccountId("acct_1"))
    work: dict[int, Iterator[tuple[WorkKey, Sequence[int]]]] = {60: iter([(row, (1,) * 20)])}
    counting = Recount(
        UNFOLDED,
        {span_s: work.get(span_s, iter(())) for span_s in (*MACHINE_SPANS_S, LIFE_S)},
        {span_s: iter(()) for span_s in (*USE_SPANS_S, LIFE_S)},
        told.append,
    )

    assert counting.finish() == 1
    (problem,) = told
    assert problem.startswith("The sums of the 61 seconds 1970-01-01 00:02 of mac_1, acct_1, m are")
