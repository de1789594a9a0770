"""Money over HTTP: what is on hold, what Macs earned, and how it gets to their owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from market.payments.processor import ProcessorUnknown
from market.types import AccountId
from tests.http.asgi_client import ask, chat
from tests.http.ledger_market import LedgerMarket, call, open_market, validated
from tests.http.memory_accountant import MAC_OWNER
from tests.http.memory_fleet import Mac

COST = 22 * 15 + 24 * 60


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, payments in memory."""
    async with open_market(tmp_path) as opened:
        yield opened


# ── holds and earnings ────────────────────────────────────────────────────────────────


async def test_a_hold_says_what_it_is_for(tmp_path: Path) -> None:
    """Its worst case, its prompt, since when, and a sentence with the arithmetic."""
    async with open_market(tmp_path, Mac("slow", pace_s=0.01)) as market:
        running = asyncio.create_task(
            ask(chat(max_tokens=10, n=2), key=market.inference).go(market.app)
        )
        while not market.fleet.jobs_taken():
            await asyncio.sleep(0.002)
        exchange = await call(market, "GET", "/v1/payments/holds")
        await running
        after = await call(market, "GET", "/v1/payments/holds")

        found = await validated(market, exchange, "HoldList")
        held = 22 * 15 + 2 * 10 * 60
        (hold,) = found["data"]
        assert found["held_nano_usd"] == hold["held_nano_usd"] == str(held)
        assert (hold["prompt_tokens"], hold["max_completion_tokens"]) == (22, 20)
        assert (hold["worst_case_tokens"], hold["delivered_tokens"]) == (42, 0)
        assert hold["request_id"] == running.result().answer_headers["x-coster-request-id"]
        assert "at most 20 answer tokens" in hold["why"]
        assert after.json == {"object": "list", "held_nano_usd": "0", "held_usd": 0.0, "data": []}


async def test_earnings_are_the_ledgers_own_figures(tmp_path: Path) -> None:
    """Balance, total, jobs and each payment agree with what consumers were charged."""
    async with open_market(tmp_path, fee_bps=500) as market:
        for _ in range(3):
            await ask(key=market.inference).go(market.app)
        _, owner = await market.key("fleet:read", account=MAC_OWNER)

        exchange = await call(market, "GET", "/v1/provider/earnings?limit=2", key=owner)
        mine = await call(market, "GET", "/v1/provider/earnings")

        found = await validated(market, exchange, "EarningsAnswer")
        share = COST - COST * 500 // 10_000
        assert found["jobs_served"] == 3
        assert found["total_earned_nano_usd"] == found["balance_nano_usd"] == str(3 * share)
        assert found["total_earned_micro_usd"] == 3 * share // 1000
        assert [row["amount_nano_usd"] for row in found["recent"]] == [str(share)] * 2
        assert found["recent"][0]["machine"] == "mac_a"
        assert found["recent"][0]["timestamp"].endswith("Z")
        assert await market.spent_nano() == 3 * COST
        assert (mine.json["jobs_served"], mine.json["recent"]) == (0, [])


async def test_a_linked_machine_brings_its_earlier_earnings(tmp_path: Path) -> None:
    """What it earned before it was linked counts, and counts once."""
    async with open_market(tmp_path) as market:
        market.fleet.payee = AccountId("unclaimed_mac_a")
        await ask(key=market.inference).go(market.app)
        await market.ledger.link_machine("mac_a", MAC_OWNER, "test")
        await ask(key=market.inference).go(market.app)
        _, owner = await market.key("billing:read", account=MAC_OWNER)

        found = (await call(market, "GET", "/v1/provider/earnings", key=owner)).json

        assert (found["jobs_served"], found["total_earned_nano_usd"]) == (2, str(2 * COST))
        assert found["withdrawable_nano_usd"] == str(2 * COST)


