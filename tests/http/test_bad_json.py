"""Bodies that are not the JSON they should be: refused with the place, never with the words."""

from __future__ import annotations

import pytest

from tests.http.asgi_client import ask
from tests.http.memory_market import Market

RAW: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b'{"model": "coster/demo", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "coster/demo", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    b'{"model": "coster/demo", "temperature": NaN}',
    b'{"model": "coster/demo", "temperature": Infinity}',
    b'{"model": "coster/demo", "temperature": 1e999}',
    b'{"model": "coster/demo", "user": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b'{"model": "coster/demo", "user": ' + b"[" * 300 + b"]" * 300 + b"}",
    b"\xff\xfe",
    b"\x00" * 10,
    b'{"model": "coster/demo"} {}',
    b"{'model': 1}",
]


@pytest.mark.parametrize("body", RAW, ids=range(len(RAW)))
async def test_a_body_that_is_not_json_is_told_so(market: Market, body: bytes) -> None:
    """The position is named where there is one, the contents never."""
    exchange = await ask(body).go(market.app)

    assert exchange.status == 400
    assert exchange.error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [(b'{\n "a": }', 2, 7), (b'{"a":\n\n 1} {}', 3, 5), (b"\xff\xfe", 1, 1)],
)
async def test_broken_json_names_its_line_and_column(
    market: Market, body: bytes, line: int, column: int
) -> None:
    """The place of the first mistake, counted from one."""
    exchange = await ask(body).go(market.app)

    assert f"line {line}, column {column}" in exchange.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "coster/demo", "model": "x", "messages": []}',
        b'{"model": "coster/demo", "messages": [{"role": "user", "role": "x", "content": "a"}]}',
    ],
)
async def test_a_key_given_twice_is_refused(market: Market, body: bytes) -> None:
    """Which of the two was meant cannot be known."""
    exchange = await ask(body).go(market.app)

    assert (exchange.status, exchange.error["code"]) == (400, "duplicate_key")
    assert exchange.error["param"] in ("model", "role")


async def test_escaped_quotes_are_not_duplicates(market: Market) -> None:
    """A body may spell its strings in any legal way."""
    body = rb'{"model":"coster/demo","messages":[{"role":"user","content":"\u0022\"\/\u00e9"}]}'

    assert (await ask(body).go(market.app)).status == 200
