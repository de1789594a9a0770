"""`coster accounts`, `prices`, `machines`: what an operator decides about a running market.

Each act is written into the journal with who did it (--by) and why (--reason).
"""

from __future__ import annotations

import getpass
import sys
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from coster.keys import state_of
from coster.options import Data, Json, reported
from coster.output import print_json
from market.errors import InvalidRequest
from market.money import format_usd_exact, parse_usd

accounts = typer.Typer(help="Customers of a running market.", no_args_is_help=True)
prices = typer.Typer(help="What models cost.", no_args_is_help=True)
machines = typer.Typer(help="Whose Macs earn for whom.", no_args_is_help=True)

By = Annotated[str, typer.Option("--by", help="Who does it [default: your user name].")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the journal.")]
AccountId = Annotated[str, typer.Argument(help="The account's id, acct_…")]
UNSET = "-"
"""What gives back the market's or the tier's own value."""
MOST = {"fee_bps": 10_000, "requests_per_min": 10_000_000, "tokens_per_day": 2**53}
"""What an account's own numbers may be at most, as the API takes them."""
OWN = {"fee_bps": "the market's", "requests_per_min": "the tier's", "tokens_per_day": "the tier's"}
DIGITS_MAX = 20
COLUMNS = ("input", "cached", "output")
"""A price's parts, in the order they are shown."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(accounts, name="accounts")
    app.add_typer(prices, name="prices")
    app.add_typer(machines, name="machines")


def _who(by: str) -> str:
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"


# ── accounts ──────────────────────────────────────────────────────────────────────────


@accounts.command("show")
def show_account(account: AccountId, data: Data = None, json: Json = False) -> None:
    """Who it is, what it has and may do, its keys."""
    from coster.market_http import operations

    with reported(as_json=json):
        answer = operations(data).request("GET", f"/admin/accounts/{quote(account, safe='')}")
    if json:
        print_json(answer)
        return
    _print_account(answer)
    for name, nano in answer["balance"].items():
        sys.stdout.write(f"  {name.removesuffix('_nano_usd'):18} {_usd(nano)}\n")
    for key in answer["keys"]:
        state = state_of(key["revoked"], key["expires_at"], time.time())
        sys.stdout.write(
            f"  {key['id']}  {key['name'][:20]:20} {' '.join(key['scopes'])}  {state}\n"
        )


def _print_account(answer: dict[str, Any]) -> None:
    out = sys.stdout
    out.write(f"{answer['account']}  {answer['name']}  {answer['tier']}\n")
    if answer["frozen"]:
        out.write(f"  FROZEN: {answer['frozen']}\n")
    for name in ("fee_bps", "requests_per_min", "tokens_per_day"):
        if answer[name] is not None:
            out.write(f"  {name:18} {answer[name]}\n")


@accounts.command("set")
def set_account(
    account: AccountId,
    reason: Reason,
    name: Annotated[str | None, typer.Option(help="What it is called.")] = None,
    tier: Annotated[str | None, typer.Option(help="Its tier.")] = None,
    fee_bps: Annotated[
        str | None, typer.Option(help="Its own fee, 0 to 10000; - for the market's.")
    ] = None,
    requests_per_min: Annotated[str | None, typer.Option(help="Or - for the tier's.")] = None,
    tokens_per_day: Annotated[str | None, typer.Option(help="Or - for the tier's.")] = None,
    freeze: Annotated[str | None, typer.Option(help="Stop it spending; says why.")] = None,
    unfreeze: Annotated[bool, typer.Option("--unfreeze", help="Let it spend again.")] = False,
    by: By = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Change an account: only what is named here changes."""
    from coster.market_http import operations

    with reported(as_json=json):
        if freeze is not None and (unfreeze or not freeze):
            raise InvalidRequest("Give --freeze a reason, or --unfreeze, not both.", "freeze")
        fields: dict[str, object] = {
            field: text for field, text in (("name", name), ("tier", tier)) if text is not None
        }
        for field, text in (
            ("fee_bps", fee_bps),
            ("requests_per_min", requests_per_min),
            ("tokens_per_day", tokens_per_day),
        ):
            if text is not None:
                fields[field] = _number(field, text)
        if freeze is not None or unfreeze:
            fields["frozen"] = freeze or ""
        body = {**fields, "actor": _who(by), "reason": reason}
        path = f"/admin/accounts/{quote(account, safe='')}"
        answer = operations(data).request("POST", path, body)
    if json:
        print_json(answer)
    else:
        _print_account(answer)


def _number(field: str, text: str) -> int | None:
    if text == UNSET:
        return None
    most = MOST[field]
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX and int(text) <= most):
        raise InvalidRequest(
            f"{field} must be a whole number from 0 to {most}, or {UNSET} for {OWN[field]} own.",
            field,
        )
    return int(text)


