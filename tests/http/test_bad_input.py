"""Hostile and mistaken requests: each gets its own clear error, and none gets anything else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from serve_app.limits import Limits
from tests.http.asgi_client import HI, Exchange, ask, chat
from tests.http.memory_accountant import TEN_DOLLARS
from tests.http.memory_market import Market

SECRET = "zebra-crossing-at-midnight"

FIELDS: list[tuple[dict[str, Any], str, str]] = [
    (chat(messages=[]), "messages", "empty"),
    (chat(messages="hi"), "messages", "invalid_type"),
    (chat(messages=[1]), "messages[0]", "invalid_type"),
    (chat(messages=[{"role": "user"}]), "messages[0].content", "invalid_type"),
    (chat(messages=[{"content": "x"}]), "messages[0].role", "invalid_type"),
    (chat(messages=[{"role": "king", "content": "x"}]), "messages[0].role", "invalid_value"),
    (
        chat(messages=[{"role": "tool", "content": "x"}]),
        "messages[0].role",
        "unsupported_parameter",
    ),
    (
        chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (chat(messages=[{"role": "user", "content": []}]), "messages[0].content", "empty"),
    (chat(messages=[{"role": "user", "content": "refuse me"}]), "messages", "chat_template"),
    (chat(messages=HI["messages"] * 3000), "messages", "too_long"),
    (chat(model=5), "model", "invalid_type"),
    (chat(model=None), "model", "missing_field"),
    (chat(max_tokens=-1), "max_tokens", "out_of_range"),
    (chat(max_tokens=0), "max_tokens", "out_of_range"),
    (chat(max_tokens=10**30), "max_tokens", "invalid_type"),
    (chat(max_tokens=10**15), "max_tokens", "context_length_exceeded"),
    (chat(max_completion_tokens=1020), "max_completion_tokens", "context_length_exceeded"),
    (chat(max_tokens=2.5), "max_tokens", "invalid_type"),
    (chat(max_tokens=True), "max_tokens", "invalid_type"),
    (chat(temperature=2.1), "temperature", "out_of_range"),
    (chat(temperature="0"), "temperature", "invalid_type"),
    (chat(top_p=-0.1), "top_p", "out_of_range"),
    (chat(top_k=96), "top_k", "out_of_range"),
    (chat(repetition_penalty=0), "repetition_penalty", "out_of_range"),
    (chat(n=9), "n", "out_of_range"),
    (chat(n=0), "n", "out_of_range"),
    (chat(seed=2**63), "seed", "out_of_range"),
    (chat(stop=[1]), "stop[0]", "invalid_type"),
    (chat(stop=["a", ""]), "stop[1]", "empty"),
    (chat(stop=list("abcde")), "stop", "too_long"),
    (chat(logit_bias={"x": 1}), "logit_bias", "invalid_type"),
    (chat(logit_bias={"5": 101}), "logit_bias.5", "out_of_range"),
    (chat(logit_bias={"96": 1}), "logit_bias", "out_of_range"),
    (chat(logprobs=1), "logprobs", "invalid_type"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs", "out_of_range"),
    (chat(top_logprobs=2), "top_logprobs", "invalid_value"),
    (chat(stream="yes"), "stream", "invalid_type"),
    (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (
        chat(stream=True, stream_options={"include_usage": 1}),
        "stream_options.include_usage",
        "invalid_type",
    ),
    (chat(tools=[{"type": "function"}]), "tools", "unsupported_parameter"),
    (chat(tool_choice="auto"), "tool_choice", "unsupported_parameter"),
    (chat(response_format={"type": "json_object"}), "response_format", "unsupported_parameter"),
    (chat(modalities=["text", "audio"]), "modalities", "unsupported_parameter"),
    (chat(functions=[{}]), "functions", "unsupported_parameter"),
    (chat(max_tokens=5, max_completion_tokens=6), "max_completion_tokens", "invalid_value"),
    (chat(audio={"voice": "x"}), "audio", "unsupported_parameter"),
    (
        chat(messages=[{"role": "user", "content": "x" * 1100}]),
        "messages",
        "context_length_exceeded",
    ),
]


@pytest.mark.parametrize(("body", "field", "code"), FIELDS)
async def test_the_error_names_the_field(
    market: Market, body: dict[str, Any], field: str, code: str
) -> None:
    """400, the field in `param`, the reason in `code`, and no job anywhere."""
    exchange = await ask(body).go(market.app)

    assert exchange.status == 400, exchange.content
    assert (exchange.error["param"], exchange.error["code"]) == (field, code)
    assert exchange.error["type"] == "invalid_request"
    assert not market.fleet.requests
    assert market.ada.credit_nano == TEN_DOLLARS


COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": ["a", "b"]}, "prompt", "unsupported_parameter"),
    ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [96]}, "prompt", "out_of_range"),
    ({"prompt": [-1]}, "prompt[0]", "out_of_range"),
    ({"prompt": {}}, "prompt", "invalid_type"),
    ({"prompt": "a", "logprobs": 6}, "logprobs", "out_of_range"),
    ({"prompt": "a", "echo": True}, "echo", "unsupported_parameter"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
    ({"prompt": "a", "provider": []}, "provider", "invalid_type"),
    ({"prompt": "a", "models": "x"}, "models", "invalid_type"),
    ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
    ({}, "prompt", "missing_field"),
]


@pytest.mark.parametrize(("fields", "field", "code"), COMPLETIONS)
async def test_the_legacy_calls_errors_name_the_field(
    market: Market, fields: dict[str, Any], field: str, code: str
) -> None:
    """The same for /v1/completions."""
    body = {"model": "coster/demo", **fields}

    exchange = await ask(body, path="/v1/completions").go(market.app)

    assert exchange.status == 400, exchange.content
    assert (exchange.error["param"], exchange.error["code"]) == (field, code)


HARMLESS = [
    chat(tools=[], tool_choice="none", response_format={"type": "text"}, modalities=["text"]),
    chat(top_p=0, top_k=-1, stop=None, stop_unknown=1, user="x", metadata={"a": {"b": [1]}}),
    chat(messages=[{"role": "developer", "content": [{"type": "text", "text": "x"}]}]),
    chat(messages=[{"role": "assistant", "content": "x", "tool_calls": [], "name": "n"}]),
    chat(provider={}, models=[], max_tokens=5, max_completion_tokens=5),
    chat(stop=[], logit_bias={}, n=1, seed=-(2**63), stream=False, max_tokens=5),
]


@pytest.mark.parametrize("body", HARMLESS)
async def test_what_changes_nothing_is_taken(market: Market, body: dict[str, Any]) -> None:
    """Values that ask for what happens anyway, and fields nobody knows, do no harm."""
    assert (await ask(body).go(market.app)).status == 200


async def test_ignored_parameters_are_named_in_a_header(market: Market) -> None:
    """Advisory and unknown names appear; one that is not a plain word cannot be smuggled."""
    body = {**chat(store=True, foo=1), "evil\r\nx-a: b": 1, "é": 2}

    exchange = await ask(body).go(market.app)

    assert exchange.answer_headers["x-coster-ignored-params"] == "store,foo,?,?"


async def test_two_limits_that_differ_are_both_named(market: Market) -> None:
    """One of them would have been ignored in silence."""
    exchange = await ask(chat(max_tokens=5, max_completion_tokens=6)).go(market.app)

    assert "max_tokens 5 and max_completion_tokens 6" in exchange.error["message"]


KEYS = [None, "", "sk-other", "x" * 300, "ключ", "sk-test-nobody"]


@pytest.mark.parametrize("key", KEYS)
async def test_a_bad_key_is_401(market: Market, key: str | None) -> None:
    """Missing, malformed and unknown keys are refused before the body matters."""
    exchange = await ask(b"{", key=key).go(market.app)

    assert exchange.status == 401
    assert exchange.error["type"] == "auth"
    assert exchange.answer_headers["www-authenticate"] == "Bearer"


async def test_a_revoked_key_is_refused_at_once_for_inference(market: Market) -> None:
    """Though the gateway remembers whose key it is, the admission checks it again."""
    assert (await ask().go(market.app)).status == 200
    records = await market.accountant.list_keys(market.accountant.rows and _ada(market))
    await market.accountant.revoke_key(_ada(market), records[0].key_id)

    exchange = await ask().go(market.app)

    assert exchange.status == 401
    await market.app.close()
    assert market.nothing_is_left()


def _ada(market: Market) -> Any:
    return next(iter(market.accountant.accounts))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/completions"),
        ("POST", "/v1/models"),
        ("POST", "/v1/chat/completions/"),
        ("GET", "/v1"),
        ("GET", "/docs"),
        ("GET", "/../etc/passwd"),
        ("PATCH", "/v1/keys"),
        ("GET", "/\ud800".encode("utf-8", "replace").decode()),
    ],
)
async def test_wrong_methods_and_routes_are_404(market: Market, method: str, path: str) -> None:
    """Never 405, always the envelope."""
    exchange = await ask(b"", method=method, path=path).go(market.app)

    assert exchange.status == 404
    assert exchange.error["type"] == "not_found"
    assert exchange.answer_headers["x-coster-request-id"].startswith("req_")


async def test_a_compressed_body_is_told_to_be_plain(market: Market) -> None:
    """Rather than answering that gzip is not JSON."""
    exchange = await ask(headers={"content-encoding": "gzip"}).go(market.app)

    assert exchange.error["code"] == "unsupported_encoding"


async def test_a_model_nobody_serves_is_503(market: Market) -> None:
    """It exists, so it is not 404; it may be there later, so there is Retry-After."""
    exchange = await ask(chat(model="deepseek-v3")).go(market.app)

    assert (exchange.status, exchange.error["code"]) == (503, "no_provider")
    assert int(exchange.answer_headers["retry-after"]) > 0


async def test_a_full_gateway_says_so(tmp_path: Path) -> None:
    """Beyond its bound of requests it answers 503 at once."""
    market = Market(tmp_path, Limits(requests_in_flight=0))

    exchange = await ask().go(market.app)

    assert (exchange.status, exchange.error["code"]) == (503, "busy")


async def test_no_error_and_no_log_quotes_the_prompt(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    """A planted sentence comes back in nothing but the answer itself."""
    planted = {"role": "user", "content": SECRET * 100}
    bodies: list[bytes] = [
        json.dumps(chat(messages=[planted])).encode(),
        json.dumps(chat(messages=[planted], temperature=SECRET)).encode(),
        json.dumps(chat(messages=[{"role": SECRET, "content": "x"}])).encode(),
        json.dumps(chat(stop=[SECRET, SECRET * 50])).encode(),
        json.dumps(chat(messages=[planted])).encode()[:-2],
        json.dumps({**HI, SECRET + " \n": 1, "messages": 1}).encode(),
        f'{{"{SECRET}": 1, "{SECRET}": 2}}'.encode(),
    ]
    for body in bodies:
        exchange = await ask(body).go(market.app)
        assert exchange.status >= 400
        assert SECRET.encode() not in exchange.content
    assert SECRET not in caplog.text


ATOMS: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    -(10**19),
    "",
    "\x00",
    "\ud800",
    "\u202e",
    "A" * 3000,
    [],
    {},
    [[]],
    {"a": {}},
    "NaN",
    "refuse me",
]


def _mutated(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.15:
        return chance.choice(ATOMS)
    if isinstance(value, dict):
        kept = {k: _mutated(v, chance) for k, v in value.items() if chance.random() > 0.05}
        if chance.random() < 0.1:
            kept[chance.choice(["foo", "", "\x00", "stream_options", "tools"])] = chance.choice(
                ATOMS
            )
        return kept
    if isinstance(value, list):
        return [_mutated(entry, chance) for entry in value] * chance.choice([1, 1, 1, 0, 2])
    return value


RICH = chat(
    max_tokens=5,
    temperature=0.5,
    top_p=0.9,
    top_k=3,
    stop=["x"],
    seed=1,
    n=2,
    logit_bias={"1": 2},
    logprobs=True,
    top_logprobs=1,
    stream=True,
    stream_options={"include_usage": True},
    metadata={"a": "b"},
)
LEGACY = {"model": "coster/demo", "prompt": "abc", "max_tokens": 3, "logprobs": 1, "stream": False}
PATHS = {
    "/v1/chat/completions": RICH,
    "/v1/completions": LEGACY,
    "/v1/accounts": {"name": "x"},
    "/v1/keys": {"name": "x", "scopes": ["inference"], "expires_in_s": 60},
}


async def test_no_mutated_body_makes_a_server_error(market: Market) -> None:
    """Thousands of bodies, broken in structure, type and byte: never a 5xx but capacity."""
    chance = random.Random(20260427)
    statuses: dict[int, int] = {}
    for at in range(3000):
        path = chance.choice(list(PATHS))
        body = json.dumps(_mutated(PATHS[path], chance)).encode("utf-8", "surrogatepass")
        if chance.random() < 0.1:
            cut = chance.randrange(len(body) + 1)
            body = body[:cut] + bytes([chance.randrange(256)]) + body[cut:]
        key = Market.MANAGEMENT if path == "/v1/keys" else Market.KEY
        exchange: Exchange = await ask(body, path=path, key=key).go(market.app)
        assert exchange.status < 500, (at, body[:300], exchange.content)
        statuses[exchange.status] = statuses.get(exchange.status, 0) + 1
        if exchange.status >= 400:
            assert exchange.error["message"]
    await market.app.close()
    assert market.nothing_is_left()
    assert statuses[200] > 100
    assert statuses[400] > 500
