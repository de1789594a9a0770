"""Quotes: what a request would get and cost, told truly and without any effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from market.catalogue import DEMO_MODEL
from market.errors import Unavailable
from market.messages import Admit, KeyLimits
from market.types import MachineId
from serve_app.limits import Limits
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.ledger_market import LedgerMarket, open_market
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import LARGE, SMALL, routed_market
from tests.http.test_lives import QUICK

PROMPT = 22


def quoted(body: Any = None, **options: Any) -> Exchange:
    return ask(body, path="/v1/quote", **options)


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """A fast dear Mac and a slow cheap one, over the router's own mind."""
    return routed_market(
        tmp_path,
        Mac("fast"),
        Mac("cheap", ask_pct=50),
        Mac("gone"),
        limits=QUICK,
        fast={"bandwidth_gbs": 800.0},
        cheap={"bandwidth_gbs": 60.0},
    )


async def test_a_quote_names_the_mac_and_the_price_that_the_request_then_gets(
    market: Market,
) -> None:
    """The cost at the tokens that came is between what half and the most of them cost."""
    market.fleet.state.drain(MachineId("mac_gone"), "update")  # type: ignore[attr-defined]
    body = chat(max_tokens=24)
    told = (await quoted(body).go(market.app)).json
    exchange = await ask(body).go(market.app)
    await settled(market)

    (one,) = told["models"]
    assert (told["object"], told["model"]) == ("quote", "coster/demo")
    assert told["provider"] == exchange.answer_headers["x-coster-provider"] == "prv_fast"
    assert one["tokens"] == {"p50": 24, "p90": 24, "max": 24}
    assert one["prompt_tokens"] == exchange.json["usage"]["prompt_tokens"] == PROMPT
    cost = exchange.json["usage"]["cost_nano_usd"]
    for level in ("p50", "p90", "max"):
        assert one["cost"][level]["nano_usd"] == cost
        assert one["cost"][level]["micro_usd"] == int(cost) // 1000
        assert one["cost"][level]["usd"] == int(cost) / 1e9
    assert [(mac["provider"], mac["chosen"], mac["free"]) for mac in one["candidates"]] == [
        ("prv_fast", True, True),
        ("prv_cheap", False, True),
    ]
    cheap = one["candidates"][1]
    assert cheap["cost"]["p50"]["nano_usd"] == str(PROMPT * 8 + 24 * 30)
    assert one["ruled_out"] == [{"reason": "draining", "count": 1, "words": "1 draining"}]
    assert (one["candidates_total"], one["wait_s"], one["error"]) == (2, 0.0, None)
    for mac in one["candidates"]:
        assert 0 < mac["ttft_ms"]["p50"] <= mac["ttft_ms"]["p90"]
        assert mac["tokens_per_second"]["p50"] >= mac["tokens_per_second"]["p90"] > 0
        assert mac["total_ms"]["p50"] <= mac["total_ms"]["p90"]


async def test_asking_costs_and_holds_nothing(market: Market) -> None:
    """No operation of the accountant but whose key it is, no slot, no record."""
    before = market.fleet.state.status(0.0)["reservations"]  # type: ignore[attr-defined]
    for body in (chat(), chat(stream=True, n=3), chat(max_cost_usd=1)):
        assert (await quoted(body).go(market.app)).status == 200

    assert not [op for op in market.accountant.ops if isinstance(op, Admit)]
    assert market.ada.credit_nano == TEN_DOLLARS
    assert not market.fleet.requests
    assert market.fleet.state.status(0.0)["reservations"] == before  # type: ignore[attr-defined]
    assert not market.fleet.state.take_journal()  # type: ignore[attr-defined]


