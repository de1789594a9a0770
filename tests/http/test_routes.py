"""Every route but inference: fields, types, scopes, and a document that tells the truth."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from market.catalogue import CARDS
from market.types import KeyId
from serve_app.app import create_app
from serve_app.limits import Limits
from serve_app.ports import DRAINING
from serve_app.rates import duration
from serve_app.request_ids import new_request_id
from tests.http.asgi_client import Exchange, ask, chat
from tests.http.memory_accountant import ADA
from tests.http.memory_market import Market


async def get(market: Market, path: str, key: str | None = Market.KEY) -> Exchange:
    path, _, query = path.partition("?")
    exchange = Exchange(b"", path=path, method="GET", key=key)
    exchange.query = query.encode()
    return await exchange.go(market.app)


async def test_prices_are_exact_in_every_notation(market: Market) -> None:
    """USD per 1M tokens, micro-USD and nano-USD say the same; no key is needed."""
    rows = (await get(market, "/v1/pricing", key=None)).json["models"]

    assert len(rows) == len(CARDS)
    for row, card in zip(rows, CARDS, strict=True):
        nano = int(row["input_nano_usd_per_token"])
        assert nano == card.price_in_nano
        assert Decimal(str(row["input_usd_per_1m"])) * 1000 == nano
        assert row["input_micro_usd_per_1m"] == nano * 1000
        assert Decimal(str(row["output_usd_per_1m"])) * 1000 == card.price_out_nano


async def test_models_show_price_and_availability_from_cache(market: Market) -> None:
    """OpenAI's fields, ours beside them, without a key and without asking any actor."""
    models = {row["id"]: row for row in (await get(market, "/v1/models", key=None)).json["data"]}

    demo = models["coster/demo"]
    assert demo["object"] == "model"
    assert isinstance(demo["created"], int)
    assert (demo["available"], demo["ready"]) == (True, 3)
    assert models["deepseek-v3"]["available"] is False
    one = (await get(market, "/v1/models/coster/demo", key=None)).json
    assert one == demo
    assert not market.accountant.ops
    assert not market.fleet.requests


async def test_balance_has_the_published_fields(market: Market) -> None:
    """Four fields in micro and USD, what is held beside them, and exact strings."""
    await ask().go(market.app)

    body = (await get(market, "/v1/payments/balance")).json

    cost = 22 * 15 + 24 * 60
    assert body["balance_nano_usd"] == str(10_000_000_000 - cost)
    assert body["balance_micro_usd"] == (10_000_000_000 - cost) // 1000
    assert body["balance_usd"] == pytest.approx(9.99999823)
    assert (body["withdrawable_micro_usd"], body["withdrawable_usd"]) == (0, 0.0)
    assert body["held_nano_usd"] == "0"


async def test_usage_is_a_bare_array_of_the_published_fields(market: Market) -> None:
    """Newest first, the id that the response had, and as many as asked for."""
    first = await ask().go(market.app)
    second = await ask(chat(max_tokens=1)).go(market.app)

    rows = (await get(market, "/v1/payments/usage")).json

    ids = [e.answer_headers["x-coster-request-id"] for e in (second, first)]
    assert [row["request_id"] for row in rows] == ids
    assert rows[1]["model"] == "coster/demo"
    assert (rows[1]["prompt_tokens"], rows[1]["completion_tokens"]) == (22, 24)
    assert rows[1]["cost_micro_usd"] == (22 * 15 + 24 * 60) // 1000
    assert rows[1]["timestamp"].endswith("Z")
    assert len((await get(market, "/v1/payments/usage?limit=1")).json) == 1


@pytest.mark.parametrize("limit", ["0", "x", "1001", "1e3", "9" * 5000])
async def test_a_wrong_limit_names_itself(market: Market, limit: str) -> None:
    """400 with `param: limit`, and not what was sent."""
    exchange = await get(market, f"/v1/payments/usage?limit={limit}")

    assert exchange.status == 400
    assert exchange.error["param"] == "limit"


async def test_a_generation_is_seen_by_its_owner_only(market: Market) -> None:
    """The same id with another account's key is not found."""
    exchange = await ask().go(market.app)
    request_id = exchange.answer_headers["x-coster-request-id"]
    account = await ask(b"", path="/v1/accounts", key=None).go(market.app)
    stranger = account.json["management_key"]["key"]

    mine = await get(market, f"/v1/generations/{request_id}")
    theirs = await get(market, f"/v1/generations/{request_id}", key=stranger)

    assert mine.json["status"] == "settled"
    assert mine.json["cost_nano_usd"] == str(22 * 15 + 24 * 60)
    assert mine.json["provider"] == "prv_a"
    assert theirs.status == 404


