"""An operator's commands on a running market: what they do, print and answer to scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coster.keys import state_of
from coster.main import app
from coster.output import DEGRADED, NOT_RUNNING
from market.payments.payouts import week_told
from storage.verify import verify
from tests.support.listener import listening

WHY = ["--reason", "a test", "--by", "Olga"]
LINE = {"line": "txn_1", "why": "nobody knows it"}


class Payments:
    """A payments actor that always says the same."""

    async def reconcile(self) -> dict[str, Any]:
        return {
            "ok": False,
            "matched": 3,
            "unmatched": [LINE],
            "ledger_cents": 2_500,
            "processor_cents": 2_505,
            "in_flight_cents": 0,
            "difference_cents": 5,
        }

    def __init__(self) -> None:
        self._run = False

    async def run_weekly(self) -> dict[str, Any]:
        already, self._run = self._run, True
        decided = {"payouts": 2, "amount_cents": 4_050, "passed": {"below the minimum": 3}}
        return week_told(decided, 20_780, 1_795_392_007 * 10**9, already=already)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("operator") / "data"
    with listening(data, Payments(), fee_bps=500):
        yield data


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--data", str(data)])


def told(data: Path, *words: str) -> Any:
    result = run(data, *words, "--json")
    assert len(result.output.splitlines()) == 1, result.output
    return json.loads(result.output)


WHOLE = "at most three decimals: a price is whole nano-USD per token"


def test_an_account_is_looked_at_changed_and_frozen(market: Path) -> None:
    """What is named changes, `-` gives the tier's own value back, and it is shown so."""
    set_it = ["accounts", "set", "acct_consumer", *WHY]

    changed = told(market, *set_it, "--tier", "paid", "--tokens-per-day", "5", "--freeze", "late")
    shown = run(market, "accounts", "show", "acct_consumer")
    freed = told(market, *set_it, "--tokens-per-day", "-", "--unfreeze")

    assert (changed["tier"], changed["tokens_per_day"], changed["frozen"]) == ("paid", 5, "late")
    assert "FROZEN: late" in shown.output
    assert "earnings           $0.000000000" in shown.output
    assert (freed["tokens_per_day"], freed["frozen"], freed["tier"]) == (None, "", "paid")


def test_a_key_whose_end_has_come_is_shown_as_expired(market: Path) -> None:
    """As the market refuses it, not as if it still worked."""
    ends = told(market, "accounts", "show", "acct_consumer")["keys"][0]["expires_at"]
    shown = run(market, "accounts", "show", "acct_consumer")

    assert ends is None
    assert shown.output.rstrip().endswith("live")
    assert state_of(False, "2026-11-28T14:00:00+00:00", 1_795_874_400.0) == "expired"
    assert state_of(False, "2026-11-28T14:00:00Z", 1_795_874_399.9) == "live"
    assert state_of(True, "2026-11-28T14:00:00Z", 0.0) == "revoked"


def test_goodwill_is_a_sum_in_dollars(market: Path) -> None:
    """To the nano, once for one key, and with a second person above $100."""
    give = ["accounts", "goodwill", "acct_provider"]
    key = ["--idempotency-key", "case-9"]

    first = told(market, *give, "0.000000007", *WHY, *key)
    again = told(market, *give, "0.000000007", *WHY, *key)
    alone = run(market, *give, "100.01", *WHY)
    agreed = run(market, *give, "100.01", *WHY, "--second-approver", "Piet")

    assert first == again
    assert first["promo_nano_usd"] == "7"
    assert alone.exit_code == 4
    assert "a second person must agree" in alone.output
    assert "has $100.010000007 of promo credit" in agreed.output


def test_a_price_is_set_and_its_history_shown(market: Path) -> None:
    """In USD per million tokens; cached input costs as input unless it is said."""
    model = "coster/demo"

    made = run(market, "prices", "set", model, "--input", "0.02", "--output", "0.1", *WHY)
    shown = run(market, "prices", "show", model)
    every = told(market, "prices", "show")

    assert made.output == (
        "coster/demo costs from now on, in USD per million tokens: "
        "input 0.020, cached 0.020, output 0.100\n"
    )
    assert "Olga: a test" in shown.output
    assert {"model": model, **every["prices"][0]} == every["prices"][0]
    assert every["prices"][0]["output_usd_per_1m"] == "0.100"


def test_a_machine_is_linked(market: Path) -> None:
    """It earns for the account from then on."""
    result = run(market, "machines", "link", "mac_7", "acct_provider", "--by", "Olga")

    assert result.output == "mac_7 earns for acct_provider; $0.000000000 moved there.\n"


