"""What a consumer's money does: paying in, what is on hold, and what a key may still spend."""

from __future__ import annotations

import sys
import time
import webbrowser
from typing import Annotated, Any

import typer

from coster.options import Data, Json, Key, RetryKey, Url, cents_of, reported, usd
from coster.output import print_json, styled

POLL_S = 1.0
PAID_S_MAX = 900.0
"""A payment page is waited for this long; it can be paid later all the same."""
ENDED = ("paid", "expired", "failed")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(topup)
    app.command()(holds)
    app.command()(limits)


def topup(
    amount: Annotated[str, typer.Argument(help="How much to pay in, in dollars, such as 25.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is paid.")] = False,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page when on a terminal.")
    ] = True,
    retry_key: RetryKey = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Pay in by card; prints the page where it is paid."""
    from coster.market_http import api, once

    with reported(as_json=json):
        connection = api(data, url, key, "demo_key")
        body = {"amount_cents": cents_of("AMOUNT", amount), "currency": "usd"}
        made = connection.request("POST", "payments/topups", body, headers=once(retry_key))
        made = _until_payable(connection, made)
        if not json:
            _invite(made, browser=browser)
        if wait:
            made = _until_ended(connection, made)
    if json:
        print_json(made)
    elif wait:
        _tell_end(made)
    if wait and made["status"] != "paid":
        raise SystemExit(1)


def _until_payable(connection: Any, made: dict[str, Any]) -> dict[str, Any]:
    """The page is opened a moment after the top-up was asked for."""
    give_up_s = time.monotonic() + 10 * POLL_S
    while made["status"] == "asked" and time.monotonic() < give_up_s:
        time.sleep(POLL_S / 4)
        made = connection.request("GET", f"payments/topups/{made['id']}")
    return made


def _until_ended(connection: Any, made: dict[str, Any]) -> dict[str, Any]:
    give_up_s = time.monotonic() + PAID_S_MAX
    while made["status"] not in ENDED and time.monotonic() < give_up_s:
        time.sleep(POLL_S)
        made = connection.request("GET", f"payments/topups/{made['id']}")
    return made


def _invite(made: dict[str, Any], *, browser: bool) -> None:
    out = sys.stdout
    out.write(f"Top-up {made['id']} of ${made['amount_cents'] / 100:.2f}: {made['status']}\n")
    if made["url"]:
        out.write(f"Pay it here: {styled(made['url'], 'cyan', out)}\n")
        if browser and out.isatty():
            webbrowser.open(made["url"])
    out.flush()


def _tell_end(made: dict[str, Any]) -> None:
    if made["status"] == "paid":
        sys.stdout.write(f"Paid: ${made['amount_cents'] / 100:.2f} is in your balance.\n")
        return
    why = made["reason"] or "the page was not used in time"
    sys.stderr.write(
        f"error: the top-up {made['id']} is {made['status']} ({why}); nothing was credited. "
        "Begin another with coster topup.\n"
    )


def holds(data: Data = None, url: Url = None, key: Key = None, json: Json = False) -> None:
    """What running requests hold of the balance, and why."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, "demo_key").request("GET", "payments/holds")
    if json:
        print_json(answer)
        return
    if not answer["data"]:
        sys.stdout.write("Nothing is on hold: no request is running.\n")
        return
    sys.stdout.write(f"On hold: {usd(answer['held_nano_usd'])}\n")
    for hold in answer["data"]:
        sys.stdout.write(
            f"  {usd(hold['held_nano_usd'])}  since {hold['since']}  {hold['model']}\n"
        )
        sys.stdout.write(f"    {hold['why']}\n")


def limits(data: Data = None, url: Url = None, key: Key = None, json: Json = False) -> None:
    """What the key and its account may do now, and when the rest is back."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, "demo_key").request("GET", "limits")
    if json:
        print_json(answer)
        return
    out = sys.stdout
    out.write(f"Tier                 {answer['tier']}\n")
    for name, unit in (("requests_per_minute", "a minute"), ("tokens_per_day", "a day")):
        out.write(f"{name.partition('_')[0].title():20} {_allowance(answer[name], unit)}\n")
    _show_key(answer["key"])


def _allowance(left: dict[str, Any] | None, unit: str) -> str:
    if left is None:
        return "unlimited"
    return (
        f"{left['remaining']:,} of {left['limit']:,} {unit} left; all of them again in "
        f"{left['resets_in_s']:.0f} s"
    )


def _show_key(key: dict[str, Any]) -> None:
    out = sys.stdout
    out.write(f"Key                  {key['id']} {key['name']!r}\n")
    out.write(f"Scopes               {', '.join(key['scopes'])}\n")
    out.write(f"Models               {', '.join(key['models'] or ()) or 'all'}\n")
    out.write(f"Expires              {key['expires_at'] or 'never'}\n")
    if key["spend"] is None:
        out.write("Caps                 none\n")
        return
    for window in ("day", "week", "month"):
        spent = key["spend"][window]
        cap = "no cap" if spent["cap_nano_usd"] is None else f"of {usd(spent['cap_nano_usd'])}"
        out.write(
            f"Spent this {window:9} {usd(spent['spent_nano_usd'])} {cap}; "
            f"begins anew {spent['resets_at']}\n"
        )
