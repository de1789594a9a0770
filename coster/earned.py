"""`coster earnings`: what an owner's Macs have earned, at a glance or by device, model and time."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from coster.histories import (
    DAY_S,
    HOUR_S,
    Csv,
    Models,
    Since,
    Until,
    Window,
    bucket_of,
    by_bucket,
    check_output,
    every_page,
    print_csv,
    print_export,
    print_table,
    query_of,
    sparkline,
    starts,
)
from coster.options import Data, Json, Key, Url, reported, usd
from coster.output import print_json, styled
from market.money import format_usd, format_usd_exact

RECENT_ROWS = 5
PROVIDER_KEY = "demo_provider_key"  # the file it is kept in
PATH: Final = "provider/earnings"
COLUMNS: Final = (
    *("start", "machine", "model", "jobs", "requests", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "reasoning_tokens", "total_tokens", "cost_nano_usd", "earned_nano_usd"),
    "earned_usd",
)
WINDOWS: Final = {HOUR_S: "24h", DAY_S: "30d", 0: "all"}
"""What a table is of when nothing was said, by its steps of time in seconds."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(earnings)


def earnings(
    limit: Annotated[int, typer.Option(help="How many payments, newest first.")] = RECENT_ROWS,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Sums by device, model, day or hour; several with commas."),
    ] = None,
    since: Since = None,
    until: Until = None,
    window: Window = None,
    model: Models = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Only of this Mac (mac_…); repeatable.")
    ] = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """What your Macs have earned; --csv has every job that was paid."""
    from coster.market_http import api

    asked = query_of(since=since, until=until, window=window, model=model, machine=device)
    if asked and by is None and not csv:
        by = "device"
    with reported(as_json=json):
        check_output(as_json=json, as_csv=csv)
        connection = api(data, url, key, PROVIDER_KEY)
        if csv and by is None:
            print_export(connection, PATH, asked)
            return
        if by is not None:
            found = _sums(connection, by, asked)
        else:
            found = connection.request("GET", f"{PATH}?limit={limit}")
            models = connection.request("GET", "models")["data"]
            day = None if json else _sums(connection, "hour", {})
            # A Mac offers several models: the one on the most of them tells how many there are.
            found["providers_online"] = max((model["ready"] for model in models), default=0)
    if json:
        print_json(found)
    elif by is None:
        assert day is not None
        _print_glance(found, day)
    elif csv:
        print_csv(found["data"], COLUMNS)
    else:
        _print_sums(found, by)


def _sums(connection: Any, by: str, asked: dict[str, Any]) -> dict[str, Any]:
    if not {"from", "to", "window"} & set(asked):
        asked = {**asked, "window": WINDOWS[bucket_of(by)]}
    named = ",".join("machine" if name == "device" else name for name in by.split(","))
    return every_page(connection, PATH, {**asked, "by": named})


def _print_glance(answer: dict[str, Any], day: dict[str, Any]) -> None:
    out = sys.stdout
    out.write(f"{styled('Coster Earnings', 'bold', out)}\n\n")
    out.write(f"Coordinator: online ({answer['providers_online']} providers connected)\n\n")
    out.write("Earnings:\n")
    out.write(f"  Balance:       {usd(answer['balance_nano_usd'])}\n")
    if int(answer["maturing_nano_usd"]):
        out.write(f"    maturing:    {usd(answer['maturing_nano_usd'])}\n")
    out.write(f"  Total earned:  {usd(answer['total_earned_nano_usd'])}\n")
    out.write(f"  Jobs served:   {answer['jobs_served']}\n\n")
    out.write("Recent payouts:\n")
    for row in answer["recent"]:
        out.write(f"  {usd(row['amount_nano_usd'])}  {row['model']}\n")
    if not answer["recent"]:
        out.write("  none yet\n")
    hours = by_bucket(day, "earned_nano_usd", HOUR_S)
    out.write(f"\nLast 24 hours:\n  {sparkline(hours)}  {format_usd(sum(hours))}\n")


def _print_sums(found: dict[str, Any], by: str) -> None:
    rows, bucket_s = found["data"], bucket_of(by)
    if not rows:
        sys.stdout.write("Nothing was earned in this time.\n")
        return
    if bucket_s:
        bars = sparkline(by_bucket(found, "earned_nano_usd", bucket_s))
        sys.stdout.write(f"{bars}  {found['begin']} to {found['end']}\n\n")
    apart = [name for name in ("machine", "model") if rows[0][name] is not None]
    named = ["device" if name == "machine" else name for name in apart]
    head = [*(["time"] if bucket_s else []), *named, "jobs", "in", "out", "earned"]
    times = [[time] for time in starts(rows, bucket_s)] if bucket_s else [[]] * len(rows)
    cells = [[*time, *_cells(row, apart)] for time, row in zip(times, rows, strict=True)]
    whole = {
        name: sum(int(row[name]) for row in rows)
        for name in ("jobs", "prompt_tokens", "completion_tokens", "earned_nano_usd")
    }
    left = len(head) - 4
    cells.append([*(["total", *[""] * (left - 1)] if left else []), *_cells(whole, [])])
    print_table(cells, head, left)


def _cells(row: dict[str, Any], apart: list[str]) -> list[str]:
    return [
        *(row[name] for name in apart),
        f"{row['jobs']:,}",
        f"{row['prompt_tokens']:,}",
        f"{row['completion_tokens']:,}",
        format_usd_exact(int(row["earned_nano_usd"])),
    ]
