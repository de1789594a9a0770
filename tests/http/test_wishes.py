"""What a caller wishes of who serves it: read exactly, told to the router, or refused by name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.policy.preferences import NO_PREFERENCES, Preferences
from serve_app.parameters import Call, read_call
from tests.http.asgi_client import ask, chat
from tests.http.memory_market import Market


def read(route: str | None = None, **fields: Any) -> Call:
    return read_call("chat", chat(**fields), route)


def wished(**provider: Any) -> Preferences:
    return read(provider=provider).wishes.preferences


ALL_WISHES = {
    "order": ["prv_a", "prv_b", "prv_a"],
    "only": ["prv_a", "prv_b"],
    "ignore": ["prv_c"],
    "allow_fallbacks": False,
    "sort": {"by": "price", "partition": "model"},
    "max_price": {"prompt": 0.015, "completion": "0.06", "request": 0},
    "trust": "verified",
    "quantizations": ["int4", "4bit", "bf16"],
    "preferred_max_latency": 1.5,
    "preferred_min_throughput": {"p50": 40},
    "own": "prefer",
    "data_collection": "allow",
    "zdr": False,
    "require_parameters": True,
}


async def test_every_wish_reaches_the_router(market: Market) -> None:
    """As it was meant, in the router's own words and units."""
    exchange = await ask(chat(provider=ALL_WISHES)).go(market.app)

    assert exchange.status == 200, exchange.content
    assert market.fleet.requests[0].preferences == Preferences(
        order=("prv_a", "prv_b"),  # type: ignore[arg-type]
        only=("prv_a", "prv_b"),  # type: ignore[arg-type]
        ignore=("prv_c",),  # type: ignore[arg-type]
        allow_fallbacks=False,
        sort="price",
        max_price_in_nano=15,
        max_price_out_nano=60,
        trust="verified",
        quantizations=("4bit", "bf16"),
        preferred_max_latency_ms=1500.0,
        preferred_min_tps=40.0,
        own="prefer",
    )
    assert "x-coster-ignored-params" not in exchange.answer_headers


@pytest.mark.parametrize(
    "provider", [{}, None, {"sort": None, "only": None}, {"order": []}, {"allow_fallbacks": True}]
)
async def test_no_wish_is_no_preference(market: Market, provider: Any) -> None:
    """What asks for what happens anyway costs the router nothing."""
    assert (await ask(chat(provider=provider)).go(market.app)).status == 200
    assert market.fleet.requests[0].preferences is NO_PREFERENCES


@given(st.decimals(0, 10_000, places=6))
def test_a_price_ceiling_is_exact(usd: Decimal) -> None:
    """As a number or a string; rounded down, so that nothing dearer is let in."""
    exact = int(usd * 1000)
    assert wished(max_price={"prompt": str(usd)}).max_price_in_nano == exact
    assert wished(max_price={"completion": float(usd)}).max_price_out_nano == exact


CONTRADICTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"provider": {"only": ["a", "b"], "ignore": ["b", "a", "c"]}}, "only", "ignore"),
    ({"provider": {"order": ["a"], "only": ["b"], "allow_fallbacks": False}}, "order", "only"),
    ({"provider": {"order": ["a"], "ignore": ["a"], "allow_fallbacks": False}}, "order", "ignore"),
    (
        {
            "provider": {
                "order": ["a", "b"],
                "only": ["a", "c"],
                "ignore": ["a"],
                "allow_fallbacks": False,
            }
        },
        "order",
        "only",
    ),
    ({"model": "coster/demo:floor", "provider": {"sort": "latency"}}, "model", "provider.sort"),
    ({"model": "coster/demo:nitro", "provider": {"sort": {"by": "price"}}}, "model", "sort"),
    ({"models": ["x:nitro"], "provider": {"sort": "price"}}, "models", "provider.sort"),
]


@pytest.mark.parametrize(("fields", "one", "other"), CONTRADICTIONS)
async def test_contradictions_are_400_and_name_both(
    market: Market, fields: dict[str, Any], one: str, other: str
) -> None:
    """Nobody could meet them, so nobody is asked."""
    exchange = await ask(chat(**fields)).go(market.app)

    assert (exchange.status, exchange.error["code"]) == (400, "contradicting_preferences")
    assert one in exchange.error["message"]
    assert other in exchange.error["message"]
    assert not market.fleet.requests


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": {"only": ["a", "b"], "ignore": ["b"]}},
        {"provider": {"order": ["a"], "only": ["b"]}},
        {"provider": {"order": ["a"], "ignore": ["a"]}},
        {"provider": {"order": ["a", "b"], "only": ["b"], "allow_fallbacks": False}},
        {"model": "coster/demo:floor", "provider": {"sort": "price"}},
    ],
)
async def test_what_can_be_met_is_no_contradiction(market: Market, fields: dict[str, Any]) -> None:
    """Somebody is left, or a soft wish has nothing to say."""
    assert (await ask(chat(**fields)).go(market.app)).status == 200


