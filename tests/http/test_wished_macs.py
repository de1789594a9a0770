"""Wishes over the router's own mind: the Mac that serves is the one that was wished for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from market.types import MachineId
from tests.http.asgi_client import Exchange, ask, chat, settled
from tests.http.conftest import Server
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market
from tests.http.routed_fleet import routed_market
from tests.http.test_hostile import GENEROUS
from tests.http.test_lives import QUICK

GREETING = [{"role": "user", "content": "hello"}]


def three(folder: Path) -> Market:
    """A fast dear Mac, a slow cheap one, a verified one that is quantised otherwise."""
    return routed_market(
        folder,
        Mac("fast"),
        Mac("cheap", ask_pct=50),
        Mac("safe"),
        limits=GENEROUS,
        fast={"bandwidth_gbs": 800.0},
        cheap={"bandwidth_gbs": 60.0},
        safe={"bandwidth_gbs": 100.0, "trust": "verified", "quantization": "8bit"},
    )


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Three Macs that differ in speed, price, trust and quantisation."""
    return three(tmp_path)


SERVED: list[tuple[dict[str, Any], str]] = [
    ({"only": ["prv_safe"]}, "prv_safe"),
    ({"ignore": ["prv_fast", "prv_safe", "prv_unknown"]}, "prv_cheap"),
    ({"order": ["prv_safe", "prv_cheap"]}, "prv_safe"),
    ({"order": ["prv_cheap"], "allow_fallbacks": False}, "prv_cheap"),
    ({"sort": "price"}, "prv_cheap"),
    ({"sort": "throughput"}, "prv_fast"),
    ({"max_price": {"completion": 0.03}}, "prv_cheap"),
    ({"trust": "verified"}, "prv_safe"),
    ({"quantizations": ["int8"]}, "prv_safe"),
    ({"order": ["prv_safe"], "ignore": ["prv_safe", "prv_cheap"]}, "prv_fast"),
]


@pytest.mark.parametrize(("provider", "served"), SERVED)
async def test_the_mac_that_was_wished_for_serves(
    market: Market, provider: dict[str, Any], served: str
) -> None:
    """Hard wishes rule out, soft ones reorder; the header says who, the bill for how much."""
    exchange = await ask(chat(provider=provider)).go(market.app)
    await settled(market)

    assert exchange.answer_headers["x-coster-provider"] == served
    price = 30 if served == "prv_cheap" else 60
    usage = exchange.json["usage"]
    prompt = usage["prompt_tokens"] * (8 if served == "prv_cheap" else 15)
    assert usage["cost_nano_usd"] == str(prompt + usage["completion_tokens"] * price)


UNSERVED: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"max_price": {"prompt": 0.001}}, "no_provider_matches", ["3 above your max_price"]),
    (
        {"trust": "verified", "quantizations": ["4bit"]},
        "no_provider_matches",
        ["provider.trust or provider.quantizations", "2 trusted less", "1 quantised otherwise"],
    ),
    ({"only": ["prv_typo"]}, "unknown_provider", ["prv_typo"]),
    ({"order": ["prv_typo"]}, "unknown_provider", ["prv_typo"]),
    ({"only": []}, "names_nobody", ["provider.only names nobody"]),
    ({"quantizations": ["fp6"]}, "no_provider_matches", ["3 quantised otherwise"]),
]


@pytest.mark.parametrize(("provider", "code", "said"), UNSERVED)
async def test_wishes_that_leave_nobody_are_400_and_say_which(
    market: Market, provider: dict[str, Any], code: str, said: list[str]
) -> None:
    """How many Macs each wish has ruled out; nothing is charged and nothing stays held."""
    exchange = await ask(chat(provider=provider)).go(market.app)
    await market.app.close()

    assert (exchange.status, exchange.error["code"]) == (400, code)
    assert all(words in exchange.error["message"] for words in said), exchange.content
    assert market.nothing_is_left()


