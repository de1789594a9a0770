"""What is told of a request afterwards: its money, Macs and decisions, to its owner only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from market.errors import Unavailable
from market.types import AccountId
from tests.http.asgi_client import Exchange, chat
from tests.http.ledger_market import LedgerMarket, call, open_market, validated
from tests.http.memory_fleet import Mac
from tests.http.routed_fleet import RoutedFleet
from tests.http.test_lives import QUICK

LENGTH = 24


async def over(market: LedgerMarket, *macs: Mac, **traits: dict[str, object]) -> None:
    """Let the market's Macs be these, behind the router's own mind."""
    await market.app.close()
    market.fleet = RoutedFleet(*macs, **traits)
    market.app = market.gateway()


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    async with open_market(tmp_path, limits=QUICK, fee_bps=1_000) as opened:
        yield opened


async def asked(market: LedgerMarket, **options: Any) -> str:
    """The ledger's id of a finished request."""
    exchange = await call(
        market, "POST", "/v1/chat/completions", chat(**options), key=market.inference
    )
    return str(exchange.answer_headers["x-coster-request-id"])


async def told(market: LedgerMarket, request_id: str) -> Any:
    exchange = await call(market, "GET", f"/v1/generations/{request_id}")
    assert exchange.status == 200, exchange.content
    return await validated(market, exchange, "Generation")


async def test_one_macs_answer_is_told_with_its_decision(market: LedgerMarket) -> None:
    """Counts by reason, the winner's terms, which sum to its score, and what was predicted."""
    await over(market, Mac("a"), Mac("b"), Mac("c"), b={"state": "draining"})

    row = await told(market, await asked(market))

    (attempt,) = row["routing"]["attempts"]
    assert (attempt["macs"], attempt["able"]) == (3, 2)
    assert attempt["ruled_out"] == [{"reason": "draining", "count": 1, "words": "1 draining"}]
    assert attempt["score_ms"] == pytest.approx(sum(attempt["terms_ms"].values()), abs=0.01)
    assert attempt["predicted_ttft_ms"] > 0
    assert (attempt["result"], attempt["completion_tokens"]) == ("ok", LENGTH)
    assert attempt["provider"] == row["provider"]
    assert row["routing"]["calibration"] == "/v1/quote/calibration"
    (delivery,) = row["deliveries"]
    assert (delivery["provider"], delivery["share"]) == (row["provider"], 1.0)
    assert delivery["cost_nano_usd"] == row["cost_nano_usd"]


async def test_several_macs_are_told_with_their_tokens_and_shares(market: LedgerMarket) -> None:
    """Tokens add up to the answer's and costs to its cost; each Mac at what it asks."""
    await over(market, Mac("a", fail_after=10, ask_pct=50), Mac("b", fail_after=15), Mac("c"))

    row = await told(market, await asked(market, provider={"order": ["prv_a", "prv_b"]}))

    deliveries = row["deliveries"]
    assert [d["provider"] for d in deliveries] == ["prv_a", "prv_b", "prv_c"]
    assert len(row["routing"]["attempts"]) == 3
    assert sum(d["completion_tokens"] for d in deliveries) == row["completion_tokens"] == LENGTH
    assert sum(d["prompt_tokens"] for d in deliveries) == row["prompt_tokens"]
    assert sum(int(d["cost_nano_usd"]) for d in deliveries) == int(row["cost_nano_usd"])
    assert sum(d["share"] for d in deliveries) == pytest.approx(1.0, abs=1e-5)
    assert [a["result"] for a in row["routing"]["attempts"]][-1] == "ok"
    assert [d["ask_pct"] for d in deliveries] == [50, 100, 100]


async def test_a_refused_request_is_told_with_what_ruled_everyone_out(
    market: LedgerMarket,
) -> None:
    """Nobody delivered, nobody is paid, and the reasons are there."""
    await over(market, Mac("a"), Mac("b"), a={"state": "draining"}, b={"state": "draining"})

    row = await told(market, await asked(market))

    assert (row["status"], row["deliveries"]) == ("voided", [])
    attempt = row["routing"]["attempts"][-1]
    assert (attempt["provider"], attempt["able"], attempt["result"]) == (None, 0, None)
    assert attempt["refusal"] == "no_provider"
    assert [each["count"] for each in attempt["ruled_out"]] == [2]


async def test_the_money_is_told_where_the_decisions_cannot_be(market: LedgerMarket) -> None:
    """A router that is away, or keeps nothing any more, costs its part and no other."""
    request_id = await asked(market)

    nothing = await told(market, request_id)
    market.fleet.error = Unavailable("It restarts.", None, "router_away")
    away = await told(market, request_id)

    assert (nothing["routing"], away["routing"]) == (None, None)
    assert "7 days" in nothing["routing_note"]
    assert "ask again" in away["routing_note"]
    assert nothing["deliveries"] == away["deliveries"] != []


async def test_only_public_names_are_told_and_only_to_the_owner(market: LedgerMarket) -> None:
    """No machine id, no account, no gateway; another account hears that there is nothing."""
    await over(market, Mac("a", fail_after=10), Mac("b"))
    request_id = await asked(market)
    await market.ledger.accountant.ensure_account(AccountId("acct_eve"), "Eve")
    _, eve = await market.key("billing:read", account=AccountId("acct_eve"))

    text = json.dumps(await told(market, request_id))
    hers = await call(market, "GET", f"/v1/generations/{request_id}", key=eve)

    for private in ("mac_", "acct_", "gw_"):
        assert private not in text, private
    assert hers.status == 404


@pytest.mark.parametrize("name", ["req_nobody", "x" * 4000, "%00", "..%2f..", "prv_a", "'; --"])
async def test_a_strange_id_is_not_found(market: LedgerMarket, name: str) -> None:
    """404 whatever it is, and never a fault of ours."""
    exchange: Exchange = await call(market, "GET", f"/v1/generations/{name}")
    assert exchange.status == 404
