"""Bringing a backup back: proved first, the present moved aside and never deleted.

While files are being moved a note lies in the data folder, and no ledger is opened there:
after a crash in between, an empty new one would otherwise look like the market's own. Doing
the same restore again finishes it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from market.accounting.audit import VerifyReport
from market.accounting.chart import Posting
from market.accounting.rows import RequestRow, TransferRow
from market.money import format_usd
from storage.backup import stamp_of
from storage.database import (
    LEDGER_FILE,
    RESTORING_FILE,
    StorageError,
    migrate,
    prepare_folder,
    way_back,
)
from storage.durable import sync_to_disk
from storage.folder_lock import FolderLock
from storage.ledger_rows import LedgerRows, Meta
from storage.pepper import PEPPER_FILE, SECRETS_FOLDER
from storage.sqlite_rows import SqliteRows
from storage.verify import verify_file

_FILES: Final = (LEDGER_FILE, f"{LEDGER_FILE}-wal", f"{LEDGER_FILE}-shm")
_COST_AT: Final = RequestRow._fields.index("cost_nano") + 1  # after the number
_MOVED: Final = {
    Posting.TOP_UP: "topped up",
    Posting.REFUND: "refunded",
    Posting.PAYOUT_SENT: "paid out",
    Posting.PROMO_GRANT: "granted as promo credit",
}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done. `lost` are sentences on what the present had beyond the backup.

    When nothing was lost, `note` says how the present stood to the backup.
    """

    report: VerifyReport
    aside: Path | None
    lost: list[str] = field(default_factory=list)
    note: str = ""
    secrets: tuple[str, ...] = ()
    has_pepper: bool = True


