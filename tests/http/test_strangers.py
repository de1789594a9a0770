"""Callers without a valid key: limited by an address that they cannot choose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.client_address import caller_of, client_address, place_of
from serve_app.limits import Limits
from tests.http.asgi_client import ask
from tests.http.ledger_market import FRONT, LedgerMarket, call, open_market

BOUNDS = replace(Limits(), strangers_per_minute=1, strangers_burst=3)
UNKNOWN_KEY = "sk-coster-" + "x" * 49


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    """Real books, and four requests at most without a valid key."""
    async with open_market(tmp_path, limits=BOUNDS) as opened:
        yield opened


async def statuses(market: LedgerMarket, count: int, **options: object) -> list[int]:
    options.setdefault("key", UNKNOWN_KEY)
    return [
        (await call(market, "GET", "/v1/key", **options)).status  # type: ignore[arg-type]
        for _ in range(count)
    ]


@pytest.mark.parametrize("key", [UNKNOWN_KEY, None, "", "ключ"])
async def test_bad_keys_from_one_address_end_in_429(market: LedgerMarket, key: str | None) -> None:
    """401 as often as the burst allows, then 429 with Retry-After."""
    if key == "":
        key = "x"
    assert await statuses(market, 6, key=key) == [401] * 4 + [429] * 2
    exchange = await ask(key=UNKNOWN_KEY).go(market.app)
    assert (exchange.status, exchange.error["code"]) == (429, "too_many_unauthenticated")
    assert int(exchange.answer_headers["retry-after"]) >= 1


async def test_public_routes_without_a_key_share_the_limit(market: LedgerMarket) -> None:
    """Prices are public, not free of limits; health is."""
    seen = [(await call(market, "GET", "/v1/pricing", key=None)).status for _ in range(6)]
    health = [(await call(market, "GET", "/health", key=None)).status for _ in range(9)]

    assert seen == [200] * 4 + [429] * 2
    assert health == [200] * 9


async def test_a_good_key_behind_the_same_address_is_never_hit(market: LedgerMarket) -> None:
    """Neither for its requests nor at first sight after the flood."""
    assert (await statuses(market, 9))[-1] == 429

    assert await statuses(market, 9, key=market.management) == [200] * 9
    _, fresh = await market.key("inference")
    assert (await ask(key=fresh).go(market.app)).status == 200
    assert await statuses(market, 1, key=fresh) == [200]


async def test_each_address_has_a_limit_of_its_own(market: LedgerMarket) -> None:
    """Loopback is no exception and no loophole."""
    assert (await statuses(market, 5))[-1] == 429

    assert await statuses(market, 1, peer="198.51.100.1") == [401]


@pytest.mark.parametrize(
    "header",
    [
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-coster-client",
        "true-client-ip",
    ],
)
async def test_no_header_lets_anyone_escape(market: LedgerMarket, header: str) -> None:
    """Whatever address a caller claims, it is counted where it is."""
    seen = []
    for at in range(6):
        spoofed = {header: f"{'0' * 64} 198.51.100.{at}" if "coster" in header else f"1.1.1.{at}"}
        seen += await statuses(market, 1, headers=spoofed)

    assert seen[-1] == 429


async def test_our_own_front_vouches_for_the_address(market: LedgerMarket) -> None:
    """With its token the header is believed: two clients behind it are two."""
    one = {"x-coster-client": f"{FRONT} 198.51.100.1"}
    two = {"x-coster-client": f"{FRONT} 198.51.100.2"}

    assert (await statuses(market, 5, headers=one))[-1] == 429
    assert await statuses(market, 1, headers=two) == [401]


def test_without_a_front_the_header_means_nothing() -> None:
    """An empty token is not matched by an empty one."""
    scope = {"client": ("192.0.2.1", 5), "headers": [(b"x-coster-client", b" 198.51.100.1")]}

    assert client_address(scope, "") == "192.0.2.1"
    assert client_address({"client": None, "headers": []}, "") == "unknown"


@pytest.mark.parametrize(
    ("address", "caller", "place"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56", "2001:db8:1:200::/56"),
        ("2001:db8:1:200:ffff::9", "2001:db8:1:200::/56", "2001:db8:1:200::/56"),
        ("unknown", "unknown", "unknown"),
        ("not an address", "not an address", "not an address"),
    ],
)
def test_an_ipv6_subscriber_is_one_caller(address: str, caller: str, place: str) -> None:
    """Its 2**72 addresses share a limit; a place for sign-ups is a /24 or a /56."""
    assert caller_of(address) == caller
    assert place_of(address) == place
