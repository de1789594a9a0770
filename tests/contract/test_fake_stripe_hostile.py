"""Nothing that anybody sends makes the fake fail: every answer is Stripe-shaped and no 5xx."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import MutableMapping
from functools import cache
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from actors.fake_stripe.acts import ACTS
from actors.fake_stripe.app import FakeStripe
from actors.fake_stripe.routes import ANSWERS
from tests.support.fake_stripe import API_KEY, SETTINGS, running_stripe

LONG = os.environ.get("COSTER_LONG") == "1"
ROUTES = [
    *ANSWERS,
    *("GET /pay/{id}", "POST /pay/{id}", "GET /onboard/{id}", "POST /onboard/{id}"),
    *("POST /_fake/act", "POST /_fake/knobs", "GET /_fake/deliveries", "PUT /v1/balance"),
]
NAMES = [
    *("amount", "currency", "destination", "metadata", "metadata[a]", "payment_intent", "mode"),
    *("success_url", "cancel_url", "expand[]", "expand[0]", "limit", "starting_after", "created"),
    *("created[gte]", "line_items[0][quantity]", "line_items[0][price_data][unit_amount]"),
    *("line_items[0][price_data][currency]", "line_items[0][price_data][product_data][name]"),
    *("include[0]", "types[0]", "page", "act", "a[b", "[", "a[][b]", "payment_intent_data[x]"),
]
VALUES = [
    *("", "0", "1", "2500", "-1", "10.5", "1e9", "9" * 30, "9" * 5000, "NaN", "usd", "payment"),
    *("https://a.example/", "javascript:1", "//", "http://[", "\x00", "\ud800", "é" * 100),
    *("data.source", "payment_intent.latest_charge", "a.b.c.d.e", "pay", "complete", "2027-01-01"),
]
ATOMS = some.one_of(
    some.sampled_from(VALUES),
    some.sampled_from([None, True, 0, -1, 2**63, 10**400, 1.5, float("nan"), float("inf")]),
    some.text(max_size=20),
)
SHAPES = some.recursive(
    ATOMS,
    lambda inner: some.one_of(
        some.lists(inner, max_size=3),
        some.dictionaries(some.sampled_from([*NAMES, "account", "id", "seconds"]), inner),
    ),
    max_leaves=12,
)


async def populated() -> tuple[FakeStripe, list[str]]:
    """A fake with one object of every kind, and all their ids."""
    async with running_stripe() as desk:
        await desk.rich()
        intent, account = await desk.paid(), await desk.payee()
        await desk.processor.transfer("po_1", account, 100)
        await desk.processor.refund("rf_1", intent, 100)
        await desk.fake.act("open_dispute", id=intent)
        await desk.processor.onboarding_url(account, return_url="http://a", refresh_url="http://a")
        await desk.processor.open_checkout("t", 100, success_url="http://a", cancel_url="http://a")
        return desk.fake, list(desk.fake.world.objects)


@cache
def town() -> tuple[FakeStripe, list[str]]:
    """The one fake that every example bothers, and the ids that exist in it."""
    return asyncio.run(populated())


WHICH = some.one_of(some.integers(0, 1000), some.sampled_from(["", "x" * 300, "é"]))


def id_of(which: int | str) -> str:
    """Some existing id, or none."""
    ids = town()[1]
    return which if isinstance(which, str) else ids[which % len(ids)]


async def ask(fake: FakeStripe, method: str, target: str, body: bytes, key: str) -> int:
    """The status of an answer, which must be JSON, a page or a redirect."""
    sent: list[MutableMapping[str, Any]] = []
    inbox = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return inbox.pop() if inbox else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    path, _, query = target.partition("?")
    headers = [(b"authorization", f"Bearer {API_KEY}".encode())]
    if key:
        headers.append((b"idempotency-key", key.encode("latin-1", "replace")))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode("latin-1", "replace"),
        "headers": headers,
    }
    await fake(scope, receive, send)
    start, content = sent
    if dict(start["headers"])[b"content-type"] == b"application/json":
        answer = json.loads(content["body"])
        assert ("error" in answer) == (start["status"] >= 400)
    return int(start["status"])


def form_of(pairs: list[tuple[str, object]]) -> str:
    return "&".join(
        f"{name}={quote_plus(str(value), errors='surrogatepass')}" for name, value in pairs
    )


@settings(max_examples=20_000 if LONG else 600, deadline=None)
@given(
    route=some.sampled_from(ROUTES),
    which=WHICH,
    pairs=some.lists(some.tuples(some.sampled_from(NAMES), ATOMS), max_size=6),
    shape=SHAPES,
    raw=some.one_of(some.none(), some.binary(max_size=40)),
    key=some.sampled_from(["", "", "k", "é", "k" * 300]),
)
def test_no_request_makes_it_fail(
    route: str,
    which: int | str,
    pairs: list[tuple[str, object]],
    shape: object,
    raw: bytes | None,
    key: str,
) -> None:
    """Routes, ids, forms, JSON and bytes of any kind get an answer below 500."""
    method, path = route.replace("{id}", id_of(which)).split(" ", 1)
    body = form_of(pairs).encode("utf-8", "surrogatepass")
    if "/v2/" in path or "/_fake/" in path:
        body = json.dumps(shape).encode()
    target = path if method == "POST" else f"{path}?{form_of(pairs)}"
    status = asyncio.run(ask(town()[0], method, target, body if raw is None else raw, key))
    assert status < 500


@settings(max_examples=5_000 if LONG else 200, deadline=None)
@given(act=some.sampled_from(sorted(ACTS)), which=WHICH, extra=ATOMS)
def test_no_act_makes_it_fail(act: str, which: int | str, extra: object) -> None:
    """Every act on every kind of object is done or refused."""
    body = {"act": act, "id": id_of(which), "amount": extra, "seconds": extra}
    order = json.dumps(body).encode()
    assert asyncio.run(ask(town()[0], "POST", "/_fake/act", order, "")) in (200, 400)


def post(path: str, body: bytes, length: object = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + body


CORPUS = {
    "deep json": post("/v2/core/accounts", b"[" * 200_000),
    "too long": post("/v1/transfers", b"a" * (2**20 + 1)),
    "endless": b"POST /v1/transfers HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 17,
    "many fields": post("/v1/transfers", b"a=1&" * 10_000),
    "bad utf-8": post("/v1/transfers", b"a=\xff\xfe"),
    "bad length": post("/v1/transfers", b"", "x"),
    "bad path": b"GET /v1/%ff%fe HTTP/1.1\r\n\r\n",
    "no http": b"\x16\x03\x01\x00\xa5",
    "bad header": b"GET /v1/balance HTTP/1.1\r\nIdempotency-Key: \xff\r\n\r\n",
    "websocket": b"GET /v1/balance HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("sent", CORPUS.values(), ids=CORPUS.keys())
async def test_hostile_bytes_do_not_stop_it(sent: bytes) -> None:
    """Raw bytes on the socket get a 4xx or a closed door, and the next caller an answer."""
    async with running_stripe(SETTINGS) as desk:
        key = f"\r\nHost: a\r\nAuthorization: Bearer {API_KEY}\r\nConnection: close\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(desk.url).port)
        writer.write(sent.replace(b"\r\n", key, 1))
        answer = await reader.readline()
        assert answer == b"" or 400 <= int(answer.split()[1]) < 500 or b" 200 " in answer
        writer.close()
        assert (await desk.raw("GET", "/v1/balance"))[0] == 200