async def test_an_account_makes_lists_and_revokes_keys(market: Market) -> None:
    """From nothing to an answered request and a revoked key, with the API alone."""
    opened = await ask({"name": "lab"}, path="/v1/accounts", key=None).go(market.app)
    assert opened.status == 201
    management = opened.json["management_key"]["key"]
    body = {"name": "laptop", "scopes": ["inference"], "expires_in_s": 3600}
    made = await ask(body, path="/v1/keys", key=management).go(market.app)
    assert (made.status, made.json["name"]) == (201, "laptop")

    assert (await ask(key=made.json["key"]).go(market.app)).status == 200
    listed = (await get(market, "/v1/keys", management)).json["data"]
    assert {row["id"] for row in listed} >= {made.json["id"]}
    assert all("key" not in row for row in listed)

    revoked = Exchange(b"", path=f"/v1/keys/{made.json['id']}", method="DELETE", key=management)
    assert (await revoked.go(market.app)).json["revoked_at"]
    assert (await ask(key=made.json["key"]).go(market.app)).status == 401


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"scopes": ["admin"]}, "scopes[0]", "invalid_value"),
        ({"scopes": []}, "scopes", "empty"),
        ({"scopes": ["inference"] * 6}, "scopes", "too_long"),
        ({"scopes": "inference"}, "scopes", "invalid_type"),
        ({"scopes": [1]}, "scopes[0]", "invalid_value"),
        ({"expires_in_s": 1}, "expires_in_s", "out_of_range"),
        ({"expires_in_s": 10**30}, "expires_in_s", None),
        ({"expires_in_s": "60"}, "expires_in_s", "invalid_type"),
        ({"expires_in_s": 60.5}, "expires_in_s", "invalid_type"),
        ({"name": "x" * 101}, "name", "too_long"),
        ({"name": 1}, "name", "invalid_type"),
        ({"tier": "enterprise"}, "tier", "unknown_field"),
        ({"a\r\nb": 1}, None, "unknown_field"),
        ({"x" * 65: 1}, None, "unknown_field"),
    ],
)
async def test_key_bodies_are_checked(
    market: Market, body: Any, param: str | None, code: str | None
) -> None:
    """Unknown fields are refused by name too: nobody grants himself a tier."""
    exchange = await ask(body, path="/v1/keys", key=Market.MANAGEMENT).go(market.app)

    assert exchange.status == 400
    assert exchange.error["param"] == param
    assert code is None or exchange.error["code"] == code
    assert exchange.error["code"] in {
        "empty", "too_long", "invalid_type", "invalid_value", "out_of_range", "unknown_field"
    }  # fmt: skip
    if code == "unknown_field":
        assert (param or "a field") in exchange.error["message"]