async def test_own_machines_serve_who_prefers_them_and_alone_who_insists(market: Market) -> None:
    """`prefer` goes elsewhere when one's own is lost; `self` waits or is refused, never does."""
    accountant = market.accountant
    for hashed, record in accountant.keys.items():
        accountant.keys[hashed] = replace(record, machines=(MachineId("mac_cheap"),))

    async def served(how: str) -> Exchange:
        return await ask(headers={"x-coster-route": how}).go(market.app)

    for how in ("self", "prefer"):
        assert (await served(how)).answer_headers["x-coster-provider"] == "prv_cheap"
    market.fleet.state.drain(MachineId("mac_cheap"), "update")  # type: ignore[attr-defined]
    away = await served("prefer")
    assert away.answer_headers["x-coster-provider"] == "prv_fast"
    refused = await served("self")
    assert (refused.status, refused.error["code"]) == (400, "no_provider_matches")
    assert "2 not yours" in refused.error["message"]


async def test_a_deadline_nobody_can_meet_is_refused_before_anything_runs(market: Market) -> None:
    """With the time it would take, and with when to come back."""
    exchange = await ask(chat(deadline_s=0.001)).go(market.app)
    await market.app.close()

    assert (exchange.status, exchange.error["code"]) == (503, "deadline_infeasible")
    assert not market.fleet.jobs_taken()
    assert market.nothing_is_left()


async def test_flex_is_served_after_those_who_pay_for_now(tmp_path: Path) -> None:
    """Of two that wait for one slot, the interactive one that came later goes first."""
    market = routed_market(tmp_path, Mac("a", slots=1, pace_s=0.003), limits=QUICK)
    first = asyncio.create_task(ask().go(market.app))
    while not market.fleet.grants:
        await asyncio.sleep(0.001)
    flex = asyncio.create_task(ask(chat(service_tier="flex")).go(market.app))
    while sum(r.funding is not None for r in market.fleet.requests) < 1:
        await asyncio.sleep(0.001)
    now = asyncio.create_task(ask().go(market.app))
    await asyncio.gather(first, flex, now)
    await settled(market)

    served = [job.request_id for job in market.fleet.macs[0].jobs]
    assert served[1:] == [
        now.result().answer_headers["x-coster-request-id"],
        flex.result().answer_headers["x-coster-request-id"],
    ]


# ── the official client ──────────────────────────────────────────────────────────────


@pytest.fixture
def client(tmp_path: Path) -> Iterator[OpenAI]:
    """The SDK against the same three Macs behind a socket."""
    with (
        Server(three(tmp_path)) as server,
        OpenAI(base_url=server.base_url, api_key=Market.KEY, max_retries=0) as made,
    ):
        yield made


def test_the_sdk_sends_wishes_as_extra_body(client: OpenAI) -> None:
    """Streamed and whole, by field, by header and by the model's ending."""
    create = client.chat.completions.with_raw_response.create
    whole = create(
        model="coster/demo",
        messages=GREETING,  # type: ignore[arg-type]
        service_tier="flex",
        extra_body={"provider": {"only": ["prv_safe"], "max_price": {"completion": 1}}},
    )
    assert whole.headers["x-coster-provider"] == "prv_safe"
    assert whole.parse().service_tier == "flex"
    stream = create(
        model="coster/demo:floor",
        messages=GREETING,  # type: ignore[arg-type]
        stream=True,
        extra_body={"max_cost_usd": 0.001, "deadline_s": 60},
    )
    assert stream.headers["x-coster-provider"] == "prv_cheap"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream.parse())
    assert len(text) == 24
    fallback = client.chat.completions.create(
        model="qwen3.5-7b",
        messages=GREETING,  # type: ignore[arg-type]
        extra_body={"models": ["coster/demo"]},
    )
    assert fallback.model == "coster/demo"


