"""`coster keys`: make, list and revoke API keys with a management key."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coster.options import Data, Json, Key, Url, reported
from coster.output import print_json

keys = typer.Typer(help="API keys.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Make a key; its secret is shown this once."""
    from coster.market_http import api

    with reported(as_json=json):
        made = api(data, url, key, "demo_management_key").request("POST", "keys", {"name": name})
    if json:
        print_json(made)
        return
    sys.stdout.write(f"{made['key']}\n")
    sys.stderr.write(f"{made['id']} {name!r}: shown once; keep it now.\n")


@keys.command("list")
def list_keys(data: Data = None, url: Url = None, key: Key = None, json: Json = False) -> None:
    """The account's keys, without their secrets."""
    from coster.market_http import api

    with reported(as_json=json):
        answer = api(data, url, key, "demo_management_key").request("GET", "keys")
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"{'id':32} {'name':20} {'prefix':18} {'scopes':28} state\n")
    for entry in answer["data"]:
        state = "revoked" if entry.get("revoked_at") else "live"
        sys.stdout.write(
            f"{entry['id']:32} {entry['name'][:20]:20} {entry['prefix']:18} "
            f"{','.join(entry['scopes']):28} {state}\n"
        )


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
        answer = api(data, url, key, "demo_management_key").request("DELETE", f"keys/{key_id}")
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"{key_id} is revoked.\n")
