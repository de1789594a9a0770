"""Who may write, and what happens to a ledger that is not as we left it.

Two processes, two incarnations, and bits that flip on the disk. By default 150 flips;
COSTER_LONG=1 makes it 10,000.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.accountant import Accountant, AccountantSettings
from market.accounting.audit import PROBLEMS_MAX
from market.errors import Unavailable
from market.messages import Admitted
from storage.database import LEDGER_FILE, StorageError, connect_read_only, migrate
from storage.ledger_store import SqliteLedgerStore
from storage.verify import verify, verify_file
from tests.contract.test_verify import spoil
from tests.support.fuzz import Life
from tests.support.ledger_bench import start
from tests.support.sqlite_lab import plain_connection, store_over

ROOT = Path(__file__).resolve().parents[2]
FLIPS = 10_000 if os.environ.get("COSTER_LONG") == "1" else 150
Table = list[tuple[object, ...]]

HOLDER = """
import asyncio, sys
from pathlib import Path
from storage.folder_lock import FolderLock
async def hold():
    await FolderLock(Path(sys.argv[1])).acquire(1)
    print("locked", flush=True)
    await asyncio.sleep(600)
asyncio.run(hold())
"""

UNSEALED = {"api_key", "hold", "idempotency", "key_spend", "machine", "owner", "price", "quota"}
"""State that no checksum covers: of a hold only its progress, of the others every column."""


def test_a_folder_that_another_process_holds_is_refused_by_its_pid(tmp_path: Path) -> None:
    """The message names who has it; when that one is killed the next start succeeds."""
    data = tmp_path / "data"
    asyncio.run(open_and_close(data))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(StorageError, match=rf"in use by the process {holder.pid}\b"):
            asyncio.run(Accountant(AccountantSettings(data, lock_wait_s=0.1)).start())
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()

    asyncio.run(open_and_close(data))


async def open_and_close(data: Path) -> None:
    """An accountant that takes one request in."""
    bench = await start(data)
    (held,) = await bench.do(bench.admit("req_1"))
    await bench.accountant.stop()
    assert isinstance(held, Admitted)


async def test_without_a_lock_the_older_incarnation_writes_not_one_row_more(
    tmp_path: Path,
) -> None:
    """From the moment a second one has opened the ledger, everything the first says is no."""
    data = tmp_path / "data"
    bench = await start(data)
    await bench.do(bench.admit("req_0"), bench.admit("req_1"))
    second = await SqliteLedgerStore.open(data, now_ns=1, locked=False)
    before = tables(data / LEDGER_FILE)
    try:
        answers = await asyncio.gather(
            bench.do(bench.settle("req_0")),
            *(bench.do(bench.admit(f"req_late_{number}")) for number in range(50)),
        )
        after = tables(data / LEDGER_FILE)
    finally:
        await bench.accountant.stop()
        await second.close()

    assert all(isinstance(answer, Unavailable) for (answer,) in answers)
    assert after == before
    assert tables(data / LEDGER_FILE) == before
    assert verify(data).problems == []


def tables(path: Path) -> dict[str, Table]:
    """Every row of every table; raises sqlite3.DatabaseError when one cannot be read."""
    connection = connect_read_only(path)
    connection.text_factory = bytes
    try:
        names = [
            row[0].decode()
            for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in names
        }
    finally:
        connection.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a lively market: every kind of row that requests can make."""
    path = tmp_path_factory.mktemp("healthy") / LEDGER_FILE
    migrate(path, 1)
    connection = plain_connection(path)
    store = store_over(connection, path)
    life = Life(3, lambda: store)
    life.acts = [act for act in life.acts if act != life.restart]
    life.live(400, commit_every=5, check_every=400)
    connection.close()
    assert verify_file(path).problems == []
    return path