async def test_maturing_earnings_are_in_the_balance_and_cannot_be_withdrawn(
    tmp_path: Path,
) -> None:
    """Promo-funded earnings wait; earnings and balance both say so."""
    async with open_market(tmp_path, promo_maturity_days=30) as market:
        await ask(key=market.inference).go(market.app)
        _, owner = await market.key("billing:read", account=MAC_OWNER)

        found = (await call(market, "GET", "/v1/provider/earnings", key=owner)).json
        balance = (await call(market, "GET", "/v1/payments/balance", key=owner)).json

        assert (found["withdrawable_nano_usd"], found["maturing_nano_usd"]) == ("0", str(COST))
        assert found["balance_nano_usd"] == str(COST)
        assert (balance["withdrawable_nano_usd"], balance["maturing_nano_usd"]) == ("0", str(COST))


# ── payouts ───────────────────────────────────────────────────────────────────────────


async def test_payouts_are_set_up_quoted_and_made(market: LedgerMarket) -> None:
    """From nothing to a payout, with the figures of the quote in it."""
    none = await call(market, "GET", "/v1/payouts/account")
    onboarding = await call(market, "POST", "/v1/payouts/onboarding", {"country": "US"})
    weekly = await call(market, "PATCH", "/v1/payouts/account", {"weekly": False})
    quote = await call(market, "POST", "/v1/payouts/quote", {"amount_cents": 1_000})
    body = {"amount_cents": 1_000, "expected_fee_nano_usd": quote.json["fee_nano_usd"]}
    made = await call(market, "POST", "/v1/payouts/withdrawals", body)
    listed = await call(market, "GET", "/v1/payouts/withdrawals")

    assert (await validated(market, none, "PayoutAccount"))["status"] == "none"
    found = await validated(market, onboarding, "Onboarding")
    assert (onboarding.status, found["url"]) == (201, "https://form.test/1")
    assert found["requirements"] == ["external_account"]
    assert (await validated(market, weekly, "PayoutAccount"))["weekly"] is False
    priced = await validated(market, quote, "Quote")
    assert (priced["fee_usd"], priced["receives_cents"]) == (0.25, 975)
    paid = await validated(market, made, "Payout")
    assert (made.status, paid["amount_cents"], paid["fee_nano_usd"]) == (201, 975, "250000000")
    assert (await validated(market, listed, "PayoutList"))["data"] == [paid]


async def test_a_fee_that_changed_is_409(market: LedgerMarket) -> None:
    """Nobody pays a fee that was not shown."""
    body = {"amount_cents": 1_000, "expected_fee_nano_usd": "1"}

    exchange = await call(market, "POST", "/v1/payouts/withdrawals", body)

    assert (exchange.status, exchange.error["code"]) == (409, "fee_changed")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/payouts/onboarding", {"country": "us"}, "country"),
        ("/v1/payouts/onboarding", {"country": "USA"}, "country"),
        ("/v1/payouts/onboarding", {}, "country"),
        ("/v1/payouts/withdrawals", {"expected_fee_nano_usd": 5}, "expected_fee_nano_usd"),
        ("/v1/payouts/withdrawals", {"expected_fee_nano_usd": "-5"}, "expected_fee_nano_usd"),
        ("/v1/payouts/withdrawals", {"expected_fee_nano_usd": "9" * 30}, "expected_fee_nano_usd"),
        ("/v1/payouts/withdrawals", {"amount_cents": 2**63}, "amount_cents"),
        ("/v1/payouts/withdrawals", {"account": "acct_x"}, "account"),
        ("/v1/payouts/quote", {"amount_cents": 0}, "amount_cents"),
    ],
)
async def test_a_wrong_payout_body_names_its_field(
    market: LedgerMarket, path: str, body: Any, param: str
) -> None:
    """400 before anything moves."""
    exchange = await call(market, "POST", path, body)

    assert (exchange.status, exchange.error["param"]) == (400, param)
    assert not market.payments.calls


async def test_a_processor_that_is_away_is_503_with_a_time(
    market: LedgerMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are the market's own kind, and every 503 says when to come again."""

    async def away(*_: object) -> None:
        raise ProcessorUnknown("The payment processor does not answer.", None, "processor_away")

    monkeypatch.setattr(market.payments, "onboard", away)
    exchange = await call(market, "POST", "/v1/payouts/onboarding", {"country": "US"})

    assert (exchange.status, exchange.error["type"]) == (503, "service_unavailable")
    assert int(exchange.answer_headers["retry-after"]) >= 1
