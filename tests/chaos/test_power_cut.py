"""The mains fail: at any moment, with whatever the disk had not been told to keep.

The real store writes through a file system of ours, which records every write and every
sync. Then the power is cut at random points of that record: what a sync had made durable is
there, of the rest each write may be there, be lost or be torn at a sector. The file that
remains is opened again by the standard library's SQLite, which is what production runs.

By default 150 cuts at our settings and 60 at `synchronous=NORMAL`, which must lose commits
or this test could not see one lost; COSTER_LONG=1 cuts 5,000 and 1,000 times and audits each.
"""

from __future__ import annotations

import os
import random
import sqlite3
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

from storage.database import LEDGER_FILE, migrate
from storage.ledger_store import SqliteLedgerStore
from storage.verify import verify_file
from tests.support.fuzz import Life
from tests.support.sqlite_lab import Act, LabDisk, lab_connection, plain_connection, store_over

pytestmark = pytest.mark.chaos

LONG = os.environ.get("COSTER_LONG") == "1"
SECTOR = 512
COMMITS = 400 if LONG else 120
CHECKPOINT_PAGES = 60  # instead of 1000: more checkpoints in a short life
NORMAL = 1


class Acknowledged(NamedTuple):
    """What had been said to be durable when the disk had done `acts` acts."""

    acts: int
    batch: int
    digest: bytes
    last_ts_ns: int


@dataclass
class Record:
    """A file as it was, what was done to it since, and what was acknowledged on the way."""

    before: bytes
    acts: list[Act]
    acknowledged: list[Acknowledged] = field(default_factory=list)


def live(folder: Path, name: str, **pragmas: int) -> Record:
    """A short life of a market on a disk that remembers; at our own pragmas or others."""
    path = folder / LEDGER_FILE
    migrate(path, 1)
    plain_connection(path).close()  # leaves it in WAL mode
    record = Record(path.read_bytes(), [])
    disk = LabDisk(name)
    connection = lab_connection(path, disk, checkpoint_pages=CHECKPOINT_PAGES, **pragmas)
    store = store_over(connection, path)
    life = Life(5, lambda: store)
    life.acts = [act for act in life.acts if act != life.restart]
    for _ in range(COMMITS):
        for _ in range(life.rng.randrange(1, 6)):
            life.rng.choice(life.acts)()
        life.twin.commit()
        last_ts_ns = life.twin.books.last_ts_ns
        record.acknowledged.append(Acknowledged(len(disk.acts), *store.head[:2], last_ts_ns))
    record.acts = list(disk.acts)
    connection.raw.close()
    return record


class Image:
    """What is on the platters: what was synced, and what was written since."""

    def __init__(self, before: bytes) -> None:
        self._durable = {"": bytearray(before), "-wal": bytearray()}
        self._pending: dict[str, list[Act]] = {"": [], "-wal": []}

    def do(self, act: Act) -> None:
        assert act.file in self._durable
        if act.kind == "sync":
            for pending in self._pending[act.file]:
                _apply(self._durable[act.file], pending, pending.data)
            self._pending[act.file].clear()
        else:
            self._pending[act.file].append(act)

    def after_the_cut(self, rng: random.Random) -> dict[str, bytearray]:
        """The files as somebody finds them: luck decides about what no sync had covered."""
        files = {name: bytearray(data) for name, data in self._durable.items()}
        for name, pending in self._pending.items():
            for act in pending:
                luck = rng.random()
                sectors = len(act.data) // SECTOR
                if luck < 0.5:
                    _apply(files[name], act, act.data)
                elif luck < 0.75 and act.kind == "write":
                    _apply(files[name], act, act.data[: rng.randrange(sectors + 1) * SECTOR])
        return files


def _apply(file: bytearray, act: Act, data: bytes) -> None:
    if act.kind == "truncate":
        del file[act.at :]
    elif data:
        file.extend(bytes(max(0, act.at + len(data) - len(file))))
        file[act.at : act.at + len(data)] = data


