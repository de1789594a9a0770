"""`coster ledger report`, `alerts`, `reconcile`, `payouts`: how the business stands."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from coster.books_files import Database, storage_faults
from coster.databases import database_of
from coster.options import Data, Json, reported
from coster.output import DEGRADED, ERROR, NotRunning, counted, print_json, styled
from market.money import NANO_PER_CENT, format_usd_exact

PROCESSOR_S_MAX = 150.0
"""Reconciling pages through every line of the payment processor."""
UNMATCHED_SHOWN = 50
SERVED_DAYS = 7
"""How long the router remembers how an attempt ended."""
DAY_S = 86_400.0
_SUMS = tuple(
    f"{name}_cents" for name in ("ledger", "in_flight", "suspense", "processor", "difference")
)


def add_to(ledger: typer.Typer) -> None:
    """Register the commands."""
    ledger.command()(report)
    ledger.command()(alerts)
    ledger.command()(reconcile)
    ledger.command()(payouts)


def report(data: Data = None, database: Database = None, json: Json = False) -> None:
    """Revenue, costs, what is owned and owed; says where the settings lose money."""
    from coster.market_http import operations, paths_of

    with reported(as_json=json), storage_faults():
        try:
            page = operations(data).request("GET", "/admin/report")
        except NotRunning:
            paths = paths_of(data)
            page = _of_disk(paths.data, database_of(paths, database))
    if json:
        print_json(page)
    else:
        _print_page(page)
    if not page["balanced"]:
        raise SystemExit(ERROR)


def _of_disk(data: Any, database: str) -> dict[str, object]:
    """The page of a market that does not run; its settings, and so its warnings, are unknown."""
    from market.accounting.report import report_of
    from storage.opening import open_rows

    rows = open_rows(data, database)
    try:
        return report_of(rows.accounts()).as_json()
    finally:
        rows.close()


def _print_page(page: dict[str, Any]) -> None:
    out = sys.stdout
    for title, key in (
        ("Revenue", "revenue_nano_usd"),
        ("Costs", "costs_nano_usd"),
        ("Owned", "assets_nano_usd"),
        ("Owed", "liabilities_nano_usd"),
        ("Promo credit, goodwill included", "promo_nano_usd"),
    ):
        out.write(f"{styled(title, 'bold', out)}\n")
        for name, nano in page[key].items():
            out.write(_line(name.replace("_", " "), nano))
    out.write(f"{styled('Own', 'bold', out)}\n")
    out.write(_line("profit", page["profit_nano_usd"]))
    out.write(_line("capital", page["capital_nano_usd"]))
    if page["balanced"]:
        out.write(f"{styled('✓', 'green', out)} what is owned is what is owed and own\n")
    else:
        off = format_usd_exact(int(page["difference_nano_usd"]))
        out.write(
            f"{styled('✗', 'red', out)} the books are off by {off}: coster ledger verify --full\n"
        )
    for warning in page["warnings"]:
        out.write(f"{styled('!', 'yellow', out)} {warning}\n")


def _line(name: str, nano: str) -> str:
    return f"  {name:24} {format_usd_exact(int(nano)):>22}\n"


def alerts(data: Data = None, json: Json = False) -> None:
    """What to look at now: unexplained money, debts, suspicious shares of revenue."""
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", "/admin/alerts")
    if json:
        print_json(answer)
    else:
        for alert in answer["alerts"]:
            sys.stdout.write(f"{styled('!', 'yellow', sys.stdout)} {alert['message']}\n")
        if answer["ok"]:
            sys.stdout.write("Nothing to look at.\n")
    if not answer["ok"]:
        raise SystemExit(DEGRADED)


def reconcile(
    served: Annotated[
        bool, typer.Option("--served", help="Match what Macs served with what was paid, instead.")
    ] = False,
    days: Annotated[
        int, typer.Option(min=1, max=SERVED_DAYS, help="With --served: how far back.")
    ] = SERVED_DAYS,
    data: Data = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """Match the payment processor's lines with the ledger's transfers."""
    from coster.market_http import operations

    if served:
        _reconcile_served(data, database, days, as_json=json)
        return
    with reported(as_json=json):
        answer = operations(data).request("POST", "/admin/reconcile", timeout_s=PROCESSOR_S_MAX)
    if json:
        print_json(answer)
    else:
        _print_match(answer)
    if not answer.get("ok"):
        raise SystemExit(DEGRADED)


def _reconcile_served(data: Path | None, database: str | None, days: int, *, as_json: bool) -> None:
    """From the router's log and the books themselves: the market may run or not."""
    from coster.market_http import paths_of
    from storage.opening import open_rows
    from storage.served import compare_served

    with reported(as_json=as_json), storage_faults():
        paths, now_s = paths_of(data), time.time()
        rows = open_rows(paths.data, database_of(paths, database))
        try:
            found = compare_served(paths.data, rows, since_s=now_s - days * DAY_S, now_s=now_s)
        finally:
            rows.close()
    answer = found.as_json()
    if as_json:
        print_json(answer)
    else:
        _print_served(answer)
    if not found.ok:
        raise SystemExit(DEGRADED)


