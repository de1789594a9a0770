"""`coster ledger`: prove that the books balance."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coster.databases import HELP, database_of
from coster.options import Data, Json, reported
from coster.output import ERROR, print_json, styled
from market.errors import NotFound

if TYPE_CHECKING:
    from market.accounting.audit import VerifyReport

ledger = typer.Typer(help="The double-entry ledger.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(ledger, name="ledger")


@ledger.command()
def verify(
    data: Data = None,
    database: Annotated[
        str | None, typer.Option("--database", help=f"sqlite:///FILE, or {HELP}")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Replay everything, not only what is new.")
    ] = False,
    rollups: Annotated[
        bool, typer.Option("--rollups", help="Count the sums by time again, too; --full does.")
    ] = False,
    json: Json = False,
) -> None:
    """Replay the transfers since the last audit; works while the market runs and after."""
    from coster.market_http import paths_of
    from storage.database import StorageError
    from storage.opening import verify_ledger

    with reported(as_json=json):
        paths = paths_of(data)
        try:
            books = database_of(paths, database)
            report = verify_ledger(paths.data, books, full=full, rollups=rollups)
        except StorageError as error:
            raise NotFound(str(error), "data") from error
    if json:
        print_json(report.as_json())
    else:
        _print(report)
    if not report.ok:
        raise SystemExit(ERROR)


def _print(report: VerifyReport) -> None:
    from market.money import format_usd_exact

    out = sys.stdout
    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    if report.ok:
        out.write(
            f"{styled('✓', 'green', out)} the books balance to the nano: "
            f"{counts or 'nothing is in them yet'}\n"
        )
    else:
        out.write(f"{styled('✗', 'red', out)} {_verdict(report, counts)}\n")
    unsaid = report.problem_count - len(report.problems)
    if report.problem_count > 1:
        for problem in report.problems:
            out.write(f"  {problem}\n")
    if unsaid:
        out.write(f"  … and {unsaid:,} more\n")
    for name, nano in report.totals_nano.items():
        out.write(f"  {name:24} {format_usd_exact(nano)}\n")
    if report.ok and report.sums is not None:
        out.write(f"  {report.sums:,} sums by time are what the journal counts\n")
    if report.since_batch:
        out.write(f"  since batch {report.since_batch:,}; --full replays what came before it\n")
    if report.head_hash:
        out.write(f"  head {report.head_hash}\n")


def _verdict(report: VerifyReport, counts: str) -> str:
    """How many problems among how many rows; a single one is said at once."""
    number = f"{report.problem_count:,} problem" + ("s" if report.problem_count > 1 else "")
    where = f" in {counts}" if counts else ""
    return f"{number}{where}: {report.problems[0]}" if report.problem_count == 1 else number + where
