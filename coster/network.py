"""What everybody may see: the network in numbers, and who is ahead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from coster.histories import Csv, check_output, path_of, sparkline
from coster.options import Data, Json, Url, reported
from coster.output import print_json, styled

NOT_TOLD = "—"
Window = Annotated[str, typer.Option(help="24h, 7d, 30d or all.")]
_MINUTE = ("timestamp", "requests", "prompt_tokens", "completion_tokens", "total_tokens")
_ENTRY = ("rank", "pseudonym", "earnings_micro_usd", "tokens", "jobs")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(stats)
    app.command()(leaderboard)


def stats(
    window: Window = "24h",
    data: Data = None,
    url: Url = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """The network so far and now; --csv prints the last 30 minutes, one a line."""
    from coster.market_http import public_api

    with reported(as_json=json):
        check_output(as_json=json, as_csv=csv)
        connection = public_api(data, url)
        totals = connection.request("GET", path_of("network/totals", {"window": window}))
        answer = connection.request("GET", "stats")
    if json:
        print_json({**answer, "window": totals})
    elif csv:
        _print_csv(_MINUTE, answer["time_series"])
    else:
        sys.stdout.write("\n".join(stats_lines(answer, totals)) + "\n")


def leaderboard(
    metric: Annotated[str, typer.Option(help="earnings, tokens or jobs.")] = "earnings",
    window: Window = "all",
    limit: Annotated[int, typer.Option(help="How many entries, from 1 to 200.")] = 20,
    data: Data = None,
    url: Url = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Whose Macs earned, generated or served most, by pseudonym."""
    from coster.market_http import public_api

    path = path_of("leaderboard", {"metric": metric, "window": window, "limit": limit})
    with reported(as_json=json):
        check_output(as_json=json, as_csv=csv)
        answer = public_api(data, url).request("GET", path)
    if json:
        print_json(answer)
    elif csv:
        _print_csv(_ENTRY, answer["entries"])
    else:
        sys.stdout.write("\n".join(board_lines(answer)) + "\n")


def stats_lines(answer: dict[str, Any], totals: dict[str, Any]) -> list[str]:
    """`/v1/stats` and `/v1/network/totals` as people read them; what is not told is a dash."""
    series = [minute["requests"] for minute in answer["time_series"]]
    known = [requests for requests in series if requests is not None]
    peak = f"{max(known)} at most in a minute" if known and max(known) else "none"
    earned = totals["earnings_micro_usd"]
    usd = NOT_TOLD if earned is None else f"${earned / 1e6:,.6f}"
    lines = [
        _line(
            "Served",
            f"{_count(answer['total_requests'])} requests · {_count(answer['total_tokens'])} "
            f"tokens ({_count(answer['total_prompt_tokens'])} in, "
            f"{_count(answer['total_completion_tokens'])} out) · "
            f"{_count(answer['avg_tokens_per_request'])} each",
        ),
        _line(
            "Connected",
            f"{_count(answer['active_providers'])} Macs · {_count(answer['total_gpu_cores'])} GPU "
            f"cores · {_count(answer['total_memory_gb'])} GB · "
            f"{_count(answer['total_bandwidth_gbs'])} GB/s",
        ),
        _line(
            "Ever" if totals["window"] == "all" else f"Last {totals['window']}",
            f"{_count(totals['jobs'])} jobs · {_count(totals['tokens'])} tokens · {usd} to "
            f"{_count(totals['active_accounts'])} "
            f"{'account' if totals['active_accounts'] == 1 else 'accounts'}",
        ),
        _line("Last 30 min", f"{bars(series)}  requests, {peak}"),
    ]
    if answer["models"]:
        width = max(len(model["id"]) for model in answer["models"])
        lines += ["", f"{'model':{width}}  {'Macs':>6}"]
        lines += [f"{m['id']:{width}}  {_count(m['providers']):>6}" for m in answer["models"]]
    return [*lines, "", styled(_as_of(answer["snapshot_at"]), "dim", sys.stdout)]


def board_lines(answer: dict[str, Any]) -> list[str]:
    """`/v1/leaderboard` as a table."""
    as_of = _as_of(answer["updated_at"])
    if not answer["entries"]:
        return [f"Nobody had served anything in this window, {as_of}."]
    width = max(len("account"), *(len(entry["pseudonym"]) for entry in answer["entries"]))
    lines = [f"{'#':>4}  {'account':{width}} {'earned':>16} {'tokens':>16} {'jobs':>11}"]
    for entry in answer["entries"]:
        earned = f"${entry['earnings_micro_usd'] / 1e6:,.6f}"
        lines.append(
            f"{entry['rank']:>4}  {entry['pseudonym']:{width}} {earned:>16} "
            f"{entry['tokens']:>16,} {entry['jobs']:>11,}"
        )
    return [*lines, "", styled(as_of, "dim", sys.stdout)]


def bars(values: Sequence[int | None]) -> str:
    """A sparkline with a gap for what is not told."""
    line = sparkline([value or 0 for value in values])
    return "".join(" " if value is None else bar for value, bar in zip(values, line, strict=True))


def _as_of(stamp: str) -> str:
    return f"as of {stamp.replace('T', ' ').removesuffix('Z')} UTC"


def _line(name: str, text: str) -> str:
    return f"{name:12} {text}"


def _count(value: float | None) -> str:
    return NOT_TOLD if value is None else f"{value:,}"


def _print_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    from csv import writer as csv_writer

    writer = csv_writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[column] for column in columns] for row in rows)
