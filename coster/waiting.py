"""`coster queue` and `coster policy`: who waits for what, and what decides who is served where."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, TextIO

import typer

from coster.options import Data, Json, reported
from coster.output import print_json


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(queue)
    app.command()(policy)


def queue(data: Data = None, json: Json = False) -> None:
    """Who waits for which model, in the order in which they will be served."""
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", "/admin/queue")
    if json:
        print_json(answer)
        return
    if not answer["queues"]:
        sys.stdout.write("Nobody waits.\n")
    for number, entry in enumerate(answer["queues"]):
        if number:
            sys.stdout.write("\n")
        _print_queue(sys.stdout, entry)


def _print_queue(out: TextIO, entry: Mapping[str, Any]) -> None:
    from coster.table import NOTHING, Column, print_table, print_text
    from market.verdicts import span

    waiting = "1 request waits" if entry["waiting"] == 1 else f"{entry['waiting']} requests wait"
    print_text(out, f"{entry['model']}: {waiting}", style="bold")
    print_text(out, f"{entry['macs']}{_coming(entry)}")
    columns = (
        Column("", right=True),
        Column("request", most=34),
        Column("class", drop=2),
        Column("waited", right=True),
        Column("gives up in", right=True),
        Column("expected wait", right=True),
        Column("cost tokens", right=True, drop=1),
    )
    rows = [
        [
            str(place),
            each["request_id"],
            each["class"],
            span(each["waited_s"]),
            span(max(each["gives_up_in_s"], 0.0)),
            NOTHING if each["predicted_wait_s"] is None else span(each["predicted_wait_s"]),
            f"{each['cost_tokens']:,.0f}",
        ]
        for place, each in enumerate(entry["requests"], start=1)
    ]
    print_table(out, columns, rows)
    more = entry["waiting"] - len(rows)
    if more > 0:
        out.write(f"… and {more} more\n")


def _coming(entry: Mapping[str, Any]) -> str:
    """When the planner will have made the model serve somewhere, where nobody has it yet."""
    from market.verdicts import span

    if entry["ready"] or entry["ready_in_s"] is None:
        return ""
    return f"; a Mac will have it in {span(entry['ready_in_s'])}"


def policy(
    name: Annotated[
        str | None, typer.Argument(help="Route by this one until the router starts again.")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """The routing policy in use, and all there are; with a NAME, another one from now on."""
    from coster.market_http import operations

    with reported(as_json=json):
        connection = operations(data)
        if name is None:
            answer = connection.request("GET", "/admin/policy")
        else:
            answer = connection.request("POST", "/admin/policy", {"name": name})
    if json:
        print_json(answer)
        return
    _print_policy(sys.stdout, answer, switched=name is not None)


def _print_policy(out: TextIO, answer: Mapping[str, Any], *, switched: bool) -> None:
    from coster.table import Cell, Column, print_table, print_text

    now, later = answer["policy"], answer["after_restart"]
    until = "" if now == later else f" until the router starts again; then by {later}"
    print_text(out, f"Requests are routed by {now}{until}.")
    if switched:
        return
    rows: list[list[Cell]] = [
        ["→" if each["name"] == now else "", (each["name"], "bold"), each["about"]]
        for each in answer["policies"]
    ]
    print_table(out, (Column("", most=1), Column("policy"), Column("how", most=60)), rows)
    terms = ", ".join(f"coster-{term}" for term in answer["terms"])
    print_text(out, f"Ours without one of its terms: {terms}.")
