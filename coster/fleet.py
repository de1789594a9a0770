"""`coster fleet`, `drain`, `undrain`: every Mac, and which of them may work.

A Mac is named by its name, its public id or its machine id; the beginning is enough where only
one begins so.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from coster.options import Data, Json, duration_s, reported
from coster.output import ERROR, print_json

LOOK_S = 0.5
"""How often a drain that is waited for is looked at."""

MacName = Annotated[
    str, typer.Argument(help="A Mac's name, public id (prv_…) or machine id, or how it begins.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(fleet)
    app.command()(drain)
    app.command()(undrain)


def fleet(
    sick: Annotated[bool, typer.Option("--sick", help="Only those that do not earn.")] = False,
    every: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Every Mac: how it stands and why, what it has and does; the worst first."""
    from coster.fleet_show import print_fleet
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", "/admin/fleet")
    if sick:
        answer["macs"] = [mac for mac in answer["macs"] if mac["verdict"] != "EARNING"]
    if json:
        print_json(answer)
    else:
        print_fleet(sys.stdout, answer, sick=sick, every=every)


def drain(
    mac: MacName,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; its owner and coster fleet show it.")
    ] = "operator",
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing runs there.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long --wait waits: 90s, 10m, 2h.")
    ] = "10m",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let a Mac finish what it has and take nothing new, until it is undrained.

    It outlives restarts of the market, and can be said of a Mac that is away.
    """
    from coster.market_http import operations
    from coster.table import print_text

    with reported(as_json=json):
        give_up_s = time.monotonic() + duration_s("--timeout", timeout)
        connection = operations(data)
        answer = connection.request(
            "POST", f"/admin/drain/{quote(mac, safe='')}", {"reason": reason}
        )
        if not json:
            _print_drain(answer)
        waited = wait and answer["in_flight"] > 0
        if waited:
            path = f"/admin/fleet/{quote(answer['machine'], safe='')}"
            answer |= _wait(connection, path, give_up_s)
    if json:
        print_json(answer)
    elif wait and answer["in_flight"]:
        sys.stderr.write(
            f"error: {_requests(answer['in_flight'])} still there after {timeout}; it stays "
            "drained. Say coster drain --wait again to wait on.\n"
        )
    elif waited:
        print_text(sys.stdout, f"Nothing runs on {answer['name']} any more.")
    if wait and answer["in_flight"]:
        raise SystemExit(ERROR)


def _wait(connection: Any, path: str, give_up_s: float) -> dict[str, Any]:
    """How the Mac stands once nothing runs there, or when the time is over."""
    while True:
        mac = connection.request("GET", path)
        if not mac["in_flight"] or time.monotonic() >= give_up_s:
            return {"in_flight": mac["in_flight"], "here": mac["health"] != "lost"}
        time.sleep(LOOK_S)


def _print_drain(answer: dict[str, Any]) -> None:
    from coster.table import plain, print_text

    out, name = sys.stdout, plain(answer["name"])
    if not answer["here"]:
        print_text(out, f"{name} is away; it gets nothing to do when it comes back.")
        return
    left = f"{_requests(answer['in_flight'])} left there" if answer["in_flight"] else "nothing runs"
    print_text(out, f"{name} takes nothing new ({answer['reason']}); {left}.")
    nowhere = ", ".join(answer["no_room"])
    soon = ", ".join(model for model in answer["only_here"] if model not in answer["no_room"])
    if soon:
        said = f"! No other Mac that takes work has {soon}: requests for it wait until one has."
        print_text(out, said)
    if nowhere:
        said = (
            f"! No other Mac that takes work has {nowhere}, and none would load it: requests for "
            "it are refused (503) until one does or this one is undrained."
        )
        print_text(out, said)


def undrain(mac: MacName, data: Data = None, json: Json = False) -> None:
    """Let a drained Mac work again."""
    from coster.market_http import operations
    from coster.table import plain, print_text

    with reported(as_json=json):
        answer = operations(data).request("POST", f"/admin/undrain/{quote(mac, safe='')}")
    if json:
        print_json(answer)
        return
    name = plain(answer["name"])
    if not answer["was_drained"]:
        print_text(sys.stdout, f"{name} was not drained.")
    elif not answer["here"]:
        print_text(sys.stdout, f"{name} may work again once it is back; it is away.")
    else:
        print_text(sys.stdout, f"{name} may work again.")


def _requests(count: int) -> str:
    return "1 request is" if count == 1 else f"{count} requests are"
