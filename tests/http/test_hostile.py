"""Hostile input on every route of the document: an error of the caller's, never one of ours."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.limits import Limits
from tests.http.asgi_client import Exchange
from tests.http.ledger_market import LedgerMarket, call, open_market
from tests.http.memory_payments import Payments

MANY = 1_000_000
GENEROUS = replace(
    Limits(),
    strangers_per_minute=MANY,
    strangers_burst=MANY,
    accounts_per_minute=MANY,
    accounts_burst=MANY,
    forgeries_per_minute=MANY,
    forgeries_burst=MANY,
    quotes_per_minute=MANY,
    quotes_burst=MANY,
    histories_per_minute=MANY,
    histories_burst=MANY,
    exports_at_once=MANY,
)
BODIES = {
    "nothing": b"",
    "not a number": b'{"amount_cents": NaN, "name": Infinity}',
    "a lone surrogate": rb'{"name": "\ud800", "country": "\udfff\ud800", "currency": "\ud83d"}',
    "raw surrogates": b'{"name": "\xed\xa0\x80"}',
    "bad utf-8": b'{"name": "\xff\xfe\xc3\x28"}',
    "thirty digits": b'{"amount_cents": ' + b"9" * 30 + b', "expires_in_s": -' + b"9" * 30 + b"}",
    "five thousand digits": b'{"amount_cents": ' + b"9" * 5_000 + b"}",
    "a huge exponent": b'{"amount_cents": 1e99999, "grace_s": -1e99999}',
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "closed and deep": b'{"caps":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "a null byte": b'{"name": "\\u0000", "currency": "usd\\u0000"}',
    "a raw null byte": b'{"name": "\x00"}',
    "twice the same": b'{"amount_cents": 1, "amount_cents": 2, "currency": "usd"}',
    "another type": b'"usd"',
    "prototype": b'{"__proto__": {"scopes": ["admin"]}, "constructor": 1}',
    "a utf-16 mark": b"\xff\xfe{\x00}\x00",
    "a utf-8 mark": b"\xef\xbb\xbf{}",
    "bidi and zero width": b'{"name": "\xe2\x80\xae\xe2\x80\x8b", "scopes": ["inferenc\xd0\xb5"]}',
    "html": b'{"name": "<script>alert(1)</script>", "currency": "\' OR 1=1 --"}',
    "a form": b"amount_cents=100&currency=usd",
    "half of it": b'{"amount_cents": 100, "curr',
}
HEADERS = {
    "authorization": ["Bearer \xff\xfe", "Bearer " + "x" * 9_000, "Basic YTpi", "Bearer", "\x00"],
    "idempotency-key": ["\xff", "x" * 9_000, "\t", "ключ", ""],
    "stripe-signature": ["t=1,v1=\xff", "v1=ключ", ",,,,", "t=" + "9" * 400 + ",v1=0", "\x00"],
    "content-type": ["application/xml", "\xff", "multipart/form-data; boundary="],
    "content-length": ["-1", "9" * 40, "x"],
    "content-encoding": ["gzip", "\xff"],
    "x-request-id": ["\xff" * 300, "a\r\nb"],
    "x-coster-heartbeat": ["\xff"],
    "x-coster-client": ["\xff", "f" * 64, "f" * 64 + " \xff", " "],
}
IDS = [
    "no_such",
    "../../etc/passwd",
    "%00",
    "\ud800".encode("utf-8", "replace").decode(),
    "a" * 5000,
]


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, and limits that do not hide what is looked for."""
    async with open_market(tmp_path, limits=GENEROUS) as opened:
        yield opened


async def routes(market: LedgerMarket) -> list[tuple[str, str]]:
    document = (await call(market, "GET", "/openapi.json", key=None)).json
    return [(m.upper(), path) for path, item in document["paths"].items() for m in item]


def keys_for(market: LedgerMarket, path: str) -> Iterator[str | None]:
    yield market.inference if "completions" in path else market.management
    yield None


def check(exchange: Exchange, what: str) -> None:
    assert exchange.status < 500 or exchange.error["code"] in ("no_provider",), what
    if exchange.status >= 400:
        assert exchange.error["message"], what


async def test_no_body_makes_a_server_error_on_any_route(market: LedgerMarket) -> None:
    """Every hostile body on every route, with a key that may and without one."""
    for method, path in await routes(market):
        filled = re.sub(r"\{\w+\}", "no_such", path)
        for name, body in BODIES.items():
            for key in keys_for(market, path):
                exchange = await call(market, method, filled, body, key)
                check(exchange, f"{method} {path} with {name}: {exchange.content!r}")


async def test_a_hostile_body_is_the_callers_fault(market: LedgerMarket) -> None:
    """Where a body is needed, everything but `nothing` is 400 and makes nothing."""
    for path in (
        "/v1/payments/topups",
        "/v1/payouts/onboarding",
        "/v1/chat/completions",
        "/v1/payments/webhook",
    ):
        for name, body in BODIES.items():
            key = next(keys_for(market, path))
            exchange = await call(market, "POST", path, body, key)
            assert exchange.status == 400, (path, name, exchange.content)
    assert not market.payments.rows


async def test_no_header_makes_a_server_error_on_any_route(market: LedgerMarket) -> None:
    """Bytes that are no text, endless values, and the framing of another message."""
    for method, path in await routes(market):
        filled = re.sub(r"\{\w+\}", "no_such", path)
        for name, values in HEADERS.items():
            for value in values:
                key = None if name == "authorization" else next(keys_for(market, path))
                made = Exchange(b"{}", path=filled, method=method, key=key)
                made.raw_headers = [(name.encode(), value.encode("utf-8", "replace"))]
                latin = value.encode("latin-1", "replace")
                check(await made.go(market.app), f"{method} {path} {name}: {value[:20]!r}")
                made = Exchange(b"{}", path=filled, method=method, key=key)
                made.raw_headers = [(name.encode(), latin), (name.encode(), latin)]
                check(await made.go(market.app), f"{method} {path} {name} twice")


async def test_no_path_or_query_makes_a_server_error(market: LedgerMarket) -> None:
    """Ids that are none, and parameters that are no numbers, text or UTF-8."""
    queries = [
        b"limit=NaN", b"limit=" + b"9" * 5000, b"limit=1&limit=2", b"before=%ff", b"model=%ff%00",
        b"model=" + b"x" * 9000, b"%", b"&&==", b"\xff", b"before=99999999999999999999",
    ]  # fmt: skip
    for method, path in await routes(market):
        key = next(keys_for(market, path))
        for wanted in IDS if "{" in path else [""]:
            filled = re.sub(r"\{\w+\}", wanted, path)
            for query in queries if method == "GET" else [b""]:
                made = Exchange(b"{}", path=filled, method=method, key=key, query=query)
                check(await made.go(market.app), f"{method} {path} {wanted[:20]} {query[:20]!r}")


async def test_a_signed_notice_of_any_content_is_no_server_error(market: LedgerMarket) -> None:
    """What a body means is for payments to say; the door hands every byte on."""
    for name, body in BODIES.items():
        headers: dict[str, Any] = {"stripe-signature": Payments.SIGNATURE}
        exchange = await call(market, "POST", "/v1/payments/webhook", body, None, headers=headers)
        assert exchange.status == 200, name
    assert market.payments.notices == list(BODIES.values())