async def test_answers_match_their_documented_schemas(market: Market) -> None:
    """What is served validates against what /openapi.json promises, inference included."""
    document = (await get(market, "/openapi.json", key=None)).json

    def check(value: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(value, schema)

    check((await ask().go(market.app)).json, "ChatCompletion")
    stream = chat(stream=True, stream_options={"include_usage": True}, logprobs=True)
    for event in (await ask(stream).go(market.app)).events:
        check(event, "ChatCompletionChunk")
    legacy = {"model": "coster/demo", "prompt": "abc", "logprobs": 1}
    check((await ask(legacy, path="/v1/completions").go(market.app)).json, "Completion")
    legacy["stream"] = True
    for event in (await ask(legacy, path="/v1/completions").go(market.app)).events:
        check(event, "CompletionChunk")
    check((await ask({}).go(market.app)).json, "ErrorEnvelope")
    check((await get(market, "/v1/payments/balance")).json, "BalanceAnswer")
    check((await get(market, "/v1/models")).json, "ModelList")
    check((await get(market, "/v1/pricing")).json, "PriceList")
    check((await get(market, "/v1/key")).json, "ThisKey")
    for row in (await get(market, "/v1/payments/usage")).json:
        check(row, "UsageEntry")


async def test_the_documented_body_schema_is_what_is_enforced(market: Market) -> None:
    """A body the schema refuses is refused, and one it takes is taken."""
    document = (await get(market, "/openapi.json", key=None)).json
    schema = {
        "$ref": "#/components/schemas/ChatCompletionBody",
        "components": document["components"],
    }
    validator = jsonschema.Draft202012Validator(schema)
    bodies = [
        chat(),
        chat(temperature=2.5),
        chat(n=9),
        chat(stop=[1]),
        chat(tools=[]),
        chat(tools=[{}]),
        chat(user="x"),
        chat(logit_bias={"1": 500}),
        chat(messages=[]),
        chat(max_tokens=-1),
        chat(top_p=0.5, stream=True),
        {"messages": []},
    ]
    for body in bodies:
        status = (await ask(body).go(market.app)).status
        assert (status == 200) == validator.is_valid(body), body


async def test_readiness_says_why_not(market: Market) -> None:
    """503 in the envelope with every problem in a sentence."""
    assert (await get(market, "/readyz", key=None)).status == 200
    market.readiness.said = ["The router does not answer.", "No Mac is ready."]

    exchange = await get(market, "/readyz", key=None)

    assert exchange.status == 503
    assert exchange.error["message"] == "Not ready. The router does not answer. No Mac is ready."
    assert (await get(market, "/health", key=None)).json == {"status": "ok"}


async def test_a_drain_is_told_to_those_who_ask_for_readiness(market: Market) -> None:
    """The code is `draining`, and Retry-After is there."""
    market.readiness.said = [DRAINING]

    exchange = await get(market, "/readyz", key=None)

    assert (exchange.status, exchange.error["code"]) == (503, "draining")
    assert exchange.answer_headers["retry-after"]


async def test_every_gateway_tells_the_same_creation_date(tmp_path: Path) -> None:
    """`created` belongs to the model, not to the process that answers."""
    created = set()
    for at_s in (1_800_000_000.0, 1_900_000_000.0):
        market = Market(tmp_path)
        ports = replace(market.ports, clock=FixedClock(at_s))
        exchange = Exchange(b"", path="/v1/models", method="GET", key=None)
        created |= {row["created"] for row in (await exchange.go(create_app(ports))).json["data"]}

    assert len(created) == 1


class FixedClock:
    """A clock that stands."""

    def __init__(self, at_s: float) -> None:
        self._at_s = at_s

    def now_s(self) -> float:
        return self._at_s

    def monotonic_s(self) -> float:
        return self._at_s


async def test_opening_accounts_is_rate_limited(market: Market) -> None:
    """One address cannot farm promo credit without a pause."""
    statuses = [
        (await ask({}, path="/v1/accounts", key=None).go(market.app)).status for _ in range(14)
    ]

    assert statuses[:10] == [201] * 10
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    ("theirs", "echoed"),
    [("abc-1.2_X", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)],
)
async def test_only_harmless_request_ids_are_echoed(
    market: Market, theirs: str, echoed: bool
) -> None:
    """The ledger's id is ours in every case."""
    exchange = await ask(headers={"x-request-id": theirs}).go(market.app)

    shown = exchange.answer_headers["x-request-id"]
    ours = exchange.answer_headers["x-coster-request-id"]
    assert shown == (theirs if echoed else ours)
    assert ours.startswith("req_")


async def test_a_revoked_key_is_forgotten_when_its_time_is_up(tmp_path: Path) -> None:
    """Other routes trust a record for `key_cache_s`, and not a moment longer."""
    market = Market(tmp_path, Limits(key_cache_s=0.8))
    assert (await get(market, "/v1/key")).status == 200
    assert (await get(market, "/v1/key")).status == 200
    assert len(market.accountant.ops) == 1
    await market.accountant.revoke_key(ADA, KeyId("key_1"))
    await asyncio.sleep(0.85)

    assert (await get(market, "/v1/key")).status == 401


async def test_a_refused_admission_forgets_the_key_everywhere(tmp_path: Path) -> None:
    """What the accountant just refused is not trusted for the rest of the second."""
    market = Market(tmp_path, Limits(key_cache_s=1000))
    assert (await get(market, "/v1/key")).status == 200
    await market.accountant.revoke_key(ADA, KeyId("key_1"))
    assert (await ask().go(market.app)).status == 401

    assert (await get(market, "/v1/key")).status == 401


async def test_request_ids_sort_by_time(market: Market) -> None:
    """Later requests have greater ids, as far as milliseconds tell."""
    early = new_request_id(1_700_000_000.001, b"\xff" * 10)
    late = new_request_id(1_700_000_000.002, b"\x00" * 10)

    assert early < late
    assert len(early) == len(late) == 30
    assert json.dumps(early).isascii()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.012, "12ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (7205, "2h0m5s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    """Rounded up: whoever waits as long is never too early."""
    assert duration(seconds) == text
