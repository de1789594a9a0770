"""The disk is full, or refuses to sync, at every single act of a run of commits.

Whatever was answered is there afterwards, whatever was not answered is there whole or not at
all, and the error says what to look at. Then the same with the operating system's own
refusal, under a running accountant. COSTER_LONG=1 makes the runs three times as long.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from market.accounting.books import Books
from market.errors import Unavailable
from market.messages import Admitted, Settled
from storage.database import LEDGER_FILE, StorageError, migrate
from storage.verify import verify, verify_file
from tests.support.books import portrait
from tests.support.fuzz import Life
from tests.support.ledger_bench import Bench, start
from tests.support.sqlite_lab import LabDisk, lab_connection, plain_connection, store_over
from tests.support.twin import now

pytestmark = pytest.mark.chaos

LONG = os.environ.get("COSTER_LONG") == "1"
COMMITS = 12 if LONG else 2
ACTS = 12
AUDIT_EVERY = 5
CHECKPOINT_PAGES = 40  # so that checkpoints are among the writes


@dataclass
class Run:
    """One short life: what the books were when they were answered, and when refused."""

    answered: dict[str, object] = field(default_factory=dict)
    refused: dict[str, object] | None = None
    said: str = ""
    disk_refused: int = 0


def run_until_refused(path: Path, kind: str, at: int, error: type[apsw.Error]) -> Run:
    """The same life each time, on a disk that refuses from its act number `at` on."""
    disk, run = LabDisk(path.stem), Run()
    connection = lab_connection(path, disk, checkpoint_pages=CHECKPOINT_PAGES)
    store = store_over(connection, path)
    life = Life(9, lambda: store)
    life.acts = [act for act in life.acts if act != life.restart]
    life.twin.commit()
    run.answered = life.twin.portrait()
    disk.refuse(kind, at, error)
    for _ in range(COMMITS):
        for _ in range(ACTS):
            life.rng.choice(life.acts)()
        try:
            life.twin.commit()
        except StorageError as refusal:
            run.refused, run.said = life.twin.portrait(), str(refusal)
            break
        run.answered = life.twin.portrait()
    with suppress(apsw.Error):  # closing would empty the WAL, and is refused like the rest
        connection.raw.close()
    run.disk_refused = disk.refused
    return run


def found(path: Path) -> dict[str, object]:
    """The books as the next accountant reads them."""
    connection = plain_connection(path)
    try:
        store = store_over(connection, path)
        terms = Life(9).twin.terms
        return portrait(Books(terms, now(store.load()), now_ns=1, tick_ns=0))
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("kind", "error"),
    [("write", apsw.FullError), ("write", apsw.IOError), ("sync", apsw.IOError)],
    ids=["full", "broken", "no sync"],
)
def test_wherever_the_disk_refuses_nothing_answered_is_lost(
    tmp_path: Path, kind: str, error: type[apsw.Error]
) -> None:
    """At each act in turn: an error that tells what to look at, and books that balance."""
    clean = tmp_path / "clean.sqlite3"
    migrate(clean, 1)
    plain_connection(clean).close()
    refusals = kept = 0
    for at in range(10_000):
        path = tmp_path / f"{kind}-{error.__name__}-{at}.sqlite3"
        shutil.copy(clean, path)
        run = run_until_refused(path, kind, at, error)
        if not run.disk_refused:
            break
        there = found(path)
        if LONG or at % AUDIT_EVERY == 0:
            assert verify_file(path).problems == []
        if run.refused is None:  # only a checkpoint was refused: the commits stand
            assert there == run.answered
        else:
            refusals += 1
            assert "free space" in run.said
            assert path.name in run.said
            assert there in (run.answered, run.refused)
            kept += there == run.refused
        path.unlink()
    # A commit whose last sync failed may be on the disk all the same: that is why a process
    # that saw an error must end, and why the error does not say that nothing was written.
    assert (kept > 0) == (kind == "sync")
    print(f"\n{at} acts refused in turn, {refusals} commits failed, {kept} of them were kept")
    assert refusals >= COMMITS


@contextmanager
def files_that_end(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this: the operating system refuses the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of this size, where one may be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs more rights than this user has")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def spend_until_refused(bench: Bench) -> dict[str, int]:
    """Requests one after another, until the ledger says no; costs of those that were paid."""
    paid: dict[str, int] = {}
    for number in range(20_000):
        (held,) = await bench.do(bench.admit(f"req_{number}"))
        answer = held
        if isinstance(held, Admitted):
            (answer,) = await bench.do(bench.settle(f"req_{number}"))
        if isinstance(answer, Unavailable):
            assert (answer.status, answer.retry) == (503, True)
            return paid
        assert isinstance(answer, Settled)
        paid[answer.request_id] = answer.cost_nano
    raise AssertionError("the disk never refused")


async def assert_all_there(data: Path, paid: dict[str, int]) -> None:
    """A fresh accountant knows what was paid, to the nano, and takes new requests."""
    bench = await start(data)
    balance = await bench.accountant.balance(bench.consumer)
    repeated = await bench.do(*(bench.settle(request) for request in paid))
    (fresh,) = await bench.do(bench.admit("req_afterwards"))
    await bench.accountant.stop()

    assert [answer.cost_nano for answer in repeated if isinstance(answer, Settled)] == list(
        paid.values()
    )
    open_or_paid_nano = 10**9 - balance.balance_nano
    one_nano = max(paid.values())
    assert open_or_paid_nano in (sum(paid.values()), sum(paid.values()) + one_nano)
    assert isinstance(fresh, Admitted)
    assert verify(data).problems == []


async def test_an_accountant_whose_file_cannot_grow_answers_503_and_starts_again(
    tmp_path: Path,
) -> None:
    """The operating system's own refusal: nobody is told yes, and the next start has it all."""
    data = tmp_path / "data"
    bench = await start(data)
    fatal: list[str] = []
    bench.accountant._on_fatal = fatal.append
    with files_that_end((data / f"{LEDGER_FILE}-wal").stat().st_size + 1_000_000):
        try:
            paid = await spend_until_refused(bench)
            (after,) = await bench.do(bench.admit("req_late"))
        finally:
            await bench.accountant.stop()

    assert isinstance(after, Unavailable)
    assert len(fatal) == 1
    assert "free space" in fatal[0]
    assert len(paid) > 3
    await assert_all_there(data, paid)


async def test_an_accountant_on_a_full_disk_answers_503_and_starts_again(tmp_path: Path) -> None:
    """No space left on the device; with some space again, everything answered is there."""
    with small_disk(tmp_path, "4m"):
        data = tmp_path / "data"
        bench = await start(data)
        filler = tmp_path / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - 1_000_000)
        try:
            paid = await spend_until_refused(bench)
            assert "full" in (bench.accountant.failed or "")
        finally:
            await bench.accountant.stop()
        filler.unlink()

        assert len(paid) > 3
        await assert_all_there(data, paid)
