"""Copies that are proved, restores that lose nothing silently, and nothing half done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from alembic import command
from typer.testing import CliRunner, Result

from coster.main import app
from coster.paths import MarketPaths
from coster.runfile import MarketLock
from storage import database
from storage import restore as restoring
from storage.backup import backup
from storage.database import (
    BACKUP_FOLDER,
    LEDGER_FILE,
    RESTORING_FILE,
    StorageError,
    alembic_config,
    check,
    migration_engine,
)
from storage.restore import restore
from storage.statements import ENSURE_META
from storage.verify import verify, verify_file
from tests.contract.test_verify import spoil
from tests.support.ledger_bench import start

NOW_NS = 1_800_000_000_000_000_000


async def trade(data: Path, *requests: str) -> None:
    bench = await start(data, fee_bps=500)
    for request in requests:
        await bench.do(bench.admit(request))
        await bench.do(bench.settle(request))
    await bench.accountant.stop()


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A stopped market's ledger with two requests."""
    await trade(tmp_path / "data", "req_1", "req_2")
    return tmp_path / "data"


def seen(data: Path) -> tuple[list[str], bytes]:
    """The names in a data folder, and the ledger byte by byte."""
    return sorted(path.name for path in data.iterdir()), (data / LEDGER_FILE).read_bytes()


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["ledger", *words, "--data", str(data)])


async def test_a_copy_is_made_while_the_market_trades(tmp_path: Path) -> None:
    """It holds what was committed before it, is private, and the writer goes on."""
    data = tmp_path / "data"
    bench = await start(data)
    await bench.do(bench.admit("req_1"))
    await bench.do(bench.settle("req_1"))
    made = backup(data, now_ns=NOW_NS)
    await bench.do(bench.admit("req_2"))
    await bench.do(bench.settle("req_2"))
    await bench.accountant.stop()

    assert made.path == data / BACKUP_FOLDER / "backup-20270115T080000Z.sqlite3"
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert verify_file(made.path).counts["requests"] == made.report.counts["requests"] == 1
    assert verify(data).counts["requests"] == 2
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


def test_an_unsound_copy_is_not_kept(data: Path) -> None:
    """What is called a backup is one: nothing is left under any name."""
    spoil(data, "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE seq = 1")

    with pytest.raises(StorageError, match=r"not sound, so it was not kept: The transfer 1"):
        backup(data, now_ns=NOW_NS)
    assert list((data / BACKUP_FOLDER).iterdir()) == []


def test_nothing_is_overwritten(data: Path, tmp_path: Path) -> None:
    """A name that is taken is refused, and its file stays."""
    out = tmp_path / "mine"
    out.write_text("precious")

    with pytest.raises(StorageError, match="exists already"):
        backup(data, now_ns=NOW_NS, out=out)
    assert out.read_text() == "precious"


def test_only_so_many_copies_stay(data: Path) -> None:
    """The newest ones; copies of other makes are not counted and not touched."""
    folder = data / BACKUP_FOLDER
    folder.mkdir()
    (folder / "ledger-0001-5.sqlite3").write_bytes(b"made before a migration")
    for second in range(4):
        made = backup(data, now_ns=NOW_NS + second * 10**9, keep=2)
        os.utime(made.path, (second, second))

    assert sorted(path.name for path in folder.iterdir()) == [
        "backup-20270115T080002Z.sqlite3",
        "backup-20270115T080003Z.sqlite3",
        "ledger-0001-5.sqlite3",
    ]


async def test_a_restore_says_what_is_lost_and_deletes_nothing(data: Path) -> None:
    """Back at the copy's head; what came after lies aside, sound and whole."""
    made = backup(data, now_ns=NOW_NS)
    await trade(data, "req_3", "req_4")
    before = verify(data)

    done = await restore(data, made.path, now_ns=NOW_NS)

    assert done.report.ok
    assert done.report.head_hash == made.report.head_hash
    assert done.lost[0].startswith(
        f"{before.counts['batches'] - made.report.counts['batches']} batches after batch"
    )
    assert done.lost[1] == "2 requests that cost $0.000374 are undone."
    assert done.aside is not None
    assert verify_file(done.aside / LEDGER_FILE).head_hash == before.head_hash
    await trade(data, "req_3")
    assert verify(data).counts["requests"] == 3


async def test_a_damaged_present_is_replaced_and_kept(data: Path) -> None:
    """Nobody can say what was lost, so that is said; the damaged file is kept as it was."""
    made = backup(data, now_ns=NOW_NS)
    (data / LEDGER_FILE).write_bytes(b"this is not a database, " * 100)

    done = await restore(data, made.path, now_ns=NOW_NS)

    assert "is unknown" in done.lost[0]
    assert done.aside is not None
    assert (done.aside / LEDGER_FILE).read_bytes().startswith(b"this is not a database")
    assert verify(data).ok


async def test_another_market_s_backup_is_called_one(data: Path, tmp_path: Path) -> None:
    """A copy whose last batch is unknown here has another history, and that is said."""
    await trade(tmp_path / "other", "req_9")
    made = backup(tmp_path / "other", now_ns=NOW_NS)

    done = await restore(data, made.path, now_ns=NOW_NS)

    assert "different histories" in done.lost[0]