@dataclass
class Toll:
    """What the cuts have cost."""

    cuts: int = 0
    lost: int = 0
    broken: list[str] = field(default_factory=list)


def cut(record: Record, folder: Path, cuts: int, audit_every: int) -> Toll:
    """Cut the power at that many moments, and look at what is left each time."""
    rng, toll, image, at = random.Random(11), Toll(), Image(record.before), 0
    moments = sorted(rng.randrange(1, len(record.acts) + 1) for _ in range(cuts))
    ends = [acknowledged.acts for acknowledged in record.acknowledged]
    path = folder / "found.sqlite3"
    for moment in moments:
        while at < moment:
            image.do(record.acts[at])
            at += 1
        for leftover in folder.glob("found.sqlite3*"):
            leftover.unlink()
        for name, data in image.after_the_cut(rng).items():
            folder.joinpath(f"found.sqlite3{name}").write_bytes(data)
        said = bisect_right(ends, moment) - 1
        toll.cuts += 1
        try:
            kept = said < 0 or holds(path, record.acknowledged[said])
            toll.lost += not kept
            if toll.cuts % audit_every == 0:
                toll.broken += verify_file(path).problems
        except sqlite3.DatabaseError as error:
            toll.broken.append(str(error))
    return toll


def holds(path: Path, said: Acknowledged) -> bool:
    """Whether the file has what was said to be durable; raises when it is damaged."""
    connection = sqlite3.connect(path)
    try:
        (state,) = connection.execute("PRAGMA quick_check").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        (last_ts_ns,) = connection.execute("SELECT last_ts_ns FROM meta").fetchone() or (0,)
        row = connection.execute("SELECT hash FROM batch WHERE number = ?", (said.batch,))
        return last_ts_ns >= said.last_ts_ns and row.fetchone() == (said.digest,)
    finally:
        connection.close()


def test_a_power_cut_takes_no_acknowledged_commit(tmp_path: Path) -> None:
    """At our settings nothing that was answered is lost, and every file balances."""
    record = live(tmp_path, "full")
    toll = cut(record, tmp_path, 5_000 if LONG else 150, 1 if LONG else 10)

    print(  # which SQLite this speaks for
        f"\n{toll.cuts} cuts in {len(record.acts)} acts: {toll.lost} lost, "
        f"{len(toll.broken)} damaged; written by SQLite {apsw.sqlite_lib_version()}, "
        f"opened by {sqlite3.sqlite_version}"
    )
    assert any(act.kind == "sync" and act.file == "" for act in record.acts)  # checkpoints too
    assert (toll.lost, toll.broken) == (0, [])


def test_the_same_cuts_at_a_weaker_setting_are_noticed(tmp_path: Path) -> None:
    """`synchronous=NORMAL` loses acknowledged commits here, or the test above proves nothing."""
    record = live(tmp_path, "normal", synchronous=NORMAL)
    toll = cut(record, tmp_path, 1_000 if LONG else 60, 1 if LONG else 10)

    print(f"\n{toll.cuts} cuts: {toll.lost} lost, {len(toll.broken)} damaged")
    assert toll.lost > toll.cuts // 4
    assert set(toll.broken) <= {"The ledger's head is missing."}  # the first commit itself


async def test_what_a_cut_has_left_goes_on(tmp_path: Path) -> None:
    """The real store opens such a file, loads it, and what it writes next verifies."""
    record = live(tmp_path, "again")
    rng, image = random.Random(3), Image(record.before)
    for act in record.acts[: len(record.acts) // 2]:
        image.do(act)
    data = tmp_path / "data"
    data.mkdir()
    for name, content in image.after_the_cut(rng).items():
        data.joinpath(f"{LEDGER_FILE}{name}").write_bytes(content)

    store = await SqliteLedgerStore.open(data, now_ns=2)
    snapshot = await store.load()
    await store.close()

    assert snapshot.accounts
    assert verify_file(data / LEDGER_FILE).problems == []