def test_the_sdk_raises_its_own_classes_for_wishes(client: OpenAI) -> None:
    """400 for what nobody can meet, 402 for a budget, each with its code and field."""

    def create(**body: Any) -> None:
        client.chat.completions.create(
            model="coster/demo",
            messages=GREETING,  # type: ignore[arg-type]
            extra_body=body,
        )

    with pytest.raises(openai.BadRequestError) as unwanted:
        create(provider={"only": ["prv_safe"], "ignore": ["prv_safe"]})
    assert unwanted.value.code == "contradicting_preferences"
    with pytest.raises(openai.BadRequestError) as nobody:
        create(provider={"max_price": {"prompt": 0}})
    assert (nobody.value.code, nobody.value.param) == ("no_provider_matches", "provider")
    with pytest.raises(openai.APIStatusError) as poor:
        create(max_cost_usd=0)
    assert (poor.value.status_code, poor.value.code) == (402, "budget_exceeded")


# ── whatever is wished ───────────────────────────────────────────────────────────────

IDS = ["prv_fast", "prv_cheap", "prv_safe", "prv_x", "", "\r\n", "é"]
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), st.just(1.0)
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("order", "only", "ignore"), st.lists(st.sampled_from(IDS[:4]), max_size=4)),
    **dict.fromkeys(("allow_fallbacks", "require_parameters", "zdr"), st.booleans()),
    "sort": st.sampled_from(["price", "latency", "throughput", {"by": "price"}, "x"]),
    "max_price": st.dictionaries(
        st.sampled_from(["prompt", "completion", "request", "image"]),
        st.sampled_from([0, 0.015, 0.06, "1", 1e9, -1, "x", None]),
    ),
    "trust": st.sampled_from(["basic", "verified", "x"]),
    "quantizations": st.lists(st.sampled_from(["int4", "8bit", "bf16", "x"]), max_size=3),
    "preferred_max_latency": st.sampled_from([0.001, 2, {"p50": 1}, {"p90": 1}, 0, -1, 1e9]),
    "preferred_min_throughput": st.sampled_from([1, 1e5, {"p50": 50}, 0, "x"]),
    "own": st.sampled_from(["self", "prefer", "x"]),
    "data_collection": st.sampled_from(["allow", "deny"]),
}
PROVIDERS = st.fixed_dictionaries(
    {}, optional={name: st.one_of(likely, likely, ANYTHING) for name, likely in LIKELY.items()}
)

STRANGE = st.dictionaries(st.text(max_size=8), ANYTHING)


class World:
    """One market and one loop for all the objects."""

    def __init__(self, folder: Path) -> None:
        self.market = three(folder)
        self.loop = asyncio.new_event_loop()
        self.statuses: list[int] = []

    def ask(self, exchange: Exchange) -> Exchange:
        return self.loop.run_until_complete(exchange.go(self.market.app))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """It must be whole again when all is done."""
    made = World(tmp_path_factory.mktemp("market"))
    yield made
    made.loop.run_until_complete(settled(made.market))
    made.loop.close()
    assert min(made.statuses.count(200), made.statuses.count(400)) > 25


@settings(
    max_examples=250,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    provider=st.one_of(PROVIDERS, PROVIDERS, STRANGE, ANYTHING),
    route=st.sampled_from([None, None, None, "self", "prefer", "é"]),
    quote=st.booleans(),
)
def test_no_wish_makes_a_server_error(
    world: World, provider: Any, route: str | None, quote: bool
) -> None:
    """Whatever the object holds: served, or a clear 4xx in the envelope; a quote likewise."""
    body = json.dumps(chat(provider=provider, max_tokens=3)).encode("utf-8", "surrogatepass")
    headers = {} if route is None else {"x-coster-route": route}
    path = "/v1/quote" if quote else "/v1/chat/completions"

    exchange = world.ask(ask(body, headers=headers, path=path))

    world.statuses.append(exchange.status)
    assert exchange.status in (200, 400), (provider, exchange.content)
    if exchange.status == 400:
        assert exchange.error["message"]
        assert exchange.error["type"] == "invalid_request"
