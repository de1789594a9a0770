"""A ledger that cannot be opened is told before anything starts, with what to do about it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import database
from storage.database import BACKUP_FOLDER, LEDGER_FILE, StorageError, check, migrate
from storage.opening import check_ledger
from storage.sqlite_rows import SqliteRows
from tests.support.ledger_bench import start

Damage = Callable[[bytes], bytes]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a ledger in which nothing has happened."""
    folder = tmp_path / "data"
    folder.mkdir()
    migrate(folder / LEDGER_FILE, 0)
    return folder


def schema_that_is_no_text(clean: bytes) -> bytes:
    """SQLite's own message quotes the name of the table, which is no UTF-8."""
    broken = clean.replace(b"tableaccountaccount", b"table\xffccountaccount")
    assert broken != clean
    return broken.replace(b"CREATE TABLE account", b"CREATE TABEL account")


DAMAGES: dict[str, Damage] = {
    "text": lambda _: b"this is not a database, " * 100,
    "zeros": lambda clean: bytes(len(clean)),
    "cut in its head": lambda clean: clean[:100],
    "cut": lambda clean: clean[:9_000],
    "schema page": lambda clean: clean[:100] + b"\xff" * 3_996 + clean[4_096:],
    "schema that is no text": schema_that_is_no_text,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_told(data: Path, damage: str) -> None:
    """What, why and how to mend it; the file stays as it was."""
    path = data / LEDGER_FILE
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = path.read_bytes()

    with pytest.raises(StorageError, match=r"cannot be opened: .*restore your last backup"):
        check(data)
    assert path.read_bytes() == before


def test_a_ledger_from_the_future_is_told(data: Path) -> None:
    """A schema that this program does not know is refused before it starts."""
    with sqlite3.connect(data / LEDGER_FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(StorageError, match=r"newer version of coster \(schema 9999;"):
        check(data)


def test_a_database_of_something_else_is_told_and_left_alone(tmp_path: Path) -> None:
    """Tables without a schema version are not ours to add to."""
    path = tmp_path / LEDGER_FILE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (x)")
    connection.close()
    before = path.read_bytes()

    for refuse in (lambda: check(tmp_path), lambda: migrate(path, 0)):
        with pytest.raises(StorageError, match="not a ledger that coster wrote"):
            refuse()
    assert path.read_bytes() == before


def test_the_way_back_is_one_that_exists(data: Path) -> None:
    """A backup of ours is named when there is one, and none is promised otherwise."""
    path = data / LEDGER_FILE
    copy = data / BACKUP_FOLDER / "ledger-0004-1.sqlite3"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    path.write_bytes(b"this is not a database, " * 100)

    with pytest.raises(StorageError, match=f"the latest is {copy}"):
        check(data)
    shutil.rmtree(copy.parent)
    with pytest.raises(StorageError, match="coster has made none") as told:
        check(data)
    assert BACKUP_FOLDER + "/" not in str(told.value)


def test_an_emptied_ledger_is_not_begun_anew(data: Path) -> None:
    """Nobody would be told that all accounts and balances are gone."""
    path = data / LEDGER_FILE
    path.write_bytes(b"")

    for refuse in (lambda: check(data), lambda: migrate(path, 0)):
        with pytest.raises(StorageError, match=r"is empty: .*restore your last backup"):
            refuse()
    assert path.read_bytes() == b""


async def test_books_that_are_gone_are_missed(tmp_path: Path) -> None:
    """A folder in which a market has run does not become a new one by losing its ledger."""
    folder = tmp_path / "data"
    bench = await start(folder)
    await bench.accountant.stop()
    check_ledger(folder, "")
    for left in folder.glob(f"{LEDGER_FILE}*"):
        left.unlink()

    with pytest.raises(StorageError, match="is missing, though a market has kept its books here"):
        check_ledger(folder, "")
    assert not (folder / LEDGER_FILE).exists()


def test_books_that_were_only_begun_are_no_ledger(tmp_path: Path) -> None:
    """A process that ended while it made them leaves nothing that is taken for them."""
    draft = tmp_path / f".{LEDGER_FILE}.new"
    draft.write_bytes(b"half of a page")
    draft.with_name(f"{draft.name}-journal").write_bytes(b"and of a journal")

    check(tmp_path)
    migrate(tmp_path / LEDGER_FILE, 0)

    check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_FILE]


def test_a_locked_ledger_is_not_called_damaged(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore would undo every batch since the backup, and mend nothing."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    other = sqlite3.connect(data / LEDGER_FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="Another program has locked it") as told:
            check(data)
    finally:
        other.close()
    assert "restore" not in str(told.value)


REMEDIES = {
    sqlite3.SQLITE_BUSY: "locked it",
    sqlite3.SQLITE_FULL: "Make room",
    sqlite3.SQLITE_READONLY: "read and write access",
    sqlite3.SQLITE_CANTOPEN: "read and write access",
    sqlite3.SQLITE_CORRUPT: "restore your last backup",
    sqlite3.SQLITE_IOERR_READ: "restore your last backup",
}


@pytest.mark.parametrize("code", REMEDIES)
def test_each_fault_has_its_own_remedy(tmp_path: Path, code: int) -> None:
    """A backup is for damage; a disk without room is named whatever SQLite calls it."""
    fault = sqlite3.OperationalError("it did not work")
    fault.sqlite_errorcode = code
    assert REMEDIES[code] in database.remedy(tmp_path / LEDGER_FILE, fault)


def test_a_full_disk_is_named_whatever_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says no more than "disk I/O error" of it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    fault = sqlite3.OperationalError("disk I/O error")
    fault.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert "Make room" in database.remedy(tmp_path / LEDGER_FILE, fault)


def test_a_fault_where_no_disk_can_be_asked_has_its_remedy_too(tmp_path: Path) -> None:
    """The folder may be what is gone, or closed to us."""
    fault = PermissionError(13, "Permission denied")
    told = str(database.unreadable(tmp_path / "gone" / LEDGER_FILE, fault))
    assert "Check that your user may read and write it." in told


def test_a_reading_that_is_left_early_ends_quietly(data: Path) -> None:
    """An export that meets a full disk says that, and nothing of a closed database."""
    rows = SqliteRows(data / LEDGER_FILE)
    reading = rows._query("SELECT 1 UNION ALL SELECT 2")
    assert next(reading) == (1,)
    rows.close()
    reading.close()


def test_no_ledger_yet_is_no_problem(tmp_path: Path) -> None:
    """Neither a missing folder nor an empty one, and nothing is made."""
    check(tmp_path / "nowhere")
    check(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_running_ledger_can_be_looked_at(tmp_path: Path) -> None:
    """Beside the writer, which goes on, and after it has stopped."""
    bench = await start(tmp_path / "data")
    await bench.do(bench.admit("req_1"))
    check(tmp_path / "data")
    await bench.do(bench.settle("req_1"))
    await bench.accountant.stop()
    check(tmp_path / "data")
