"""What may be forgotten after a time: only that, only when told to, and by its true age."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors.accountant import Accountant, AccountantSettings
from actors.accounting.core import Clock
from coster.main import app
from market.accounting.rows import Changes
from market.accounting.state_rows import EventRow
from storage.backup import backup, copies
from storage.database import BACKUP_FOLDER, LEDGER_FILE
from storage.ledger_store import SqliteLedgerStore
from storage.retention import DAY_NS, old_copies, old_events
from storage.sqlite_rows import SqliteRows
from storage.verify import verify
from tests.support.ledger_bench import start

NOW_NS = 1_800_000_000_000_000_000


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["ledger", *words, "--data", str(data)])


@pytest.fixture
async def aged(tmp_path: Path) -> Path:
    """Three copies of 100, 50 and 0 days, and six notices, three of them dealt with long ago.

    Those of `e` and `f` bear impossible dates: the first second of 1970, and one to come.
    """
    data = tmp_path / "data"
    await (await start(data, fee_bps=500)).accountant.stop()
    for days in (100, 50, 0):
        made = backup(data, now_ns=NOW_NS - days * DAY_NS)
        os.utime(made.path, ns=(NOW_NS - days * DAY_NS,) * 2)
    store = await SqliteLedgerStore.open(data, now_ns=1)
    changes = Changes(last_ts_ns=(await store.load()).last_ts_ns)
    notices = (
        *(("a", "done", 91), ("b", "failed", 95), ("c", "new", 99), ("d", "done", 1)),
        *(("e", "done", 2), ("f", "done", 92)),
    )
    said_ns = {"b": NOW_NS - DAY_NS, "e": 10**9, "f": 2**63 - 1}
    for name, state, days in notices:
        at_ns = NOW_NS - days * DAY_NS
        sent_ns = said_ns.get(name, at_ns)
        changes.put(EventRow(f"evt_{name}", "k", "s", state, 0, "", sent_ns, at_ns))
    await store.commit(changes)
    await store.close()
    return data


def test_what_is_old_is_found_and_the_last_copy_never_is(aged: Path) -> None:
    """By age alone, but for the newest copy, which is kept for ever; a notice's age is the
    time since it was dealt with, whatever date its sender gave it.
    """
    assert len(copies(aged)) == 3
    assert len(old_copies(aged, 60, NOW_NS)) == 1
    assert len(old_copies(aged, 1, NOW_NS + 1000 * DAY_NS)) == 2
    rows = SqliteRows(aged / LEDGER_FILE)
    assert old_events(rows, 90, NOW_NS) == 3
    assert old_events(rows, 1, NOW_NS + 1) == 5
    rows.close()


def test_nothing_is_deleted_without_being_told_to(aged: Path) -> None:
    """A dry run names the same files that --apply then deletes, and no other."""
    before = sorted(path.name for path in copies(aged))
    dry = json.loads(run(aged, "retention", "--backups-days", "1", "--json").output)
    assert sorted(path.name for path in copies(aged)) == before

    wet = json.loads(run(aged, "retention", "--backups-days", "1", "--apply", "--json").output)

    assert dry["copies"] == wet["copies"]
    assert [path.name for path in copies(aged)] == [
        name for name in before if str(aged / BACKUP_FOLDER / name) not in wet["copies"]
    ]
    assert len(copies(aged)) >= 1
    assert verify(aged).ok


def test_what_would_be_deleted_is_said_in_numbers(aged: Path) -> None:
    """One is one, in the singular."""
    connection = sqlite3.connect(aged / LEDGER_FILE)
    connection.execute("UPDATE stripe_event SET changed_ns = ?", (time.time_ns(),))
    connection.execute("UPDATE stripe_event SET changed_ns = 1 WHERE id = 'evt_a'")
    connection.commit()
    connection.close()
    one = run(aged, "retention", "--events-days", "7", "--backups-days", "36500").output

    assert "Would delete 0 copies older than 36500 days\n" in one
    assert "Would delete 1 notice dealt with more than 7 days ago\n" in one


async def test_old_notices_are_forgotten_by_the_accountant(aged: Path) -> None:
    """Dealt with and old enough; one that waits is never forgotten, nor the journal touched."""
    accountant = Accountant(AccountantSettings(aged), clock=Clock(wall_ns=lambda: NOW_NS))
    await accountant.start()
    assert await accountant.forget_events(90) == 3
    assert await accountant.forget_events(90) == 0
    await accountant.stop()

    connection = sqlite3.connect(aged / LEDGER_FILE)
    left = [name for (name,) in connection.execute("SELECT id FROM stripe_event ORDER BY id")]
    connection.close()
    assert left == ["evt_c", "evt_d", "evt_e"]
    assert verify(aged).ok
