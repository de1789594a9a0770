"""`coster ledger`: prove that the books balance."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from coster.options import Data, Json, reported
from coster.output import ERROR, print_json, styled

ledger = typer.Typer(help="The double-entry ledger.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(ledger, name="ledger")


@ledger.command()
def verify(
    data: Data = None,
    database: Annotated[
        str | None, typer.Option("--database", help="A database URL instead of a data folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Replay every transfer and compare; works while the market runs and after."""
    from storage.verify import verify as verify_ledger

    from coster.market_http import paths_of

    with reported(as_json=json):
        url = database or f"sqlite+aiosqlite:///{paths_of(data).data / 'ledger.db'}"
        report: Any = asyncio.run(verify_ledger(url))
    if json:
        print_json(report.as_json())
    else:
        mark = styled("✓", "green", sys.stdout) if report.ok else styled("✗", "red", sys.stdout)
        sys.stdout.write(f"{mark} {report.summary()}\n")
        for problem in report.problems:
            sys.stdout.write(f"  {problem}\n")
    if not report.ok:
        raise SystemExit(ERROR)
