"""What a caller wishes of who serves it: read exactly, told to the router, or refused by name."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.messages import Admitted
from market.policy.preferences import NO_PREFERENCES, Preferences
from market.policy.prefixes import block_hashes
from market.types import AccountId, MachineId
from serve_app.limits import DEADLINE_S_MAX, Limits
from serve_app.parameters import Call, read_call
from tests.http.asgi_client import HI, Exchange, ask, chat
from tests.http.ledger_market import LedgerMarket, call, open_market
from tests.http.memory_accountant import ADA
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


# ── own machines ─────────────────────────────────────────────────────────────────────

MINE = MachineId("mac_a")


def own(market: Market, *machines: MachineId) -> None:
    accountant = market.accountant
    for hashed, record in accountant.keys.items():
        accountant.keys[hashed] = replace(record, machines=machines)


@pytest.mark.parametrize("how", ["self", "prefer"])
@pytest.mark.parametrize("by_header", [True, False])
async def test_own_machines_are_wished_for_by_field_or_header(
    market: Market, how: str, by_header: bool
) -> None:
    """Both mean the same, and the machines are those of the account."""
    own(market, MINE)
    headers = {"x-coster-route": how.upper()} if by_header else {}
    body = HI if by_header else chat(provider={"own": how})

    assert (await ask(body, headers=headers).go(market.app)).status == 200
    asked = market.fleet.requests[0].preferences
    assert (asked.own, asked.own_machines) == (how, (MINE,))


async def test_own_machines_only_without_any_is_400(market: Market) -> None:
    """It names the field or the header by which they were wanted; to prefer none is harmless."""
    field = await ask(chat(provider={"own": "self"})).go(market.app)
    header = await ask(headers={"x-coster-route": "self"}).go(market.app)

    assert (field.error["code"], field.error["param"]) == ("no_own_machine", "provider.own")
    assert (header.status, header.error["param"]) == (400, "x-coster-route")
    assert not market.fleet.requests
    assert (await ask(headers={"x-coster-route": "prefer"}).go(market.app)).status == 200


async def test_a_header_that_says_otherwise_is_a_contradiction(market: Market) -> None:
    """Neither is guessed to be the one that was meant; a word that is none is refused."""
    body = chat(provider={"own": "self"})
    both = await ask(body, headers={"x-coster-route": "prefer"}).go(market.app)
    word = await ask(headers={"x-coster-route": "anywhere"}).go(market.app)

    assert both.error["code"] == "contradicting_preferences"
    assert (word.status, word.error["param"]) == (400, "x-coster-route")


async def test_whose_machine_it_is_is_known_as_fast_as_a_revocation(tmp_path: Path) -> None:
    """A machine that is linked or unlinked counts within the second for which a key is cached."""
    async with open_market(tmp_path, limits=Limits(key_cache_s=0.0)) as market:
        accountant = market.ledger.accountant

        async def mine() -> Exchange:
            return await ask(chat(provider={"own": "self"}), key=market.inference).go(market.app)

        assert (await ask(key=market.inference).go(market.app)).status == 200
        assert (await mine()).error["code"] == "no_own_machine"
        await accountant.link_machine(MINE, ADA, "op")
        assert (await mine()).status == 200
        assert market.fleet.requests[-1].preferences.own_machines == (MINE,)
        await accountant.unlink_machine(MINE, "op")
        assert (await mine()).error["code"] == "no_own_machine"


@pytest.mark.parametrize("privacy", [{"zdr": True}, {"data_collection": "deny"}])
async def test_nothing_kept_can_be_promised_for_own_machines_only(
    market: Market, privacy: dict[str, Any]
) -> None:
    """On strangers' Macs it cannot, and a kept answer is kept: both are said."""
    own(market, MINE)
    body = chat(provider={**privacy, "own": "self"})
    (name,) = privacy

    refused = await ask(chat(provider=privacy)).go(market.app)
    kept = await ask(body, headers={"idempotency-key": "k"}).go(market.app)

    assert (refused.status, refused.error["code"]) == (400, "unsupported_parameter")
    assert "provider.own" in refused.error["message"]
    assert kept.error["code"] == "contradicting_preferences"
    assert all(said in kept.error["message"] for said in (name, "Idempotency-Key"))
    assert (await ask(body).go(market.app)).status == 200


# ── when, for how much, whose ────────────────────────────────────────────────────────


async def test_a_deadline_counts_down_from_the_requests_arrival(market: Market) -> None:
    """Each question to the router says what is left; nobody waits in a queue beyond it."""
    market.fleet.macs = market.fleet.macs[:1]
    market.fleet.macs[0].slots = 1
    market.fleet.macs[0].pace_s = 0.004
    first = asyncio.create_task(ask().go(market.app))
    await asyncio.sleep(0.02)

    await ask(chat(deadline_s=20)).go(market.app)
    await first

    early, queued = market.fleet.requests[-2:]
    assert early.finish_by_s is not None
    assert queued.finish_by_s is not None
    assert 19 < queued.finish_by_s <= early.finish_by_s <= 20
    assert queued.deadline_s == queued.finish_by_s < Limits().queue_s
    assert market.fleet.requests[0].finish_by_s is None


async def test_a_deadline_is_never_later_than_a_request_may_last(market: Market) -> None:
    """The longest one is taken, and waits no longer than anyone."""
    await ask(chat(deadline_s=DEADLINE_S_MAX)).go(market.app)
    assert market.fleet.requests[0].deadline_s == Limits().queue_s