def test_the_report_is_one_page(market: Path) -> None:
    """It balances, warns, and tells scripts exact sums."""
    page, shown = told(market, "ledger", "report"), run(market, "ledger", "report")

    assert page["balanced"] is True
    assert page["revenue_nano_usd"]["fees"] == "9353"
    assert "fees                               $0.000009353" in shown.output
    assert "✓ what is owned is what is owed and own" in shown.output
    assert "a top-up below $14.29 loses money" in shown.output


def test_a_reconciliation_that_does_not_match_is_degraded(market: Path) -> None:
    """The sums in dollars and each line nobody can explain; exit code 6."""
    shown = run(market, "ledger", "reconcile")

    assert shown.exit_code == DEGRADED
    assert "✗ 3 lines matched, 1 not" in shown.output
    assert "difference                    $0.05" in shown.output
    assert "line txn_1  why nobody knows it" in shown.output
    assert told(market, "ledger", "reconcile")["unmatched"] == [LINE]


def test_payouts_are_not_run_by_accident(market: Path) -> None:
    """It asks first; what was decided is said in dollars and days. A week that was run already
    says so, and when the next is due.
    """
    result = CliRunner().invoke(app, ["ledger", "payouts", "--data", str(market)], input="n\n")
    assert result.exit_code == 1

    shown = run(market, "ledger", "payouts", "--yes")
    again = run(market, "ledger", "payouts", "--yes")
    due = "The next run is due on Monday 2026-11-30.\n"

    assert f"2 payouts of $40.50 in all for the week of Monday 2026-11-23. {due}" in shown.output
    assert "3 passed over: below the minimum" in shown.output
    assert again.output.startswith(
        "The week of Monday 2026-11-23 was run already, at 2026-11-23 00:00:07 UTC: "
        f"2 payouts of $40.50 in all.\nNothing was paid again. {due}"
    )


def test_nothing_to_look_at_is_said(market: Path) -> None:
    """No alert, exit code 0."""
    result = run(market, "ledger", "alerts")

    assert (result.exit_code, result.output) == (0, "Nothing to look at.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["accounts", "show", "acct_nobody"], "There is no account"),
        (["accounts", "set", "acct_consumer", *WHY], "Name at least one of"),
        (["accounts", "set", "acct_consumer", "--fee-bps", "five", *WHY], "a whole number"),
        (["accounts", "set", "acct_consumer", "--fee-bps", "-1", *WHY], "from 0 to 10000, or -"),
        (["accounts", "set", "acct_consumer", "--fee-bps", "10001", *WHY], "from 0 to 10000"),
        (["accounts", "set", "acct_consumer", "--tokens-per-day", "1" * 5000, *WHY], "from 0 to 9"),
        (["accounts", "set", "acct_consumer", "--freeze", "", *WHY], "Give --freeze a reason"),
        (["accounts", "goodwill", "acct_consumer", "free", *WHY], "not a sum in dollars"),
        (["accounts", "goodwill", "acct_consumer", "0", *WHY], "above zero"),
        (["prices", "set", "x", "--input", "1", "--output", "1", *WHY], "does not exist here"),
        (["prices", "set", "x", "--input", "1e3", "--output", "1", *WHY], "input"),
        (["prices", "set", "x", "--input", "0.0301", "--output", "1", *WHY], WHOLE),
        (["prices", "set", "x", "--input", "-1", "--output", "1", *WHY], WHOLE),
        (
            ["prices", "set", "coster/demo", "--input", "1", "--output", "9999999", *WHY],
            "output is 9999999000 nano-USD per token",
        ),
    ],
)
def test_what_cannot_be_is_told(market: Path, words: list[str], message: str) -> None:
    """One sentence on standard error, and exit code 1."""
    result = run(market, *words)

    assert result.exit_code == 1
    assert message in result.output


def test_a_market_that_does_not_run_can_still_be_read(market: Path, tmp_path: Path) -> None:
    """The report comes from disk then; acts need a market."""
    data = tmp_path / "data"
    with listening(data):
        pass

    page = told(data, "ledger", "report")
    assert (page["balanced"], page["warnings"]) == (True, [])
    assert page["promo_nano_usd"]["spent"] == "187060"
    for words in (["ledger", "alerts"], ["prices", "show"], ["accounts", "show", "x"]):
        assert run(data, *words).exit_code == NOT_RUNNING
    assert verify(data).ok
