"""The commands of money and keys, as they are typed, against the door over a real socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from coster.main import app
from coster.market_http import Connection
from tests.http.ledger_market import LedgerMarket, open_market
from tests.http.memory_accountant import ADA, MAC_OWNER
from tests.http.memory_payments import Payments

SCOPES = ("inference", "billing:read", "fleet:read", "payouts", "keys")


class Town:
    """A market with real books behind uvicorn, on a loop of its own thread."""

    market: LedgerMarket
    keys: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    async def _live(self) -> None:
        async with open_market(self._folder) as self.market:
            owner = await self.market.key("fleet:read", "payouts", account=MAC_OWNER)
            payer = await self.market.key("billing:read", "payouts", account=ADA)
            self.keys = {
                "inference": self.market.inference,
                "management": self.market.management,
                "owner": owner[1],
                "payer": payer[1],
            }
            config = uvicorn.Config(self.market.app, port=0, log_level="error")
            self.server = uvicorn.Server(config)
            serving = asyncio.create_task(self.server.serve())
            while not self.server.started:
                await asyncio.sleep(0.005)
            self._ready.set()
            await serving

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def run(self, who: str, *words: str, typed: str | None = None) -> Result:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        return CliRunner().invoke(app, [*words, "--url", url, "--key", self.keys[who]], typed)

    def told(self, who: str, *words: str) -> Any:
        result = self.run(who, *words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One market for the whole file; each test uses what it makes itself."""
    with Town(tmp_path_factory.mktemp("town")) as opened:
        yield opened


def test_earnings_look_as_published_and_come_from_the_ledger(town: Town) -> None:
    """The block of the first price list's page, with six decimals and the model."""
    town.told("inference", "chat", "hello", "--max-tokens", "3")

    result = town.run("owner", "earnings")
    nano = int(town.told("owner", "earnings")["total_earned_nano_usd"])

    assert result.stdout.startswith(
        "Coster Earnings\n\nCoordinator: online (3 providers connected)\n\nEarnings:\n"
    )
    shown = f"${nano // 10**9}.{nano // 1000 % 10**6:06d}"
    assert f"  Total earned:  {shown}\n" in result.stdout
    assert "  Jobs served:   1\n" in result.stdout
    assert f"Recent payouts:\n  {shown}  coster/demo\n" in result.stdout


def test_a_topup_prints_where_it_is_paid(town: Town) -> None:
    """The amount and the address; with --json the whole object and nothing else."""
    result = town.run("inference", "topup", "25.50")

    assert result.exit_code == 0
    assert "of $25.50: open" in result.stdout
    assert "Pay it here: https://pay.test/1" in result.stdout
    assert town.told("inference", "topup", "$5")["amount_cents"] == 500


