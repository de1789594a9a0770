"""`coster ledger export`, `backup`, `restore`, `retention`: the books as files."""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from coster.databases import HELP, database_of
from coster.options import Data, Json, reported
from coster.output import NotRunning, counted, print_json, styled
from market.accounting.exports import FORMATS
from market.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from coster.paths import MarketPaths
    from storage.backup import Backup
    from storage.restore import Restored

Database = Annotated[str | None, typer.Option("--database", help=f"sqlite:///FILE, or {HELP}")]
BACKUP_DAYS = 90
EVENT_DAYS = 90


def add_to(ledger: typer.Typer) -> None:
    """Register the commands."""
    ledger.command()(export)
    ledger.command()(backup)
    ledger.command()(restore)
    ledger.command()(retention)


@contextmanager
def storage_faults() -> Iterator[None]:
    """A StorageError said as a command says things."""
    from storage.database import StorageError

    try:
        yield
    except StorageError as error:
        raise NotFound(str(error), "data", "ledger_unusable") from error


# ── export ────────────────────────────────────────────────────────────────────────────


def export(
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = "beancount",
    out: Annotated[str, typer.Option("--out", help="A file (0600), or - for the screen.")] = "-",
    since: Annotated[
        str | None, typer.Option("--since", help="From this UTC day on: YYYY-MM-DD.")
    ] = None,
    account: Annotated[str, typer.Option("--account", help="This account's only.")] = "",
    trace: Annotated[
        bool, typer.Option("--trace", help="Instead the requests, as `coster sim replay` reads.")
    ] = False,
    anonymize: Annotated[
        bool,
        typer.Option("--anonymize/--no-anonymize", help="Of a trace: pseudonyms for who asked."),
    ] = True,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over a file that is there.")
    ] = False,
    data: Data = None,
    database: Database = None,
) -> None:
    """Write every transfer as beancount, CSV or JSON lines; works while the market runs."""
    from coster.market_http import paths_of
    from market.accounting.exports import Selection
    from storage.export import export_lines
    from storage.opening import open_rows

    with reported(as_json=False), storage_faults():
        chosen_form = next((known for known in FORMATS if known == form), None)
        if chosen_form is None:
            raise InvalidRequest(f"--format must be one of {', '.join(FORMATS)}.", "format")
        chosen = Selection(_day_ns(since), account)
        paths = paths_of(data)
        rows = open_rows(paths.data, database_of(paths, database))
        notes: Counter[str] = Counter()
        written: Counter[str] = Counter()
        try:
            if trace:
                from coster.trace_export import trace_lines

                lines = trace_lines(rows, paths.data, chosen, notes, anonymise=anonymize)
            else:
                lines = export_lines(rows, chosen_form, chosen)
            lines = _counted(lines, written)
            if out == "-":
                sys.stdout.writelines(lines)
            else:
                _write_private(Path(out).expanduser().absolute(), lines, replace=replace)
        finally:
            rows.close()
    for words, count in notes.items():
        sys.stderr.write(f"{count:,} {words}\n")
    if trace and not written:
        after = f" since {since}" if since else ""
        sys.stderr.write(f"no requests{after}{f' of {account}' if account else ''}\n")


def _counted(lines: Iterable[str], written: Counter[str]) -> Iterator[str]:
    for line in lines:
        written["lines"] += 1
        yield line


def _day_ns(day: str | None) -> int:
    if day is None:
        return 0
    try:
        found = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidRequest("--since must be a day like 2026-11-21.", "since") from error
    return int(found.timestamp()) * 1_000_000_000


def _write_private(path: Path, lines: Iterable[str], *, replace: bool) -> None:
    """The file is there only when all of it is; nobody else can read it. A `.gz` is packed.

    Raises Conflict when it is there already and may not be replaced.
    """
    if path.exists() and not replace:
        raise Conflict(f"{path} exists already; give --replace, or another --out.", "out")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            with _packed(file) if path.suffix == ".gz" else nullcontext(file) as target:
                target.writelines(line.encode() for line in lines)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.", "out") from error
    finally:
        draft.unlink(missing_ok=True)


def _packed(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", fileobj=file)


# ── backup and restore ────────────────────────────────────────────────────────────────


def backup(
    out: Annotated[
        Path | None, typer.Option("--out", help="A file [default: a new one in DATA/backups].")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Leave only so many in DATA/backups.")
    ] = None,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="A tar that also holds DATA/secrets.")
    ] = False,
    data: Data = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """Copy the books, audit the copy, and only then call it good; the market may run."""
    from coster.market_http import paths_of
    from storage.backup import backup as make

    with reported(as_json=json), storage_faults():
        paths = paths_of(data)
        made = make(
            paths.data,
            now_ns=time.time_ns(),
            out=None if out is None else out.expanduser(),
            database=database_of(paths, database),
            secrets=with_secrets,
            keep=keep,
        )
    if json:
        print_json(
            {
                "path": str(made.path),
                "size_bytes": made.size_bytes,
                "head_hash": made.report.head_hash,
                "counts": made.report.counts,
                "secrets": list(made.secrets),
                "replayed": made.replayed,
                "removed": [str(path) for path in made.removed],
            }
        )
    else:
        _print_backup(made)


