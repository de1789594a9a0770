"""What an owner of Macs asks for: earnings, how they are paid out, and a withdrawal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from coster.options import Data, Json, Key, Url, cents_of, reported, usd
from coster.output import print_json, styled
from market.errors import Conflict, InvalidRequest

RECENT_ROWS = 5
PAYOUT_ROWS = 20
PROVIDER_KEY = "demo_provider_key"  # the file it is kept in
SETUP = "coster payouts setup --country US"

payouts = typer.Typer(help="How earnings are paid out.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(earnings)
    app.command()(withdraw)
    app.add_typer(payouts, name="payouts")


def earnings(
    limit: Annotated[int, typer.Option(help="How many payments, newest first.")] = RECENT_ROWS,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """What your Macs have earned."""
    from coster.market_http import api

    with reported(as_json=json):
        connection = api(data, url, key, PROVIDER_KEY)
        answer = connection.request("GET", f"provider/earnings?limit={limit}")
        models = connection.request("GET", "models")["data"]
    # A Mac offers several models: the model on the most of them tells how many there are.
    online = max((model["ready"] for model in models), default=0)
    if json:
        print_json({**answer, "providers_online": online})
        return
    out = sys.stdout
    out.write(f"{styled('Coster Earnings', 'bold', out)}\n\n")
    out.write(f"Coordinator: online ({online} providers connected)\n\n")
    out.write("Earnings:\n")
    out.write(f"  Balance:       {usd(answer['balance_nano_usd'])}\n")
    if int(answer["maturing_nano_usd"]):
        out.write(f"    maturing:    {usd(answer['maturing_nano_usd'])}\n")
    out.write(f"  Total earned:  {usd(answer['total_earned_nano_usd'])}\n")
    out.write(f"  Jobs served:   {answer['jobs_served']}\n\n")
    out.write("Recent payouts:\n")
    for row in answer["recent"]:
        out.write(f"  {usd(row['amount_nano_usd'])}  {row['model']}\n")
    if not answer["recent"]:
        out.write("  none yet\n")


def withdraw(
    amount: Annotated[
        str | None, typer.Argument(help="In dollars, such as 25 [default: all that can be].")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: Data = None,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Send earnings to your bank; shows the fee and asks before it does."""
    from coster.market_http import api

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
    out.write(f"Payouts are {account['status']}; paid {weekly}.\n")
    if account["status"] == "none":
        out.write(f"Set them up with `{SETUP}`.\n")
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