def test_waiting_ends_when_it_is_paid_or_cannot_be(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid is 0, expired is 1 and says so."""
    payments = town.market.payments
    original = Payments.topup_of
    state = "paid"

    async def ended(self: Payments, account: Any, topup_id: str) -> Any:
        return (await original(self, account, topup_id))._replace(state=state)

    monkeypatch.setattr(payments, "topup_of", ended.__get__(payments))
    monkeypatch.setattr("coster.paying.POLL_S", 0.01)

    paid = town.run("inference", "topup", "10", "--wait")
    state = "expired"
    expired = town.run("inference", "topup", "10", "--wait")

    assert (paid.exit_code, "Paid: $10.00" in paid.stdout) == (0, True)
    assert expired.exit_code == 1
    assert "nothing was credited" in expired.output


@pytest.mark.parametrize("amount", ["0", "10.005", "ten", "1e3"])
def test_a_wrong_amount_is_told_before_anything_is_asked(town: Town, amount: str) -> None:
    """What was wrong and how to write it."""
    result = town.run("inference", "topup", amount)

    assert result.exit_code == 1
    assert "AMOUNT" in result.output


def test_a_withdrawal_needs_a_set_up_account_and_a_yes(town: Town) -> None:
    """First the way to set it up, then the quote, then nothing without a yes."""
    early = town.run("owner", "withdraw", "10")
    assert early.exit_code == 1
    assert "coster payouts setup --country" in early.output
    setup = town.run("owner", "payouts", "setup", "--country", "us")
    assert "https://form.test/1" in setup.stdout
    town.market.payments.payees[MAC_OWNER] = town.market.payments.payees[MAC_OWNER]._replace(
        state="active", requirements=""
    )

    no = town.run("owner", "withdraw", "10", typed="n\n")
    yes = town.run("owner", "withdraw", "10", typed="y\n")
    quiet = town.run("owner", "withdraw", "--json")

    assert "Fee            $0.250000" in no.stdout
    assert "You receive    $9.75" in no.stdout
    assert "Nothing was withdrawn." in no.stdout
    assert "decided" in yes.stdout
    assert (quiet.exit_code, "--yes" in quiet.output) == (1, True)
    made = town.told("owner", "withdraw", "10", "--yes")
    assert made["amount_cents"] == 975
    listed = town.run("owner", "payouts", "list").stdout
    assert listed.count("po_") == 2
    assert "Weekly payouts are off." in town.run("owner", "payouts", "weekly", "off").stdout
    assert town.run("owner", "payouts", "weekly", "maybe").exit_code == 1


def test_an_account_that_was_never_paid_is_told_so_in_words(town: Town) -> None:
    """Not that its payouts are none."""
    shown = town.run("payer", "payouts", "list").stdout

    assert shown == ("No payouts yet. Set them up with `coster payouts setup --country US`.\n")


def test_a_balance_tells_what_matures_beside_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `coster earnings` counts in and cannot be spent yet; nothing where there is nothing."""
    plain = town.run("payer", "balance").stdout
    original = Connection.request

    def maturing(self: Connection, *words: Any, **more: Any) -> Any:
        answer = original(self, *words, **more)
        return {**answer, "maturing_nano_usd": "10000202000", "maturing_usd": 10.000202}

    monkeypatch.setattr(Connection, "request", maturing)

    assert "Maturing" not in plain
    assert town.run("payer", "balance").stdout == (
        plain + "Maturing      $10.000202  besides: earned, and held back for now\n"
    )


def test_the_commands_run_as_a_module_of_either_name() -> None:
    """`python -m coster` and `python -m coster.main` are the same program."""
    for name in ("coster", "coster.main"):
        words = [sys.executable, "-m", name, "keys", "--help"]
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        assert "rotate" in told.stdout


def test_keys_are_made_changed_and_rotated(town: Town) -> None:
    """Caps, models, scopes and an end; `none` and `all` lift what was set."""
    made = town.told(
        "management", "keys", "create", "lab", "--cap-day", "1.50", "--cap-month", "$20",
        "--models", "coster/demo", "--expires", "30d", "--scope", "inference",
        "--scope", "billing:read",
    )  # fmt: skip
    assert made["caps"] == {"day_usd": "1.5", "week_usd": None, "month_usd": "20"}
    assert (made["models"], made["scopes"]) == (["coster/demo"], ["billing:read", "inference"])

    changed = town.told(
        "management", "keys", "set", made["id"], "--cap-day", "none", "--models", "all"
    )
    rotated = town.told("management", "keys", "rotate", made["id"], "--grace", "10m")
    listed = town.run("management", "keys", "list").stdout

    assert (changed["caps"]["day_usd"], changed["caps"]["month_usd"]) == (None, "20")
    assert changed["models"] is None
    assert rotated["replaces"] == made["id"]
    assert "month $20" in listed
    assert town.run("management", "keys", "set", made["id"]).exit_code == 1
    late = town.run("management", "keys", "create", "x", "--expires", "soon")
    assert "90s, 30m, 12h or 30d" in late.output


def test_a_list_of_keys_says_which_of_them_still_work(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key whose end has come is told as expired, as the market refuses it; no column is
    narrower than what stands in it.
    """
    brief = town.told("management", "keys", "create", "brief", "--expires", "60s")
    every = [word for name in SCOPES for word in ("--scope", name)]
    gone = town.told("management", "keys", "create", "gone", *every)
    town.told("management", "keys", "revoke", gone["id"])

    def states() -> dict[str, str]:
        lines = town.run("management", "keys", "list").stdout.splitlines()
        at = lines[0].index("state")
        assert {line[at - 2 : at] for line in lines} == {"  "}
        return {line.split()[0]: line[at:] for line in lines[1:]}

    fresh = states()
    late = SimpleNamespace(time=lambda: time.time() + 60)
    monkeypatch.setattr("coster.keys.time", late)

    assert (fresh[brief["id"]], fresh[gone["id"]]) == ("live", "revoked")
    assert (states()[brief["id"]], states()[gone["id"]]) == ("expired", "revoked")


def test_limits_and_holds_say_how_it_stands(town: Town) -> None:
    """The tier, the key and its caps; that nothing is on hold."""
    capped = town.told("management", "keys", "create", "capped", "--cap-day", "2")
    town.keys["capped"] = capped["key"]

    limits = town.run("capped", "limits").stdout

    assert "Tier                 operator" in limits
    assert "Spent this day       $0.000000 of $2.000000" in limits
    assert "Caps                 none" in town.run("inference", "limits").stdout
    assert "Nothing is on hold" in town.run("inference", "holds").stdout
    forbidden = town.run("owner", "holds")
    assert (forbidden.exit_code, "billing:read" in forbidden.output) == (4, True)