@accounts.command()
def goodwill(
    account: AccountId,
    amount: Annotated[str, typer.Argument(help="Dollars, like 2.50.")],
    reason: Reason,
    second_approver: Annotated[str, typer.Option(help="Who else agreed; needed above $100.")] = "",
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again gives nothing more.")
    ] = None,
    by: By = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Give promo credit at the market's cost."""
    from coster.market_http import operations

    with reported(as_json=json):
        body = {
            "amount_nano_usd": str(_nano(amount)),
            "reason": reason,
            "actor": _who(by),
            "second_approver": second_approver,
        }
        headers = None if idempotency_key is None else {"idempotency-key": idempotency_key}
        path = f"/admin/accounts/{quote(account, safe='')}/goodwill"
        answer = operations(data).request("POST", path, body, headers=headers)
    if json:
        print_json(answer)
    else:
        given, has = _usd(answer["amount_nano_usd"]), _usd(answer["promo_nano_usd"])
        sys.stdout.write(f"{account} was given {given} and has {has} of promo credit.\n")


def _nano(amount: str) -> int:
    try:
        nano = parse_usd(amount)
    except ValueError as error:
        raise InvalidRequest(f"{error}.", "amount") from error
    if nano <= 0:
        raise InvalidRequest("The amount must be above zero.", "amount")
    return nano


# ── prices ────────────────────────────────────────────────────────────────────────────


@prices.command("show")
def show_prices(
    model: Annotated[str | None, typer.Argument(help="With its history; without it, all.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """USD per million tokens: input, input found in a cache, output."""
    from coster.market_http import operations

    with reported(as_json=json):
        path = "/admin/prices" if model is None else f"/admin/prices/{quote(model)}"
        answer = operations(data).request("GET", path)
    if json:
        print_json(answer)
        return
    out = sys.stdout
    out.write(f"{'model':44} {'input':>10} {'cached':>10} {'output':>10}\n")
    for entry in answer.get("prices", [answer]):
        out.write(f"{entry['model'][:44]:44} {_prices(entry)}\n")
    for entry in answer.get("history", ()):
        since = entry["since"][:19]
        out.write(f"  since {since:36} {_prices(entry)}  {entry['actor']}: {entry['reason']}\n")


@prices.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="The model's id.")],
    reason: Reason,
    input_usd: Annotated[str, typer.Option("--input", help="USD per million tokens, like 0.10.")],
    output_usd: Annotated[str, typer.Option("--output", help="USD per million tokens.")],
    cached_usd: Annotated[
        str | None, typer.Option("--cached", help="Input found in a cache [default: as input].")
    ] = None,
    by: By = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """A new price from now on; requests under way pay what they were promised."""
    from coster.market_http import operations

    with reported(as_json=json):
        body = {"input": input_usd, "output": output_usd, "actor": _who(by), "reason": reason}
        if cached_usd is not None:
            body["cached"] = cached_usd
        answer = operations(data).request("POST", f"/admin/prices/{quote(model)}", body)
    if json:
        print_json(answer)
    else:
        each = ", ".join(f"{name} {answer[f'{name}_usd_per_1m']}" for name in COLUMNS)
        sys.stdout.write(f"{model} costs from now on, in USD per million tokens: {each}\n")


def _prices(entry: dict[str, Any]) -> str:
    return " ".join(f"{entry[f'{name}_usd_per_1m']:>10}" for name in COLUMNS)


# ── machines ──────────────────────────────────────────────────────────────────────────


@machines.command()
def link(
    machine: Annotated[str, typer.Argument(help="The machine's id, mac_…")],
    account: Annotated[str, typer.Argument(help="Who it earns for from now on.")],
    by: By = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let a machine earn for an account; what it has earned unclaimed moves there too."""
    from coster.market_http import operations

    with reported(as_json=json):
        path = f"/admin/machines/{quote(machine, safe='')}/link"
        body = {"account": account, "actor": _who(by)}
        answer = operations(data).request("POST", path, body)
    if json:
        print_json(answer)
    else:
        moved = _usd(answer["moved_nano_usd"])
        sys.stdout.write(f"{machine} earns for {account}; {moved} moved there.\n")


@machines.command()
def unlink(
    machine: Annotated[str, typer.Argument(help="The machine's id, mac_…")],
    by: By = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let a machine earn for nobody until it is linked again; what was earned stays."""
    from coster.market_http import operations

    with reported(as_json=json):
        path = f"/admin/machines/{quote(machine, safe='')}/unlink"
        answer = operations(data).request("POST", path, {"actor": _who(by)})
    if json:
        print_json(answer)
    else:
        sys.stdout.write(f"{machine} no longer earns for {answer['account']}.\n")


def _usd(nano: str) -> str:
    return format_usd_exact(int(nano))
