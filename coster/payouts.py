"""How an owner of Macs is paid out: set-up, withdrawals, the weekly payouts."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from coster.earned import PROVIDER_KEY
from coster.options import Data, Json, Key, RetryKey, Url, cents_of, reported, usd
from coster.output import print_json, styled
from market.errors import Conflict, InvalidRequest

PAYOUT_ROWS = 20
SETUP = "coster payouts setup --country US"

payouts = typer.Typer(help="How earnings are paid out.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(withdraw)
    app.add_typer(payouts, name="payouts")


def withdraw(
    amount: Annotated[
        str | None, typer.Argument(help="In dollars, such as 25 [default: all that can be].")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    retry_key: RetryKey = None,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Send earnings to your bank; shows the fee and asks before it does."""
    from coster.market_http import api, once

    with reported(as_json=json):
        if json and not yes:
            raise InvalidRequest("--json does not ask; add --yes to withdraw.", "--yes")
        connection = api(data, url, key, PROVIDER_KEY)
        body = {} if amount is None else {"amount_cents": cents_of("AMOUNT", amount)}
        _check_set_up(connection.request("GET", "payouts/account"))
        quote = connection.request("POST", "payouts/quote", body)
        if not json:
            _show_quote(quote)
        if not yes and not typer.confirm("Withdraw it?"):
            sys.stdout.write("Nothing was withdrawn.\n")
            return
        made = connection.request(
            "POST",
            "payouts/withdrawals",
            {
                "amount_cents": quote["amount_cents"],
                "expected_fee_nano_usd": quote["fee_nano_usd"],
            },
            headers=once(retry_key),
        )
    if json:
        print_json(made)
        return
    sys.stdout.write(f"{made['id']}: {made['status']}. coster payouts list shows how it goes on.\n")


def _check_set_up(account: dict[str, Any]) -> None:
    if account["status"] == "active":
        return
    missing = ", ".join(account["requirements"])
    why = "not set up" if account["status"] == "none" else f"{account['status']}: {missing}"
    raise Conflict(
        f"Payouts of this account are {why}. Run `{SETUP}` with your own country and fill in the "
        "form it shows.",
        None,
        "payouts_not_ready",
    )


def _show_quote(quote: dict[str, Any]) -> None:
    sys.stdout.write(
        f"Withdraw       ${quote['amount_cents'] / 100:.2f}\n"
        f"Fee            {usd(quote['fee_nano_usd'])}\n"
        f"You receive    ${quote['receives_cents'] / 100:.2f}\n"
        f"Withdrawable   {usd(quote['withdrawable_nano_usd'])} before it\n"
        f"Maturing       {usd(quote['maturing_nano_usd'])} besides\n"
        f"{quote['arrives']}\n"
    )


@payouts.command("list")
def list_payouts(
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = PAYOUT_ROWS,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """How you are paid, and the payouts so far."""
    from coster.market_http import api

    with reported(as_json=json):
        connection = api(data, url, key, PROVIDER_KEY)
        account = connection.request("GET", "payouts/account")
        page = connection.request("GET", f"payouts/withdrawals?limit={limit}")
    if json:
        print_json({"account": account, **page})
        return
    out = sys.stdout
    weekly = "each Monday" if account["weekly"] else "only when you withdraw"
    if account["status"] == "none":
        out.write(f"No payouts yet. Set them up with `{SETUP}`.\n")
    else:
        none = "" if page["data"] else " No payouts yet."
        out.write(f"Payouts are {account['status']}; paid {weekly}.{none}\n")
    for row in page["data"]:
        kind = "weekly" if row["weekly"] else "asked"
        reason = f"  {row['reason']}" if row["reason"] else ""
        out.write(
            f"{row['created_at']}  ${row['amount_cents'] / 100:>10.2f}  {row['status']:9} "
            f"{kind:7} {row['id']}{reason}\n"
        )


@payouts.command()
def setup(
    country: Annotated[str, typer.Option(help="Where you live, two letters, such as US.")],
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Begin or continue to set payouts up; prints a form to fill in."""
    from coster.market_http import api

    with reported(as_json=json):
        connection = api(data, url, key, PROVIDER_KEY)
        answer = connection.request("POST", "payouts/onboarding", {"country": country.upper()})
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"Payouts are {answer['status']}. Fill in this form within minutes:\n")
    sys.stdout.write(f"{styled(answer['url'], 'cyan', sys.stdout)}\n")
    for word in answer["requirements"]:
        sys.stdout.write(f"  missing: {word}\n")


@payouts.command()
def weekly(
    state: Annotated[str, typer.Argument(help="on or off.")],
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Take part in the payouts of each Monday, or not."""
    from coster.market_http import api

    with reported(as_json=json):
        if state not in ("on", "off"):
            raise InvalidRequest(f"Say on or off, not {state[:20]!r}.", "state")
        answer = api(data, url, key, PROVIDER_KEY).request(
            "PATCH", "payouts/account", {"weekly": state == "on"}
        )
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"Weekly payouts are {'on' if answer['weekly'] else 'off'}.\n")