def test_a_flipped_bit_is_found_or_changes_nothing_that_is_sealed(
    healthy: Path, tmp_path: Path
) -> None:
    """Wherever a bit flips: the audit is red, or every sealed row still reads as it was."""
    data, good = healthy.read_bytes(), tables(healthy)
    used = [offset for offset, byte in enumerate(data) if byte]
    rng, path = random.Random(8), tmp_path / "flipped.sqlite3"
    found = harmless = unsealed = 0
    for _ in range(FLIPS):
        offset = rng.choice(used)
        flipped = bytearray(data)
        flipped[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if verify_file(path).ok:
            there = tables(path)
            changed = {name for name, rows in good.items() if there.get(name) != rows}
            if "meta" in changed and only_later(good["meta"][0], there["meta"][0]):
                changed.remove("meta")
            assert changed <= UNSEALED, f"the flip at {offset} went unseen in {changed}"
            unsealed += bool(changed)
            harmless += not changed
        else:
            found += 1
        for leftover in tmp_path.glob("flipped.sqlite3*"):
            leftover.unlink()
    print(f"\n{FLIPS} flips: {found} found, {harmless} harmless, {unsealed} in unsealed state")
    assert found > FLIPS // 2


def only_later(good: tuple[Any, ...], there: tuple[Any, ...]) -> bool:
    """Whether the epoch and the time alone differ, and are later: whoever opens next counts on."""
    (epoch, *end, time), (epoch_now, *end_now, time_now) = good[1:], there[1:]
    return end == end_now and epoch_now >= epoch and time_now >= time


@pytest.mark.parametrize("column", ["last_ts_ns = 1", "epoch = 0"])
def test_the_ledgers_time_and_epoch_are_those_of_its_last_batch(
    healthy: Path, tmp_path: Path, column: str
) -> None:
    """Another time would move every day and month to come; an earlier epoch lets the past write."""
    path = tmp_path / LEDGER_FILE
    path.write_bytes(healthy.read_bytes())
    spoil(tmp_path, f"UPDATE meta SET {column}")
    (problem,) = verify_file(path).problems
    assert problem.startswith(f"The ledger's {'time' if 'ts' in column else 'epoch'} is ")


@pytest.mark.parametrize("number", [2**40, 2**63 - 1, -1])
@pytest.mark.parametrize("column", ["number", "transfers", "requests"])
def test_an_absurd_number_is_a_finding_and_not_an_endless_audit(
    healthy: Path, tmp_path: Path, column: str, number: int
) -> None:
    """A batch that claims a trillion rows is counted, not looked through one by one."""
    path = tmp_path / LEDGER_FILE
    path.write_bytes(healthy.read_bytes())
    connection = sqlite3.connect(path)
    for (trigger,) in connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    last = "(SELECT max(number) FROM batch)"
    connection.execute(f"UPDATE batch SET {column} = ? WHERE number = {last}", (number,))
    connection.commit()
    connection.close()

    report = verify_file(path, full=False)

    assert not report.ok
    assert len(report.problems) <= PROBLEMS_MAX
    assert report.problem_count > 2**39 or number < 0


def test_rows_that_do_not_fit_together_are_refused_at_start(healthy: Path, tmp_path: Path) -> None:
    """A start that cannot make sense of its ledger says so, lets go of it, and writes nothing."""
    for damage in (
        "UPDATE account SET code = 7777 WHERE number = 3",
        "DELETE FROM owner WHERE id = 'acct_1'",
        "UPDATE lot SET amount_nano = amount_nano + 1",
        "UPDATE hold SET parts = '[[]]'",
        "UPDATE owner SET name = CAST(x'ff' AS TEXT)",
    ):
        data = tmp_path / damage.replace(" ", "")[:20]
        data.mkdir()
        (data / LEDGER_FILE).write_bytes(healthy.read_bytes())
        connection = sqlite3.connect(data / LEDGER_FILE)
        for (trigger,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        assert connection.execute(damage).rowcount >= 1
        connection.commit()
        connection.close()
        before = tables(data / LEDGER_FILE)

        with pytest.raises(StorageError, match=r"contradicts itself|cannot be opened"):
            asyncio.run(Accountant(AccountantSettings(data, lock_wait_s=0.1)).start())
        after = tables(data / LEDGER_FILE)
        assert {**after, "meta": []} == {**before, "meta": []}  # the epoch was claimed
        store = asyncio.run(SqliteLedgerStore.open(data, now_ns=1, lock_wait_s=0.1))
        asyncio.run(store.close())
