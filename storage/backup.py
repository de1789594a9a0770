"""Copies of the books: made while the market runs, proved before they are called good.

A copy is what one read transaction sees, written by SQLite itself, audited from its first
batch and only then given its name: a file that is called a backup is one. With secrets it is
a tar, because the keys of a ledger are worth nothing without the pepper beside it.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from market.accounting.audit import VerifyReport
from storage.database import (
    BACKUP_FOLDER,
    BUSY_TIMEOUT_MS,
    LEDGER_FILE,
    SQLITE_FAULTS,
    StorageError,
    prepare_folder,
    read_only_uri,
    remedy,
)
from storage.durable import sync_to_disk
from storage.opening import is_postgres, verify_ledger
from storage.pepper import SECRETS_FOLDER
from storage.verify import verify_file

PREFIX: Final = "backup-"
MIGRATION_PREFIX: Final = "ledger-"  # the copies that are made before a change of schema
SUFFIXES: Final = (".sqlite3", ".tar", ".dump")


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was proved. `replayed` is False where only its original could be."""

    path: Path
    size_bytes: int
    report: VerifyReport
    secrets: tuple[str, ...] = ()
    replayed: bool = True
    removed: tuple[Path, ...] = ()


def stamp_of(now_ns: int) -> str:
    """A time as file names have it: `20261121T104500Z`."""
    return datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")


def backup(
    data: Path,
    *,
    now_ns: int,
    out: Path | None = None,
    database: str = "",
    secrets: bool = False,
    keep: int | None = None,
) -> Backup:
    """Copy the books and prove the copy; nobody needs to stop for it.

    Without `out` it goes to `backups/` of the data folder, where `keep` then leaves only so
    many of the copies made here. Raises StorageError and leaves nothing half done.
    """
    on_server = is_postgres(database)
    if on_server and secrets:
        raise StorageError(
            "--with-secrets is for books in a file. Copy the data folder's secrets/ yourself, "
            "beside the dump and as private."
        )
    suffix = ".dump" if on_server else ".tar" if secrets else ".sqlite3"
    folder = data / BACKUP_FOLDER
    if out is None:
        prepare_folder(folder)
    target = (out or folder / f"{PREFIX}{stamp_of(now_ns)}{suffix}").absolute()
    if target.exists():
        raise StorageError(f"{target} exists already; choose another name with --out.")
    if not target.parent.is_dir():
        raise StorageError(f"The folder {target.parent} does not exist; make it first.")
    if on_server:
        made = _dump(data, database, target)
    else:
        made = _copy(data / LEDGER_FILE, target, data / SECRETS_FOLDER if secrets else None)
    removed = () if keep is None else _keep_newest(folder, keep)
    return Backup(made.path, made.size_bytes, made.report, made.secrets, made.replayed, removed)


def copies(data: Path, prefixes: tuple[str, ...] = (PREFIX, MIGRATION_PREFIX)) -> list[Path]:
    """The copies in a data folder's `backups/`, oldest first."""
    folder = data / BACKUP_FOLDER
    found = [
        path
        for prefix in prefixes
        for path in folder.glob(f"{prefix}*")
        if path.suffix in SUFFIXES and path.is_file()
    ]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def copy_file(source: Path, target: Path) -> None:
    """What one read transaction sees of a SQLite file, as a file of its own (0600, synced)."""
    if not source.exists():
        raise StorageError(f"There is no ledger file {source}.")
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    target.unlink()  # SQLite wants to make it; the name was free and the folder is writable
    try:
        connection = sqlite3.connect(read_only_uri(source), uri=True, isolation_level=None)
        try:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            connection.execute("VACUUM INTO ?", (str(target),))
        finally:
            connection.close()
        target.chmod(0o600)
        sync_to_disk(target)
    except (*SQLITE_FAULTS, OSError) as error:
        target.unlink(missing_ok=True)
        raise StorageError(
            f"The ledger {source} could not be copied to {target.parent}: {error}. "
            f"{remedy(target, error)} `coster ledger verify --full` says whether the ledger is "
            "sound."
        ) from error


def _copy(source: Path, target: Path, secrets: Path | None) -> Backup:
    draft = target.with_name(f".{target.name}.{os.getpid()}.sqlite3")
    archive = target.with_name(f".{target.name}.{os.getpid()}.tar")
    names: tuple[str, ...] = ()
    old_mask = os.umask(0o077)
    try:
        copy_file(source, draft)
        report = verify_file(draft, full=True)
        if not report.ok:
            raise StorageError(
                f"The copy of {source} is not sound, so it was not kept: {report.problems[0]} "
                "`coster ledger verify --full` says whether the ledger itself is."
            )
        if secrets is None:
            draft.rename(target)
        else:
            names = _archive(archive, draft, secrets)
            archive.rename(target)
        sync_to_disk(target.parent)
    except OSError as error:
        raise StorageError(f"{target} could not be written: {error.strerror}.") from error
    finally:
        os.umask(old_mask)
        for path in (draft, archive):
            path.unlink(missing_ok=True)
    return Backup(target, target.stat().st_size, report, names)


def _archive(archive: Path, ledger: Path, secrets: Path) -> tuple[str, ...]:
    """The ledger and every secret in one file; gives the secrets' names."""
    files = sorted(path for path in secrets.glob("*") if path.is_file())
    with tarfile.open(archive, "x") as tar:
        tar.add(ledger, LEDGER_FILE)
        for path in files:
            tar.add(path, f"{SECRETS_FOLDER}/{path.name}")
    archive.chmod(0o600)
    sync_to_disk(archive)
    return tuple(path.name for path in files)


def _dump(data: Path, database: str, target: Path) -> Backup:
    """A dump by PostgreSQL's own program; what is audited is the database it was made from."""
    from storage.postgres import Address
    from storage.postgres_migrations import dump

    report = verify_ledger(data, database, full=True)
    if not report.ok:
        raise StorageError(f"The books are not sound, so no copy was made: {report.problems[0]}")
    dump(Address.of(database), target)
    sync_to_disk(target)
    return Backup(target, target.stat().st_size, report, replayed=False)


def _keep_newest(folder: Path, keep: int) -> tuple[Path, ...]:
    if keep < 1:
        raise StorageError("--keep must be at least 1: the copy just made stays.")
    old = copies(folder.parent, (PREFIX,))[:-keep]
    for path in old:
        path.unlink()
    return tuple(old)
