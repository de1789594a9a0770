"""`coster keys`: make, list, change, rotate and revoke API keys with a management key."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Annotated, Any

import typer

from coster.histories import print_table
from coster.options import Data, Json, Key, Url, duration_s, reported
from coster.output import print_json
from coster.table import cut, plain
from market.errors import InvalidRequest

MANAGEMENT_KEY = "demo_management_key"  # the file it is kept in
NONE = "none"
NAME_CHARS = 20
"""A longer name is cut in the list; --json has it whole."""
COLUMNS = ("id", "name", "prefix", "scopes", "caps", "ends", "state")

CapDay = Annotated[str | None, typer.Option("--cap-day", help="Dollars a UTC day, or none.")]
CapWeek = Annotated[str | None, typer.Option("--cap-week", help="Dollars an ISO week, or none.")]
CapMonth = Annotated[str | None, typer.Option("--cap-month", help="Dollars a month, or none.")]
Models = Annotated[
    str | None, typer.Option("--models", help="The only models it may use, by commas; or all.")
]

keys = typer.Typer(help="API keys.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(keys, name="keys")


def _limits(
    day: str | None, week: str | None, month: str | None, models: str | None
) -> dict[str, Any]:
    """The limits that were given, as a body takes them; `none` and `all` are null."""
    given = {"day_usd": day, "week_usd": week, "month_usd": month}
    caps = {
        name: None if text == NONE else text.removeprefix("$")
        for name, text in given.items()
        if text is not None
    }
    body: dict[str, Any] = {"caps": caps} if caps else {}
    if models is not None:
        listed = [word.strip() for word in models.split(",") if word.strip()]
        body["models"] = None if listed == ["all"] else listed
    return body


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    cap_day: CapDay = None,
    cap_week: CapWeek = None,
    cap_month: CapMonth = None,
    models: Models = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends by itself: 90s, 30m, 12h or 30d.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated [default: inference and billing:read]."),
    ] = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Make a key; its secret is shown this once."""
    from coster.market_http import api

    with reported(as_json=json):
        body: dict[str, Any] = {"name": name, **_limits(cap_day, cap_week, cap_month, models)}
        if expires is not None:
            body["expires_in_s"] = duration_s("--expires", expires)
        if scope:
            body["scopes"] = scope
        made = api(data, url, key, MANAGEMENT_KEY).request("POST", "keys", body)
    _show_new(made, as_json=json)


def _show_new(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    sys.stdout.write(f"{made['key']}\n")
    sys.stderr.write(f"{made['id']} {made['name']!r}: shown once; keep it now.\n")


@keys.command("list")
def list_keys(data: Data = None, url: Url = None, key: Key = None, json: Json = False) -> None:
    """The account's keys, without their secrets."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, MANAGEMENT_KEY).request("GET", "keys")
    if json:
        print_json(answer)
        return
    now_s = time.time()
    rows = [_cells(entry, now_s) for entry in answer["data"]]
    print_table(rows, COLUMNS, len(COLUMNS))


def _cells(entry: dict[str, Any], now_s: float) -> list[str]:
    return [
        entry["id"],
        cut(plain(entry["name"]), NAME_CHARS) or "-",
        entry["prefix"],
        ",".join(entry["scopes"]),
        _caps(entry),
        entry["expires_at"] or "-",
        state_of(entry["revoked_at"], entry["expires_at"], now_s),
    ]


def state_of(revoked: object, ends: str | None, now_s: float) -> str:
    """Whether the market takes a key now; at the very moment of its end it no longer does."""
    if revoked:
        return "revoked"
    over = ends is not None and datetime.fromisoformat(ends).timestamp() <= now_s
    return "expired" if over else "live"


def _caps(entry: dict[str, Any]) -> str:
    caps = [f"{name.removesuffix('_usd')} ${text}" for name, text in entry["caps"].items() if text]
    return ", ".join(caps) or "-"


@keys.command("set")
def change(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `coster keys list`.")],
    name: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    cap_day: CapDay = None,
    cap_week: CapWeek = None,
    cap_month: CapMonth = None,
    models: Models = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Change a key's name, caps or models; what is not given stays."""
    from coster.market_http import api

    with reported(as_json=json):
        body = _limits(cap_day, cap_week, cap_month, models)
        if name is not None:
            body["name"] = name
        if not body:
            raise InvalidRequest(
                "Nothing to change: give --name, --cap-day, --cap-week, --cap-month or --models."
            )
        answer = api(data, url, key, MANAGEMENT_KEY).request("PATCH", f"keys/{key_id}", body)
    if json:
        print_json(answer)
        return
    models_shown = ", ".join(answer["models"] or ()) or "all models"
    sys.stdout.write(f"{key_id} {answer['name']!r}: caps {_caps(answer)}; {models_shown}\n")


@keys.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `coster keys list`.")],
    grace: Annotated[str, typer.Option(help="How long the old one lives on.")] = "1h",
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """A new secret that may do the same; the old one lives on for a while."""
    from coster.market_http import api

    with reported(as_json=json):
        body = {"grace_s": duration_s("--grace", grace)}
        connection = api(data, url, key, MANAGEMENT_KEY)
        made = connection.request("POST", f"keys/{key_id}/rotate", body)
    _show_new(made, as_json=json)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, from `coster keys list`.")],
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Revoke a key; it stops working within a second."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, MANAGEMENT_KEY).request("DELETE", f"keys/{key_id}")
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"{key_id} is revoked.\n")