@pytest.mark.parametrize(
    ("tier", "request_class", "told"),
    [
        ("flex", "batch", "flex"),
        ("auto", "interactive", "default"),
        ("default", "interactive", "default"),
        ("priority", "interactive", "default"),
        (None, "interactive", None),
    ],
)
async def test_flex_is_the_batch_class(
    market: Market, tier: str | None, request_class: str, told: str | None
) -> None:
    """It may wait longer; the answer says which tier it was, in chunks too."""
    exchange = await ask(chat(service_tier=tier)).go(market.app)
    stream = await ask(chat(service_tier=tier, stream=True)).go(market.app)

    asked = market.fleet.requests[0]
    patience_s = Limits().batch_queue_s if tier == "flex" else Limits().queue_s
    assert (asked.request_class, asked.deadline_s) == (request_class, patience_s)
    assert exchange.json.get("service_tier") == told
    assert {chunk.get("service_tier") for chunk in stream.events} == {told}
    assert "x-coster-ignored-params" not in exchange.answer_headers


async def test_a_conversation_is_known_by_a_hash_of_its_name(market: Market) -> None:
    """The cache key before the user; never the words; another account's is another one."""
    market.accountant.accounts[AccountId("acct_bob")] = market.accountant.accounts[ADA]
    market.accountant.add_key("sk-test-bob", AccountId("acct_bob"), "inference")
    for body, key in (
        (chat(user="ada@example.org"), Market.KEY),
        (chat(user="ada@example.org", prompt_cache_key="talk"), Market.KEY),
        (chat(prompt_cache_key="talk"), Market.KEY),
        (chat(prompt_cache_key="talk"), "sk-test-bob"),
        (chat(user=""), Market.KEY),
        (chat(user={"id": 1}), Market.KEY),
    ):
        assert (await ask(body, key=key).go(market.app)).status == 200
    sessions = [request.session for request in market.fleet.requests]

    assert sessions[1] == sessions[2]
    assert len(set(sessions[:4])) == 3
    assert sessions[4:] == ["", ""]
    assert not any("ada" in session or "talk" in session for session in sessions)


async def test_a_prompt_is_known_by_its_blocks(market: Market) -> None:
    """Keyed by account and model, as what its Mac reports to have read."""
    long = [{"role": "user", "content": "x" * 200}]
    await ask(chat(messages=long)).go(market.app)
    await market.app.close()

    (request,), (outcome,) = market.fleet.requests, market.fleet.outcomes
    prompt = market.fleet.macs[0].jobs[0].prompt_ids
    assert request.prefix == block_hashes(prompt, ADA, "coster/demo")
    assert len(request.prefix) == len(prompt) // 64
    assert outcome.prefix[: len(request.prefix)] == request.prefix
    await ask().go(market.app)
    assert market.fleet.requests[-1].prefix == ()


async def test_macs_are_compared_at_the_holds_prices(tmp_path: Path) -> None:
    """At the present ones until the hold is known, at the frozen ones from then on."""
    async with open_market(tmp_path) as market:
        market.fleet.macs = market.fleet.macs[:1]
        market.fleet.macs[0].slots = 0
        honest = market.ledger.op

        async def dearer(op: Any) -> Any:
            reply = await honest(op)
            if isinstance(reply, Admitted):
                reply = replace(reply, price_in_nano=16, price_out_nano=61)
                market.fleet.macs[0].slots = 1
            return reply

        market.ledger.op = dearer  # type: ignore[method-assign]
        await ask(key=market.inference).go(market.app)
        asked = [(r.price_in_nano, r.price_out_nano) for r in market.fleet.requests]
        assert asked == [(15, 60), (16, 61)]


COST_NANO = 22 * 15


async def _budgeted(market: LedgerMarket, **fields: Any) -> Exchange:
    return await call(market, "POST", "/v1/chat/completions", chat(**fields), key=market.inference)


async def test_a_budget_is_never_exceeded(tmp_path: Path) -> None:
    """It bounds the answer, or the request is refused with the number that fits, and none runs."""
    async with open_market(tmp_path) as market:
        budget = (COST_NANO + 5 * 60 + 59) / 1e9

        capped = await _budgeted(market, max_cost_usd=budget)
        refused = await _budgeted(market, max_cost_usd=budget, max_tokens=6)
        nothing = await _budgeted(market, max_cost_usd="0.0000001")
        exact = await _budgeted(market, max_cost_usd=budget, max_tokens=5)

        assert capped.answer_headers["x-coster-max-tokens"] == "5"
        assert capped.json["usage"]["completion_tokens"] == 5
        assert (refused.status, refused.error["code"]) == (402, "budget_exceeded")
        assert refused.error["param"] == "max_cost_usd"
        assert "at most 5" in refused.error["message"]
        assert refused.answer_headers["x-should-retry"] == "false"
        assert nothing.status == 402
        assert exact.json["usage"]["completion_tokens"] == 5
        assert market.fleet.jobs_taken() == 2
        assert await market.spent_nano() == 2 * (COST_NANO + 5 * 60)


def test_completions_take_the_same_wishes() -> None:
    """Both calls read them from one table."""
    body = {"model": "coster/demo:nitro", "prompt": "a", "service_tier": "flex", "deadline_s": 3}
    told = read_call("completion", body)
    assert (told.wishes.request_class, told.wishes.deadline_s) == ("batch", 3.0)
    with pytest.raises(InvalidRequest):
        read_call("completion", {**body, "provider": {"sort": "price"}})
