"""Histories on the command line: filters, every page of a list, tables, CSV, a sparkline."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode

import typer

from market.errors import InvalidRequest, RateLimited

if TYPE_CHECKING:
    from coster.market_http import Connection

DAY_S: Final = 86_400
HOUR_S: Final = 3_600
PAGE_ROWS: Final = 1_000
PAGES_MAX: Final = 2_000
"""Pages that one command reads: two million sums."""
WAITS_MAX: Final = 120
WAIT_S: Final = 1.0
"""A market that asks for slower reading is waited for two minutes at most, between two pages."""
BARS: Final = "▁▂▃▄▅▆▇█"

Since = Annotated[
    str | None, typer.Option("--since", help="From this UTC day or moment (RFC 3339) on.")
]
Until = Annotated[str | None, typer.Option("--until", help="Before this UTC day or moment.")]
Window = Annotated[
    str | None, typer.Option("--window", help="24h, 7d, 30d or all, in place of both.")
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model; repeatable.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else.")]


def query_of(**said: Any) -> dict[str, Any]:
    """Parameters as the API names them; what was not said is left out."""
    names = {"since": "from", "until": "to"}
    return {names.get(name, name): value for name, value in said.items() if value}


def path_of(path: str, query: dict[str, Any]) -> str:
    """A path with its parameters, lists repeated."""
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def check_output(*, as_json: bool, as_csv: bool) -> None:
    """Refuse two forms at once."""
    if as_json and as_csv:
        raise InvalidRequest("Say either --json or --csv.", "--csv", "contradiction")


def every_page(connection: Connection, path: str, query: dict[str, Any]) -> dict[str, Any]:
    """A list to its end, as one answer: the first page's, with the data of all of them."""
    whole = _page(connection, path, query, "")
    cursor = whole.pop("next_cursor")
    for _ in range(PAGES_MAX):
        if cursor is None:
            return whole
        page = _page(connection, path, query, cursor)
        whole["data"] += page["data"]
        cursor = page["next_cursor"]
    raise InvalidRequest(
        f"This list has more than {PAGES_MAX * PAGE_ROWS} entries; choose a shorter time.", "since"
    )


def _page(connection: Connection, path: str, query: dict[str, Any], cursor: str) -> dict[str, Any]:
    asked = path_of(path, {**query, "limit": PAGE_ROWS, "cursor": cursor})
    for waits_left in range(WAITS_MAX, -1, -1):
        try:
            page: dict[str, Any] = connection.request("GET", asked)
            return page
        except RateLimited:
            if not waits_left:
                raise
            time.sleep(WAIT_S)
    raise AssertionError


def print_export(connection: Connection, path: str, query: dict[str, Any]) -> None:
    """Everything as CSV, piece by piece; a stream that breaks off is an error."""
    for piece in connection.pieces(path_of(f"{path}/export", {**query, "format": "csv"})):
        sys.stdout.write(piece)
    sys.stdout.flush()


def print_csv(rows: Sequence[dict[str, Any]], columns: Iterable[str]) -> None:
    """Rows with a line of names; what was not told apart has no column."""
    names = [name for name in columns if any(row.get(name) is not None for row in rows)]
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row.get(name)) for name in names})


def _cell(value: Any) -> Any:
    """Dollars with all their nine decimals: spreadsheets take 3.3851e-05 for text."""
    return f"{value:.9f}" if isinstance(value, float) else value


def print_table(rows: Sequence[Sequence[str]], head: Sequence[str], left: int) -> None:
    """Columns as wide as they must be; the first `left` ones begin at the left."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def sparkline(values: Sequence[int]) -> str:
    """One bar for each value, the highest for the largest; nothing is the lowest."""
    top = max(values, default=0)
    steps = len(BARS) - 1
    return "".join(BARS[-(-value * steps // top) if top else 0] for value in values)


def by_bucket(told: dict[str, Any], name: str, bucket_s: int) -> list[int]:
    """The sums of every bucket of an answer, oldest first, 0 where there was nothing."""
    from market.accounting.periods import Stretch, buckets

    sums: dict[int, int] = {}
    for row in told["data"]:
        start_s = seconds_of(row["start"])
        sums[start_s] = sums.get(start_s, 0) + int(row[name])
    if told["begin"] is None:
        return []
    stretch = Stretch(seconds_of(told["begin"]), seconds_of(told["end"]))
    return [sums.get(start_s, 0) for start_s in buckets(stretch, bucket_s)]


def seconds_of(text: str) -> int:
    """Unix seconds of a moment as the API writes it."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def bucket_of(by: str) -> int:
    """The step of time in what is told apart, 0 without one."""
    return HOUR_S if "hour" in by.split(",") else DAY_S if "day" in by.split(",") else 0


def starts(rows: Iterable[dict[str, Any]], bucket_s: int) -> Iterator[str]:
    """When each row begins, as people read it: a day, or a day and its hour."""
    for row in rows:
        yield row["start"][:10] if bucket_s == DAY_S else row["start"][:16].replace("T", " ")
