"""`coster ledger`: prove that the books balance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coster.options import Data, Json, reported
from coster.output import ERROR, print_json, styled
from market.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from market.accounting.audit import VerifyReport

SQLITE = "sqlite:///"

ledger = typer.Typer(help="The double-entry ledger.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(ledger, name="ledger")


@ledger.command()
def verify(
    data: Data = None,
    database: Annotated[
        str | None, typer.Option("--database", help="sqlite:///FILE instead of a data folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Replay every transfer and compare; works while the market runs and after."""
    from coster.market_http import paths_of
    from storage.database import StorageError
    from storage.verify import verify as verify_ledger
    from storage.verify import verify_file

    with reported(as_json=json):
        file = _file_of(database)
        try:
            report = verify_file(file) if file else verify_ledger(paths_of(data).data)
        except StorageError as error:
            raise NotFound(str(error), "data") from error
    if json:
        print_json(report.as_json())
    else:
        _print(report)
    if not report.ok:
        raise SystemExit(ERROR)


def _file_of(database: str | None) -> Path | None:
    """The file that a database URL names: the market's own, or a copy of it."""
    if database is None:
        return None
    if not database.startswith(SQLITE):
        raise InvalidRequest(
            f"--database is {database[:60]!r}; this version reads {SQLITE}/path/to/ledger.sqlite3.",
            "database",
        )
    return Path(database.removeprefix(SQLITE))


def _print(report: VerifyReport) -> None:
    out = sys.stdout
    counts = ", ".join(f"{count:,} {name}" for name, count in report.counts.items())
    if report.ok:
        out.write(
            f"{styled('✓', 'green', out)} the books balance to the nano: "
            f"{counts or 'nothing is in them yet'}\n"
        )
    else:
        out.write(f"{styled('✗', 'red', out)} {_verdict(report, counts)}\n")
    for name, nano in report.totals_nano.items():
        out.write(f"  {name:24} ${nano / 1e9:,.9f}\n")
    unsaid = report.problem_count - len(report.problems)
    if report.problem_count > 1:
        for problem in report.problems:
            out.write(f"  {problem}\n")
    if unsaid:
        out.write(f"  … and {unsaid:,} more\n")
    if report.head_hash:
        out.write(f"  head {report.head_hash}\n")


def _verdict(report: VerifyReport, counts: str) -> str:
    """How many problems among how many rows; a single one is said at once."""
    number = f"{report.problem_count:,} problem" + ("s" if report.problem_count > 1 else "")
    where = f" in {counts}" if counts else ""
    return f"{number}{where}: {report.problems[0]}" if report.problem_count == 1 else number + where
