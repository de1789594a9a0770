"""Feeds a whole ledger to the audit, without ever writing, while the market runs or after.

Where the rows come from is `storage.ledger_rows`' business: one consistent picture, streamed
in batch order, so memory stays small however long the history is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

from market.accounting.acts import Acts
from market.accounting.audit import Audit, VerifyReport
from market.accounting.chain import BatchContents
from market.accounting.checkpoints import JOURNAL_KINDS, checkpoint_of
from market.accounting.moved import Moved, PaymentRow
from market.accounting.rows import OperationRow, TransferRow
from market.accounting.state_rows import (
    DisputeRow,
    LotRow,
    MachineRow,
    PayeeRow,
    PayoutRow,
    PriceRow,
    RefundRow,
    TopUpRow,
    VerifiedRow,
)
from storage.database import LEDGER_FILE, MIGRATIONS, Away, StorageError
from storage.ledger_rows import Journal, LedgerRows
from storage.recounting import recount
from storage.sqlite_rows import SqliteRows

JOURNALS: Final[tuple[Journal, ...]] = get_args(Journal)


def verify(
    folder: Path, *, full: bool = True, rollups: bool = False, scripts: Path = MIGRATIONS
) -> VerifyReport:
    """Audit the ledger of a data folder.

    `full` replays everything, counts all sums again and runs SQLite's own integrity check over
    every page and index; without it the audit begins at the last checkpoint, and sums are
    counted only with `rollups`. A file that cannot even be
    read is a finding, not an exception; a folder without a ledger raises StorageError.
    `scripts` are the migrations that say what its schema must be.
    """
    path = folder / LEDGER_FILE
    if not path.exists():
        raise StorageError(
            f"There is no ledger in {folder}. Name the market's data folder with --data."
        )
    return verify_file(path, full=full, rollups=rollups, scripts=scripts)


def verify_file(
    path: Path, *, full: bool = True, rollups: bool = False, scripts: Path = MIGRATIONS
) -> VerifyReport:
    """Audit one file, wherever it is: a copy or a backup too. See `verify`."""
    if not path.exists():
        raise StorageError(f"There is no ledger file {path}.")
    try:
        rows = SqliteRows(path, scripts)
    except StorageError as error:
        return damaged([str(error)])
    try:
        return verify_rows(rows, str(path), full=full, rollups=rollups)
    finally:
        rows.close()


def verify_rows(
    rows: LedgerRows, name: str, *, full: bool = True, rollups: bool = False
) -> VerifyReport:
    """Audit a ledger that is open for reading; `name` is what its findings call it.

    Raises Away when a database server goes away meanwhile: that says nothing about the books.
    """
    problems: list[str] = []
    try:
        if rows.revision() is None:
            return damaged([f"The ledger {name} is empty: all its tables are missing."])
        for finding in rows.findings(full=full):
            problems.append(finding)  # noqa: PERF402 - what was found before a fault is kept
        report = _audit(rows, problems, full=full)
        if full or rollups:
            recount(rows, report)
        return report
    except Away:
        raise
    except StorageError as error:
        return damaged([*problems, str(error)])
    except (ValueError, TypeError) as error:
        return damaged([*problems, f"The ledger {name} cannot be read to its end: {error}."])


def damaged(problems: Iterable[str]) -> VerifyReport:
    """The report on a ledger that could not be replayed."""
    report = VerifyReport()
    for problem in problems:
        report.add(problem)
    return report


def _begin(rows: LedgerRows, *, full: bool) -> Audit:
    """An audit at the last checkpoint, or at the first batch and past that checkpoint.

    A checkpoint that cannot be read proves nothing, so everything is replayed.
    """
    row = next(rows.state(VerifiedRow), None)
    since = None
    if row is not None and not full:
        try:
            since = checkpoint_of(row)
        except ValueError:
            since = None
    audit = Audit(rows.accounts(), since)
    if row is not None and since is None:
        audit.mark(row.number, row.hash)
    if since is not None:
        for batch in itertools.islice(rows.batches(since.number - 1), 1):
            audit.marked(batch)
    return audit


def _audit(rows: LedgerRows, problems: Iterable[str], *, full: bool) -> VerifyReport:
    audit = _begin(rows, full=full)
    for problem in problems:
        audit.report.add(problem)
    moved = Moved(rows.accounts()) if full else None  # only whole books tell of every payment
    _replay(rows, audit, moved)
    for hold in rows.holds():
        audit.hold(hold.terms, hold.crc, ended=hold.ended)
    for problem in _unsealed(rows, audit, moved):
        audit.report.add(problem)
    meta = rows.meta()
    if meta is None:
        audit.report.add("The ledger's head is missing.")
    else:
        audit.head(meta.head_number, meta.head_hash, meta.last_ts_ns, meta.epoch)
    return audit.finish()


def _replay(rows: LedgerRows, audit: Audit, moved: Moved | None) -> None:
    """The journals, batch by batch."""
    after, following = audit.begins_after
    journals = {kind: _ByBatch(rows.journal(kind, following[kind] - 1)) for kind in JOURNALS}
    for batch in rows.batches(after):
        for kind, journal in journals.items():
            for stray in journal.before(batch.number):
                audit.stray(kind, stray)
        contents = {
            JOURNAL_KINDS[kind]: list(journal.of(batch.number))
            for kind, journal in journals.items()
        }
        audit.batch(batch, BatchContents(**contents))
        if moved is not None:
            for row in contents["transfers"]:
                moved.note(TransferRow(*row[1:-2]))
    for kind, journal in journals.items():
        for stray in journal.rest():
            audit.stray(kind, stray)


def _unsealed(rows: LedgerRows, audit: Audit, moved: Moved | None) -> Iterator[str]:
    """Rows of state that decide over money, against what is sealed."""
    audit.payments(rows.state(PayoutRow), rows.state(DisputeRow))
    audit.lots(rows.state(LotRow))
    acts = Acts(OperationRow(*row[1:-2]) for row in rows.journal("operation"))
    yield from acts.problems(rows.state(PriceRow), rows.state(MachineRow), rows.state(PayeeRow))
    if moved is not None:
        payments: Iterator[PaymentRow] = itertools.chain(
            rows.state(TopUpRow),
            rows.state(RefundRow),
            rows.state(PayoutRow),
            rows.state(DisputeRow),
        )
        yield from moved.problems(payments)


class _ByBatch:
    """One journal's rows in order, handed out batch by batch."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self._ahead: tuple[Any, ...] | None = next(self._rows, None)

    def _while(self, bound: float) -> Iterator[tuple[Any, ...]]:
        while self._ahead is not None and self._ahead[-2] <= bound:
            yield self._ahead
            self._ahead = next(self._rows, None)

    def before(self, number: int) -> Iterator[tuple[Any, ...]]:
        return self._while(number - 1)

    def of(self, number: int) -> Iterator[tuple[Any, ...]]:
        return self._while(number)

    def rest(self) -> Iterator[tuple[Any, ...]]:
        return self._while(float("inf"))