def _print_backup(made: Backup) -> None:
    out = sys.stdout
    proof = (
        "audited from its first batch"
        if made.replayed
        else "its database was audited; restore it elsewhere to prove the dump itself"
    )
    out.write(
        f"{styled('✓', 'green', out)} {made.path}\n"
        f"  {made.size_bytes:,} bytes, {proof}\n  head {made.report.head_hash}\n"
    )
    if made.secrets:
        out.write(f"  with {len(made.secrets)} secrets: whoever has this file has the market\n")
    else:
        out.write("  without secrets/: no API key works without its pepper, so copy that too\n")
    for path in made.removed:
        out.write(f"  removed {path.name}\n")


def restore(
    file: Annotated[Path, typer.Argument(help="A backup made by coster.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Put a backup in place of the books; the present ones are moved aside, never deleted."""
    import asyncio

    from coster.market_http import paths_of
    from storage.opening import is_postgres
    from storage.restore import restore as put_back

    with reported(as_json=json), storage_faults():
        paths = paths_of(data)
        if is_postgres(database_of(paths, None)):
            raise InvalidRequest(
                "These books are on a PostgreSQL server, where nothing is replaced: make an empty "
                "database, fill it with `pg_restore --no-owner --dbname=… FILE`, check it with "
                "`coster ledger verify --full --database URL`, and open the market on it with "
                "`coster up --database URL`.",
                "database",
            )
        with _nobody_runs(paths):
            now_ns = time.time_ns()
            done = asyncio.run(put_back(paths.data, file.expanduser().absolute(), now_ns=now_ns))
    if json:
        print_json(
            {
                "ok": done.report.ok,
                "head_hash": done.report.head_hash,
                "counts": done.report.counts,
                "aside": None if done.aside is None else str(done.aside),
                "lost": done.lost,
                "note": done.note,
                "secrets": list(done.secrets),
                "has_pepper": done.has_pepper,
            }
        )
    else:
        _print_restored(done)
    if not done.report.ok:
        raise SystemExit(1)


@contextmanager
def _nobody_runs(paths: MarketPaths) -> Iterator[None]:
    """Hold the right to run a market on this data, so that none starts meanwhile."""
    from coster.runfile import MarketLock

    paths.prepare()
    lock = MarketLock(paths)
    if not lock.acquire():
        raise Conflict(
            f"A market runs on {paths.data}; end it with `coster down` first.",
            "data",
            "market_running",
        )
    try:
        yield
    finally:
        lock.release()


def _print_restored(done: Restored) -> None:
    out = sys.stdout
    mark = styled("✓", "green", out) if done.report.ok else styled("✗", "red", out)
    out.write(f"{mark} restored and audited: head {done.report.head_hash}\n")
    for sentence in done.lost or [done.note]:
        out.write(f"  {sentence}\n")
    if done.lost:
        out.write("  `coster ledger reconcile` finds what the payment processor knows of it.\n")
    if done.aside is not None:
        out.write(f"  What was there before is in {done.aside}.\n")
    if not done.has_pepper:
        out.write(
            "  secrets/pepper is missing: no API key of these books works until it is back.\n"
        )


# ── retention ─────────────────────────────────────────────────────────────────────────


def retention(
    backups_days: Annotated[int, typer.Option(min=1, help="Keep copies this long.")] = BACKUP_DAYS,
    events_days: Annotated[
        int, typer.Option(min=7, help="Keep the processor's notices this long.")
    ] = EVENT_DAYS,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this, only say.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say, or with --apply delete, what is too old: copies and dealt-with notices, never books."""
    from coster.market_http import operations, paths_of
    from storage import retention as old
    from storage.opening import open_rows

    with reported(as_json=json), storage_faults():
        paths, now_ns = paths_of(data), time.time_ns()
        rows = open_rows(paths.data, database_of(paths, None))
        try:
            events = old.old_events(rows, events_days, now_ns)
        finally:
            rows.close()
        files = old.old_copies(paths.data, backups_days, now_ns)
        forgotten = freed_bytes = 0
        waiting = ""
        if apply:
            freed_bytes = old.remove(files)
            if events:
                try:
                    asked = {"events_days": events_days}
                    answer = operations(data).request("POST", "/admin/ledger/retention", asked)
                    forgotten = answer["forgotten"]
                except NotRunning as error:
                    waiting = f"The notices are forgotten only by a running market. {error.message}"
    told = {
        "applied": apply,
        "copies": [str(path) for path in files],
        "freed_bytes": freed_bytes,
        "events": events,
        "events_forgotten": forgotten,
        "moved_aside": [str(path) for path in old.replaced(paths.data)],
        "note": waiting,
    }
    if json:
        print_json(told)
        return
    verb = "Deleted" if apply else "Would delete"
    copies = "1 copy" if len(files) == 1 else f"{len(files)} copies"
    sys.stdout.write(f"{verb} {copies} older than {backups_days} days\n")
    for path in files:
        sys.stdout.write(f"  {path}\n")
    notices = counted(forgotten if apply else events, "notice")
    sys.stdout.write(f"{verb} {notices} dealt with more than {events_days} days ago\n")
    for place in old.replaced(paths.data):
        sys.stdout.write(f"Left alone: {place}, moved aside by a restore\n")
    sys.stdout.write(f"{waiting}\n" if waiting else "")
    if not apply:
        sys.stdout.write("Nothing was deleted; --apply does it.\n")