WEEK_S = 7 * 86_400
ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"provider": "fast"}, "provider"),
    ({"provider": {"only": "prv_a"}}, "provider.only"),
    ({"provider": {"only": [7]}}, "provider.only[0]"),
    ({"provider": {"only": [""]}}, "provider.only[0]"),
    ({"provider": {"only": ["x" * 81]}}, "provider.only[0]"),
    ({"provider": {"ignore": [str(at) for at in range(65)]}}, "provider.ignore"),
    ({"provider": {"allow_fallbacks": 1}}, "provider.allow_fallbacks"),
    ({"provider": {"sort": "beauty"}}, "provider.sort"),
    ({"provider": {"sort": {"by": 3}}}, "provider.sort.by"),
    ({"provider": {"sort": {"by": "price", "partition": "none"}}}, "provider.sort.partition"),
    ({"provider": {"max_price": 1}}, "provider.max_price"),
    ({"provider": {"max_price": {"prompt": -0.1}}}, "provider.max_price.prompt"),
    ({"provider": {"max_price": {"prompt": "-1"}}}, "provider.max_price.prompt"),
    ({"provider": {"max_price": {"completion": "NaN"}}}, "provider.max_price.completion"),
    ({"provider": {"max_price": {"completion": 1e308}}}, "provider.max_price.completion"),
    ({"provider": {"max_price": {"request": True}}}, "provider.max_price.request"),
    ({"provider": {"trust": "blind"}}, "provider.trust"),
    ({"provider": {"quantizations": ["4-bit"]}}, "provider.quantizations[0]"),
    ({"provider": {"preferred_max_latency": 0}}, "provider.preferred_max_latency"),
    ({"provider": {"preferred_max_latency": WEEK_S}}, "provider.preferred_max_latency"),
    ({"provider": {"preferred_max_latency": {"p50": -1}}}, "provider.preferred_max_latency.p50"),
    ({"provider": {"preferred_min_throughput": 1e300}}, "provider.preferred_min_throughput"),
    ({"provider": {"preferred_min_throughput": "9"}}, "provider.preferred_min_throughput"),
    ({"provider": {"own": "yours"}}, "provider.own"),
    ({"provider": {"require_parameters": "yes"}}, "provider.require_parameters"),
    ({"provider": {"data_collection": "sell"}}, "provider.data_collection"),
    ({"provider": {"data_collection": "deny"}}, "provider.data_collection"),
    ({"provider": {"zdr": True}}, "provider.zdr"),
    ({"deadline_s": 0}, "deadline_s"),
    ({"deadline_s": -3}, "deadline_s"),
    ({"deadline_s": WEEK_S}, "deadline_s"),
    ({"deadline_s": "5"}, "deadline_s"),
    ({"deadline_s": 1e308}, "deadline_s"),
    ({"max_cost_usd": -1}, "max_cost_usd"),
    ({"max_cost_usd": 1e300}, "max_cost_usd"),
    ({"max_cost_usd": "1e3"}, "max_cost_usd"),
    ({"max_cost_usd": True}, "max_cost_usd"),
    ({"service_tier": "gold"}, "service_tier"),
    ({"models": [""]}, "models[0]"),
    ({"models": ["m"] * 9}, "models"),
    ({"models": {"a": 1}}, "models"),
]


@pytest.mark.parametrize(("fields", "field"), ABSURD)
async def test_absurd_wishes_are_400_and_named(
    market: Market, fields: dict[str, Any], field: str
) -> None:
    """Of the wrong kind, negative, endless or a week long: nothing runs."""
    exchange = await ask(chat(**fields)).go(market.app)

    assert exchange.status == 400, exchange.content
    assert exchange.error["param"] == field
    assert not market.fleet.requests


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_400(market: Market, number: str) -> None:
    """JSON has no such numbers, and neither has a deadline."""
    body = b'{"model": "coster/demo", "prompt": "a", "deadline_s": ' + number.encode() + b"}"
    exchange = await ask(body, path="/v1/completions").go(market.app)
    assert exchange.status == 400
    assert not market.fleet.requests


async def test_what_is_not_used_of_a_wish_is_named(market: Market) -> None:
    """Unknown keys, percentiles nobody predicts, a flag without its list."""
    provider = {
        "flavour": 1,
        "allow_fallbacks": False,
        "sort": {"by": "price", "how": 1},
        "max_price": {"image": 1},
        "preferred_max_latency": {"p90": 3, "p50": 2},
        "evil\r\nkey": 1,
    }
    exchange = await ask(chat(provider=provider, store=True)).go(market.app)

    assert set(exchange.answer_headers["x-coster-ignored-params"].split(",")) == {
        "store",
        "provider.flavour",
        "?",
        "provider.allow_fallbacks",
        "provider.sort.how",
        "provider.preferred_max_latency.p90",
        "provider.max_price.image",
    }


async def test_whoever_requires_every_parameter_is_told_which_is_not_used(market: Market) -> None:
    """Advisory ones, unknown ones and unknown keys of the wish itself."""
    provider = {"require_parameters": True}
    exchange = await ask(chat(provider={**provider, "x": 1}, store=True, foo=1)).go(market.app)

    assert (exchange.status, exchange.error["param"]) == (400, "provider.require_parameters")
    assert all(name in exchange.error["message"] for name in ("store", "foo", "provider.x"))
    assert not market.fleet.requests
    assert (await ask(chat(provider=provider, temperature=0)).go(market.app)).status == 200


@pytest.mark.parametrize(
    ("model", "sort"), [("coster/demo:floor", "price"), ("coster/demo:nitro", "throughput")]
)
async def test_a_models_ending_sorts_its_macs(market: Market, model: str, sort: str) -> None:
    """And is no part of the model's name, in the answer either."""
    exchange = await ask(chat(model=model)).go(market.app)

    assert exchange.json["model"] == "coster/demo"
    assert market.fleet.requests[0].preferences == Preferences(sort=sort)  # type: ignore[arg-type]
    assert (await ask(chat(model=":floor")).go(market.app)).status == 404


def test_completions_take_the_same_wishes() -> None:
    """Both calls read them from one table."""
    body = {"model": "coster/demo:nitro", "prompt": "a", "service_tier": "flex", "deadline_s": 3}
    told = read_call("completion", body)
    assert (told.wishes.request_class, told.wishes.deadline_s) == ("batch", 3.0)
    with pytest.raises(InvalidRequest):
        read_call("completion", {**body, "provider": {"sort": "price"}})
