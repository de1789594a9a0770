"""`coster why`: of a request, where it went and why; of a Mac, how it stands and why."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from coster.options import Data, Json, reported
from coster.output import print_json


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(why)


def why(
    request_or_mac: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST|MAC",
            help="The x-coster-request-id of a response, or a Mac's name or id.",
        ),
    ],
    replay: Annotated[
        str,
        typer.Option(
            help="Decide it again by this policy and show both; `present` is the one in use."
        ),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Every candidate, however many.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Why a request went where it went: every candidate, terms, attempts, outcomes, who was paid.

    Or why a Mac earns or does not, has these models, and won or lost the latest requests.
    """
    from coster.market_http import operations

    path = f"/admin/why/{quote(request_or_mac, safe='')}"
    if replay:
        path += f"?replay={quote(replay, safe='')}"
    with reported(as_json=json):
        answer = operations(data).request("GET", path)
    if json:
        print_json(answer)
        return
    if answer["kind"] == "mac":
        from coster.why_mac_show import print_mac

        print_mac(sys.stdout, answer)
    else:
        from coster.why_show import print_request

        print_request(sys.stdout, answer, every=every)