async def test_a_quote_matches_the_document(market: Market) -> None:
    """What is answered validates against what is promised."""
    made = Exchange(b"", path="/openapi.json", method="GET", key=None)
    document = (await made.go(market.app)).json
    for body in (chat(), chat(models=["no/such", "deepseek-v3"]), {"model": SMALL, "prompt": "a"}):
        told = (await quoted(body).go(market.app)).json
        schema = {
            "$ref": "#/components/schemas/InferenceQuote",
            "components": document["components"],
        }
        jsonschema.validate(told, schema)


async def test_choices_and_prompts_of_both_calls_are_quoted(market: Market) -> None:
    """`n` multiplies the answer, a body with `prompt` is a completion."""
    several = (await quoted(chat(n=3, max_tokens=10)).go(market.app)).json["models"][0]
    body = {"model": "coster/demo", "prompt": "abc", "max_tokens": 10}
    plain = (await quoted(body).go(market.app)).json["models"][0]

    assert several["cost"]["max"]["nano_usd"] == str(PROMPT * 15 + 30 * 60)
    assert (plain["prompt_tokens"], plain["tokens"]["max"]) == (3, 10)
    assert plain["cost"]["max"]["nano_usd"] == str(3 * 15 + 10 * 60)


async def test_a_busy_market_says_how_long_one_would_wait(tmp_path: Path) -> None:
    """Nobody is free: no Mac is named, the wait is, and so are those who may serve it later."""
    market = routed_market(tmp_path, Mac("a", slots=1, pace_s=0.004), limits=QUICK)
    running = asyncio.create_task(ask().go(market.app))
    while not market.fleet.grants:
        await asyncio.sleep(0.001)
    told = (await quoted().go(market.app)).json
    await running
    await settled(market)

    (one,) = told["models"]
    assert (told["model"], told["provider"]) == ("coster/demo", None)
    assert not one["served_now"]
    assert one["wait_s"] > 0
    assert [(mac["provider"], mac["free"]) for mac in one["candidates"]] == [("prv_a", False)]
    assert one["cost"]["max"]["nano_usd"] == str(PROMPT * 15 + (1024 - PROMPT) * 60)


async def test_every_fallback_is_quoted(market: Market) -> None:
    """Each model with its own tokens, price and refusal; the one that would serve is named."""
    exchange = await quoted(chat(model=LARGE, models=["no/such", "coster/demo"])).go(market.app)
    told = exchange.json

    assert told["model"] == "coster/demo"
    errors = {one["model"]: one["error"] and one["error"]["code"] for one in told["models"]}
    assert errors == {LARGE: "no_provider", "no/such": "model_not_found", "coster/demo": None}
    assert set(told["models"][0]["error"]) == {"message", "type", "param", "code"}


async def test_what_wishes_rule_out_is_counted_in_words(market: Market) -> None:
    """The refusal that the request would meet comes with the reasons, and costs nothing."""
    body = chat(provider={"max_price": {"completion": 0.001}, "flavour": 1})
    exchange = await quoted(body).go(market.app)
    (one,) = exchange.json["models"]

    assert exchange.status == 200
    assert (exchange.json["model"], one["error"]["code"]) == (None, "no_provider_matches")
    assert one["ruled_out"][0]["words"] == "3 above your max_price"
    assert "0 of 3 Macs" in one["summary"]
    assert exchange.answer_headers["x-coster-ignored-params"] == "provider.flavour"


async def test_a_budget_bounds_what_is_quoted(market: Market) -> None:
    """The most is what the hold would take; too little is the refusal it would be."""
    bound = (await quoted(chat(max_cost_usd=(PROMPT * 15 + 300) / 1e9)).go(market.app)).json
    poor = (await quoted(chat(max_cost_usd=0, models=[SMALL])).go(market.app)).json

    assert bound["models"][0]["tokens"]["max"] == 5
    assert bound["models"][0]["cost"]["max"]["nano_usd"] == str(PROMPT * 15 + 300)
    assert {one["error"]["code"] for one in poor["models"]} == {"budget_exceeded"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (chat(messages=[]), 400, "empty"),
        (chat(temperature=9), 400, "out_of_range"),
        (chat(model="no/such"), 404, "model_not_found"),
        (chat(max_tokens=5000), 400, "context_length_exceeded"),
        (chat(provider={"own": "self"}), 400, "no_own_machine"),
        (chat(tools=[{}]), 400, "unsupported_parameter"),
    ],
)
async def test_a_body_is_refused_as_the_call_itself_would(
    market: Market, body: Any, status: int, code: str
) -> None:
    """So that a quote is a dry run of the request, too."""
    for exchange in (quoted(body), ask(body)):
        told = await exchange.go(market.app)
        assert (told.status, told.error["code"]) == (status, code)


