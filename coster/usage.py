"""`coster usage`: what was charged, request by request or in sums."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from coster.histories import (
    Csv,
    Models,
    Since,
    Until,
    Window,
    bucket_of,
    by_bucket,
    check_output,
    every_page,
    path_of,
    print_csv,
    print_export,
    print_table,
    query_of,
    sparkline,
    starts,
)
from coster.options import Data, Json, Key, Url, reported
from coster.output import print_json
from market.money import format_usd_exact

USAGE_ROWS = 20
COLUMNS: Final = (
    *("start", "model", "key_id", "requests", "failures", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "reasoning_tokens", "total_tokens", "cost_nano_usd", "cost_usd"),
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(usage)


def usage(
    limit: Annotated[int, typer.Option(help="How many requests, newest first.")] = USAGE_ROWS,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Sums by model, key, day or hour; several with commas."),
    ] = None,
    since: Since = None,
    until: Until = None,
    window: Window = None,
    model: Models = None,
    key_id: Annotated[
        list[str] | None, typer.Option("--key-id", help="Only of this key (key_…); repeatable.")
    ] = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """The requests that were charged, newest first, or sums of them; --csv has all of them."""
    from coster.market_http import api

    path = "payments/usage"
    asked = query_of(since=since, until=until, window=window, model=model, key=key_id)
    with reported(as_json=json):
        check_output(as_json=json, as_csv=csv)
        connection = api(data, url, key, "demo_key")
        if csv and by is None:
            print_export(connection, path, asked)
            return
        if by is None:
            found = connection.request("GET", path_of(path, {**asked, "limit": limit}))
        else:
            found = every_page(connection, path, {**asked, "by": by})
    if json:
        print_json(found)
    elif by is None:
        _print_requests(found if isinstance(found, list) else found["data"])
    elif csv:
        print_csv(found["data"], COLUMNS)
    else:
        _print_sums(found, by)


def _print_requests(rows: list[dict[str, Any]]) -> None:
    if not rows:
        sys.stdout.write("Nothing was charged yet.\n")
        return
    sys.stdout.write(f"{'time':20} {'model':28} {'in':>7} {'out':>7} {'cost':>13}  request\n")
    for row in rows:
        nano = int(row.get("cost_nano_usd", row["cost_micro_usd"] * 1000))
        sys.stdout.write(
            f"{row['timestamp'][:19]:20} {row['model'][:28]:28} {row['prompt_tokens']:>7} "
            f"{row['completion_tokens']:>7} {'$' + format(nano / 1e9, '.9f'):>13}  "
            f"{row['request_id']}\n"
        )


def _print_sums(found: dict[str, Any], by: str) -> None:
    rows, bucket_s = found["data"], bucket_of(by)
    if not rows:
        sys.stdout.write("Nothing was used in this time.\n")
        return
    if bucket_s:
        bars = sparkline(by_bucket(found, "cost_nano_usd", bucket_s))
        sys.stdout.write(f"{bars}  {found['begin']} to {found['end']}\n\n")
    apart = [name for name in ("model", "key_id") if rows[0][name] is not None]
    head = [*(["time"] if bucket_s else []), *apart, "requests", "failed", "in", "out", "cost"]
    times = [[time] for time in starts(rows, bucket_s)] if bucket_s else [[]] * len(rows)
    cells = [[*time, *_cells(row, apart)] for time, row in zip(times, rows, strict=True)]
    whole = {
        name: sum(int(row[name]) for row in rows)
        for name in ("requests", "failures", "prompt_tokens", "completion_tokens", "cost_nano_usd")
    }
    left = len(head) - 5
    cells.append([*(["total", *[""] * (left - 1)] if left else []), *_cells(whole, [])])
    print_table(cells, head, left)


def _cells(row: dict[str, Any], apart: list[str]) -> list[str]:
    return [
        *(row[name] for name in apart),
        f"{row['requests']:,}",
        f"{row['failures']:,}",
        f"{row['prompt_tokens']:,}",
        f"{row['completion_tokens']:,}",
        format_usd_exact(int(row["cost_nano_usd"])),
    ]