async def restore(data: Path, source: Path, *, now_ns: int) -> Restored:
    """Put a backup in place of the books of a data folder in which no market runs.

    `source` is a copy or a tar made by `storage.backup`, or a copy made before a change of
    schema. Raises StorageError; until the last moment nothing is changed.
    """
    prepare_folder(data)
    lock = FolderLock(data)
    await lock.acquire(0)
    stage = data / f".restore-{os.getpid()}"
    try:
        shutil.rmtree(stage, ignore_errors=True)
        prepare_folder(stage)
        return await asyncio.to_thread(_restore, data, source, stage, now_ns)
    except OSError as error:
        raise StorageError(
            f"The backup could not be restored to {data}: {error.strerror}. Mend that and do it "
            "again; nothing was deleted."
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        lock.release()


def _restore(data: Path, source: Path, stage: Path, now_ns: int) -> Restored:
    secrets = _unpack(source, stage)
    ledger = stage / LEDGER_FILE
    _modernise(ledger, source, now_ns)
    report = verify_file(ledger, full=True)
    if not report.ok:
        raise StorageError(
            f"The backup {source} is not sound and was not restored: "
            f"{_of_source(report.problems[0], ledger, source)} The present "
            "ledger is as it was."
        )
    lost, note = _lost(data / LEDGER_FILE, ledger)
    aside = data / f"replaced-{stamp_of(now_ns)}"
    unfinished = data / RESTORING_FILE
    unfinished.write_text(f"{source}\n")
    sync_to_disk(data)
    moved = _move_aside(data, aside, secrets)
    for name in secrets:
        prepare_folder(data / SECRETS_FOLDER)
        (stage / SECRETS_FOLDER / name).rename(data / SECRETS_FOLDER / name)
    ledger.rename(data / LEDGER_FILE)
    sync_to_disk(data)
    unfinished.unlink()
    sync_to_disk(data)
    return Restored(
        verify_file(data / LEDGER_FILE, full=True),
        aside if moved else None,
        lost,
        note,
        secrets,
        (data / SECRETS_FOLDER / PEPPER_FILE).exists(),
    )


def _modernise(ledger: Path, source: Path, now_ns: int) -> None:
    """Give the staged copy this program's schema; an empty file is no ledger."""
    try:
        rows = SqliteRows(ledger)
        empty = rows.revision() is None
        rows.close()
        if empty:
            raise StorageError("it is empty: all its tables are missing.")
        migrate(ledger, now_ns)
    except StorageError as error:
        raise StorageError(
            f"The backup {source} cannot be restored: {_of_source(str(error), ledger, source)}"
        ) from error


def _of_source(text: str, ledger: Path, source: Path) -> str:
    """What was said of the staged copy, said of the backup: the copy is gone by then."""
    text = text.replace(way_back(ledger), "").replace(f"The ledger {ledger}", "it")
    return text.replace(str(ledger), str(source)).strip()


def _unpack(source: Path, stage: Path) -> tuple[str, ...]:
    """Bring the ledger, and the secrets of a tar, into the stage; the secrets' names."""
    if not source.is_file():
        raise StorageError(f"There is no backup {source}.")
    if not tarfile.is_tarfile(source):
        with source.open("rb") as copy:
            _write(stage / LEDGER_FILE, copy)
        return ()
    try:
        return _unpack_tar(source, stage)
    except (tarfile.TarError, EOFError) as error:
        raise StorageError(
            f"The backup {source} cannot be restored: it is damaged or was cut short ({error}). "
            "Take another one; the present ledger is as it was."
        ) from error


def _unpack_tar(source: Path, stage: Path) -> tuple[str, ...]:
    names: list[str] = []
    with tarfile.open(source) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and member.name == LEDGER_FILE:
                _write(stage / LEDGER_FILE, file)
            elif file is not None and folder == SECRETS_FOLDER and name not in ("", ".", ".."):
                prepare_folder(stage / SECRETS_FOLDER)
                _write(stage / SECRETS_FOLDER / name, file)
                names.append(name)
            else:
                raise StorageError(f"{source} is no backup of coster's: it holds {member.name!r}.")
    if not (stage / LEDGER_FILE).exists():
        raise StorageError(f"{source} is no backup of coster's: it holds no {LEDGER_FILE}.")
    return tuple(names)


def _write(path: Path, source: IO[bytes]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def _move_aside(data: Path, aside: Path, secrets: tuple[str, ...]) -> bool:
    """Move what would be replaced into a folder of its own; whether there was anything."""
    found = [name for name in _FILES if (data / name).exists()]
    found += [
        f"{SECRETS_FOLDER}/{name}" for name in secrets if (data / SECRETS_FOLDER / name).exists()
    ]
    for name in found:
        place = aside / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / name).rename(place)
    if found:
        sync_to_disk(aside)
    return bool(found)


# ── what is lost ──────────────────────────────────────────────────────────────────────


def _lost(present: Path, backup: Path) -> tuple[list[str], str]:
    """What the present ledger holds beyond the backup, as far as it can still be read.

    And, when that is nothing, a sentence on how it stands to the backup.
    """
    if not present.exists():
        return [], "Nothing was lost: there were no books here before."
    try:
        then, now = SqliteRows(backup), SqliteRows(present)
    except StorageError:
        return _unknown("cannot be read")
    try:
        return _beyond(then, now)
    except StorageError:
        return _unknown("is damaged")
    finally:
        then.close()
        now.close()


def _unknown(why: str) -> tuple[list[str], str]:
    return [f"The present ledger {why}, so what it held beyond the backup is unknown."], ""


def _beyond(then: LedgerRows, now: LedgerRows) -> tuple[list[str], str]:
    old, new = then.meta(), now.meta()
    if old is None or new is None:
        return _unknown("has no head")
    if (new.head_number, new.head_hash) == (old.head_number, old.head_hash):
        return [], "Nothing was lost: the backup was up to date."
    if _continues(now, old):
        return _undone(then, now, old, new), ""
    if _continues(then, new):
        note = (
            f"Nothing was lost: the present ledger (batch {new.head_number}) was an earlier state "
            f"of the backup (batch {old.head_number})."
        )
        return [], note
    different = (
        f"The present ledger (batch {new.head_number}) is not a later state of the backup "
        f"(batch {old.head_number}): they have different histories."
    )
    return [different], ""


def _undone(then: LedgerRows, now: LedgerRows, old: Meta, new: Meta) -> list[str]:
    batches = new.head_number - old.head_number
    told = [f"{batches} batches after batch {old.head_number} are no longer in the ledger."]
    after = sum(1 for _ in then.journal("request"))
    costs = [row[_COST_AT] for row in now.journal("request", after)]
    if costs:
        told.append(f"{len(costs)} requests that cost {format_usd(sum(costs))} are undone.")
    moved: Counter[Posting] = Counter()
    for _, *fields, _, _ in now.journal("transfer", sum(1 for _ in then.journal("transfer"))):
        row = TransferRow(*fields)
        if row.code in _MOVED:
            moved[Posting(row.code)] += row.amount_nano
    told += [
        f"{format_usd(nano)} {_MOVED[posting]} since then is no longer known here."
        for posting, nano in moved.items()
    ]
    return told


def _continues(now: LedgerRows, old: Meta) -> bool:
    """Whether a ledger holds the batch that the backup ends with."""
    if old.head_number == 0:
        return True
    batch = next(now.batches(old.head_number - 1), None)
    return batch is not None and (batch.number, batch.hash) == (old.head_number, old.head_hash)