async def test_quotes_need_a_key_that_may_spend_and_have_a_limit_of_their_own(
    tmp_path: Path,
) -> None:
    """One account's quotes are bounded, its requests are not hit by it, nor is another account."""
    market = Market(tmp_path, Limits(quotes_per_minute=1, quotes_burst=2))
    market.accountant.accounts["acct_bob"] = market.ada  # type: ignore[index]
    market.accountant.add_key("sk-test-bob", "acct_bob", "inference")  # type: ignore[arg-type]
    statuses = [(await quoted().go(market.app)).status for _ in range(5)]
    limited = await quoted().go(market.app)

    assert statuses == [200, 200, 200, 429, 429]
    assert (limited.error["type"], limited.error["code"]) == ("rate_limit", "too_many_quotes")
    assert int(limited.answer_headers["retry-after"]) >= 1
    assert (await ask().go(market.app)).status == 200
    assert (await quoted(key="sk-test-bob").go(market.app)).status == 200
    assert (await quoted(key=None).go(market.app)).status == 401
    assert (await quoted(key=Market.MANAGEMENT).go(market.app)).status == 403


async def test_a_router_that_is_away_is_503(market: Market) -> None:
    """In the envelope, with when to come back."""

    async def away(request: Any) -> Any:
        raise Unavailable("The router is restarting.", None, "restarting", 1.0, True)

    market.fleet.quote = away  # type: ignore[method-assign]
    exchange = await quoted().go(market.app)
    assert (exchange.status, exchange.error["code"]) == (503, "restarting")


async def test_calibration_is_public_and_from_cache(market: Market) -> None:
    """No key, no question to any actor; nothing is claimed before there is something to compare."""

    async def published() -> Exchange:
        made = Exchange(b"", path="/v1/quote/calibration", method="GET", key=None)
        return await made.go(market.app)

    empty = await published()
    for _ in range(3):
        await ask().go(market.app)
    await settled(market)
    told = await published()

    assert empty.json == {"object": "list", "data": []}
    (row,) = told.json["data"]
    assert (row["model"], row["requests"]) == ("coster/demo", 3)
    assert row["bias"] > 0
    assert 0 <= row["within_p90"] <= 1
    assert row["total"]["requests"] == 3
    assert row["total"]["bias"] > 0


@pytest.fixture
async def booked(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, for what a key may do."""
    async with open_market(tmp_path) as opened:
        yield opened


async def test_a_key_that_may_not_use_a_model_is_told(booked: LedgerMarket) -> None:
    """As its request would be; the price it would pay is the present one."""
    _, secret = await booked.key("inference", limits=KeyLimits(frozenset({SMALL})))
    refused = (await quoted(key=secret).go(booked.app)).json
    assert refused["models"][0]["error"]["code"] == "model_not_allowed"

    dearer = booked.ledger.prices()[DEMO_MODEL]._replace(out_nano=99)
    await booked.ledger.accountant.set_price(DEMO_MODEL, dearer, "op", "dearer")
    told = (await quoted(chat(max_tokens=10), key=booked.inference).go(booked.app)).json
    assert told["models"][0]["cost"]["max"]["nano_usd"] == str(PROMPT * 15 + 10 * 99)
