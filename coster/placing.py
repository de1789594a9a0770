"""`coster placement`: which model is on which Mac and why, and what an operator pins there."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from coster.fleet import MacName
from coster.options import Data, Json, reported
from coster.output import print_json

placement = typer.Typer(
    help="Which model is on which Mac and why, and what comes next.", invoke_without_command=True
)
ModelName = Annotated[str, typer.Argument(help="A model's id.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(placement, name="placement")


@placement.callback()
def show(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Only this one: every Mac that could take it, and how.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every Mac, however many.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """The plan and its reasons, each model and each Mac, and what would be moved next."""
    if context.invoked_subcommand is not None:
        return
    from coster.market_http import operations
    from coster.placing_show import print_model, print_placement

    with reported(as_json=json):
        only = f"?model={quote(model, safe='')}" if model else ""
        answer = operations(data).request("GET", f"/admin/placement{only}")
    if json:
        print_json(answer)
    elif model:
        print_model(sys.stdout, answer, answer["models"][0])
    else:
        print_placement(sys.stdout, answer, every=every)


@placement.command()
def pin(
    mac: MacName,
    model: ModelName,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is shown.")] = "operator",
    data: Data = None,
    json: Json = False,
) -> None:
    """Keep a model on a Mac until it is unpinned; says why where that cannot be."""
    from coster.market_http import operations
    from coster.table import plain, print_text

    with reported(as_json=json):
        body = {"mac": mac, "model": model, "reason": reason}
        answer = operations(data).request("POST", "/admin/placement/pin", body)
    if json:
        print_json(answer)
    else:
        name = plain(answer["name"])
        print_text(sys.stdout, f"{model} is pinned to {name}: {answer['words']}.")


@placement.command()
def unpin(mac: MacName, model: ModelName, data: Data = None, json: Json = False) -> None:
    """Let a pinned model be moved again."""
    from coster.market_http import operations
    from coster.table import plain, print_text

    with reported(as_json=json):
        body = {"mac": mac, "model": model}
        answer = operations(data).request("POST", "/admin/placement/unpin", body)
    if json:
        print_json(answer)
    else:
        name = plain(answer["name"])
        said = "is no longer pinned" if answer["was_pinned"] else "was not pinned"
        print_text(sys.stdout, f"{model} {said} to {name}.")