def _print_served(answer: dict[str, Any]) -> None:
    out = sys.stdout
    mark = styled("✓", "green", out) if answer["ok"] else styled("✗", "red", out)
    out.write(
        f"{mark} {answer['answers']:,} answers served, {answer['paid_answers']:,} paid, "
        f"{answer['unpaid_count']:,} not or not wholly\n"
    )
    if answer["waiting"]:
        out.write(f"  {answer['waiting']:,} more wait for their settlement\n")
    for machine, mac in answer["machines"].items():
        out.write(
            f"  {machine:32} {mac['answers']:>9,} answers {mac['tokens']:>12,} tokens, paid "
            f"{mac['paid_tokens']:>12,}\n"
        )
    for line in answer["unpaid"][:UNMATCHED_SHOWN]:
        out.write(f"  {_words(line)}\n")
    if answer["unpaid_count"] > UNMATCHED_SHOWN:
        out.write(f"  … and {answer['unpaid_count'] - UNMATCHED_SHOWN:,} more\n")


def _print_match(answer: dict[str, Any]) -> None:
    out, unmatched = sys.stdout, answer.get("unmatched") or []
    mark = styled("✓", "green", out) if answer.get("ok") else styled("✗", "red", out)
    out.write(f"{mark} {answer.get('matched', 0)} lines matched, {len(unmatched)} not\n")
    for name in _SUMS:
        if name in answer:
            shown = _cents(answer[name])
            out.write(f"  {name.removesuffix('_cents').replace('_', ' '):18} {shown:>16}\n")
    for line in unmatched[:UNMATCHED_SHOWN]:
        out.write(f"  {_words(line)}\n")
    if len(unmatched) > UNMATCHED_SHOWN:
        out.write(f"  … and {len(unmatched) - UNMATCHED_SHOWN} more; --json shows all\n")


def _cents(cents: int) -> str:
    return format_usd_exact(int(cents) * NANO_PER_CENT)[:-7]


def _words(line: object) -> str:
    if isinstance(line, dict):
        return "  ".join(f"{name} {value}" for name, value in line.items())
    return str(line)


def payouts(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make the weekly payouts that are due now; each is made once, however often asked."""
    from coster.market_http import operations

    if not (yes or json) and not typer.confirm("Pay out everything that is due?", err=True):
        raise SystemExit(ERROR)
    with reported(as_json=json):
        answer = operations(data).request("POST", "/admin/payouts/run", timeout_s=PROCESSOR_S_MAX)
    if json:
        print_json(answer)
        return
    made = f"{counted(answer['payouts'], 'payout')} of {_cents(answer['amount_cents'])} in all"
    week, then = f"week of Monday {answer['week']}", f"Monday {answer['next_week']}"
    if answer["already"]:
        ran = answer["run_at"][:19].replace("T", " ")
        sys.stdout.write(f"The {week} was run already, at {ran} UTC: {made}.\n")
        sys.stdout.write(f"Nothing was paid again. The next run is due on {then}.\n")
    else:
        sys.stdout.write(f"{made} for the {week}. The next run is due on {then}.\n")
    for reason, count in answer["passed"].items():
        sys.stdout.write(f"  {count} passed over: {reason}\n")