def test_nothing_is_lost_where_nothing_was(data: Path, tmp_path: Path) -> None:
    """An empty folder had no books; that is said, and not that they were up to date."""
    made = backup(data, now_ns=NOW_NS)

    result = run(tmp_path / "new", "restore", str(made.path))

    assert "Nothing was lost: there were no books here before." in result.output
    assert "up to date" not in result.output


async def test_a_backup_may_be_newer_than_the_books(data: Path) -> None:
    """Older books of the same history are called an earlier state of the backup."""
    older = backup(data, now_ns=NOW_NS)
    await trade(data, "req_3")
    newer = backup(data, now_ns=NOW_NS + 10**9)
    await restore(data, older.path, now_ns=NOW_NS)

    done = await restore(data, newer.path, now_ns=NOW_NS + 10**9)

    assert done.lost == []
    assert "was an earlier state of the backup" in done.note
    assert verify(data).head_hash == newer.report.head_hash


async def test_a_damaged_backup_is_named_by_its_own_path(data: Path, tmp_path: Path) -> None:
    """Not by the copy of it that is gone when it is read, nor with advice about that copy."""
    source = tmp_path / "copy"
    source.write_bytes(b"this is no database " * 100)

    with pytest.raises(StorageError) as refused:
        await restore(data, source, now_ns=NOW_NS)

    assert str(source) in str(refused.value)
    assert ".restore-" not in str(refused.value)
    assert "made none here" not in str(refused.value)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (b"", "it is empty"),
        (b"this is no database " * 100, "file is not a database"),
        (None, "There is no backup"),
    ],
)
async def test_what_is_no_backup_changes_nothing(
    data: Path, tmp_path: Path, contents: bytes | None, told: str
) -> None:
    """Refused before anything is moved."""
    source = tmp_path / "source"
    if contents is not None:
        source.write_bytes(contents)
    before = seen(data)

    with pytest.raises(StorageError, match=told):
        await restore(data, source, now_ns=NOW_NS)
    assert seen(data) == before


async def test_an_unsound_backup_changes_nothing(data: Path, tmp_path: Path) -> None:
    """It is audited before the present is touched."""
    made = backup(data, now_ns=NOW_NS, out=tmp_path / LEDGER_FILE)
    spoil(tmp_path, "UPDATE transfer SET ts_ns = ts_ns + 1 WHERE seq = 1")
    before = verify(data).head_hash

    with pytest.raises(StorageError, match="is not sound and was not restored"):
        await restore(data, made.path, now_ns=NOW_NS)
    assert verify(data).head_hash == before


async def test_a_running_market_is_not_pulled_away(data: Path) -> None:
    """Whoever holds the books' lock, or runs `coster up`, has to stop first."""
    made = backup(data, now_ns=NOW_NS)
    bench = await start(data)
    with pytest.raises(StorageError, match=f"in use by the process {os.getpid()}"):
        await restore(data, made.path, now_ns=NOW_NS)
    await bench.accountant.stop()
    lock = MarketLock(MarketPaths(data))
    assert lock.acquire()
    result = run(data, "restore", str(made.path))
    lock.release()

    assert result.exit_code == 1
    assert "coster down" in result.output


async def test_a_restore_that_was_cut_short_is_not_opened(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No empty ledger appears where the books were; doing it again finishes it."""
    made = backup(data, now_ns=NOW_NS)
    before = verify(data).head_hash

    def cut(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    for step in ("_move_aside", "sync_to_disk"):
        real = getattr(restoring, step)
        calls = iter([real, cut] if step == "sync_folder" else [cut])
        monkeypatch.setattr(restoring, step, lambda *a, calls=calls: next(calls)(*a))
        with pytest.raises(StorageError, match="nothing was deleted"):
            await restore(data, made.path, now_ns=NOW_NS)
        monkeypatch.setattr(restoring, step, real)
        assert (data / RESTORING_FILE).exists()
        for opening in (lambda: check(data), lambda: database.migrate(data / LEDGER_FILE, 1)):
            with pytest.raises(StorageError, match=r"A restore .* was interrupted"):
                opening()

    done = await restore(data, made.path, now_ns=NOW_NS + 10**9)
    assert done.report.head_hash == before
    check(data)


async def test_a_copy_of_an_older_schema_is_brought_forward(data: Path, tmp_path: Path) -> None:
    """What was copied before a migration can be restored after it."""
    old = tmp_path / "old.sqlite3"
    engine = migration_engine(old)
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        connection.exec_driver_sql(ENSURE_META, (bytes(32),))
    engine.dispose()

    done = await restore(data, old, now_ns=NOW_NS)

    assert done.report.ok
    assert "different histories" not in " ".join(done.lost)
    check(data)


def test_the_commands_tell_people_and_scripts(data: Path) -> None:
    """Paths, head and what is missing; the same facts with --json."""
    told = run(data, "backup")
    made = json.loads(run(data, "backup", "--with-secrets", "--json").output)
    back = run(data, "restore", made["path"])
    again = json.loads(run(data, "restore", made["path"], "--json").output)

    assert told.exit_code == back.exit_code == 0
    assert f"head {made['head_hash']}" in told.output
    assert "no API key works without its pepper" in told.output
    assert made["secrets"] == ["pepper"]
    assert "Nothing was lost: the backup was up to date." in back.output
    assert (again["ok"], again["head_hash"]) == (True, made["head_hash"])
