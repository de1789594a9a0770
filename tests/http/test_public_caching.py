"""Public bodies in caches: kept, asked for by tag, the same everywhere, and true or absent."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from market.errors import Unavailable
from serve_app.limits import Limits
from storage.database import StorageError
from tests.http.ledger_market import LedgerMarket, call
from tests.http.public_market import ROUTES, dated_market, get, later, schema, served, snapshot
from tests.http.test_hostile import GENEROUS

ORIGIN = b"access-control-allow-origin"


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    async with dated_market(tmp_path) as made:
        yield made


# ── caching ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "lasting"),
    [
        ("/v1/stats", "public, max-age=60"),
        ("/v1/leaderboard?metric=jobs&window=7d", "public, max-age=300"),
        ("/v1/network/totals?window=30d", "public, max-age=60"),
        ("/api/v1/analytics/network", "public, max-age=600, s-maxage=600"),
    ],
)
async def test_a_body_can_be_kept_and_asked_for_by_its_tag(
    market: LedgerMarket, path: str, lasting: str
) -> None:
    """Lifetime, age and tag on each; with the tag 304 without a body; any origin may read it."""
    await snapshot(market)
    later(market, 17)
    whole = await get(market, path)
    again = await get(market, path, if_none_match=whole.answer_headers["etag"])
    other = await get(market, path, if_none_match='"other"')

    headers = whole.answer_headers
    assert headers["cache-control"] == lasting
    assert headers["access-control-allow-origin"] == "*"
    assert 0 <= int(headers["age"]) < int(re.findall(r"max-age=(\d+)", lasting)[0])
    assert (again.status, again.content) == (304, b"")
    assert again.answer_headers["etag"] == headers["etag"]
    assert again.answer_headers["cache-control"] == lasting
    assert (other.status, other.content) == (200, whole.content)


async def test_bodies_do_not_change_within_their_lifetime(market: LedgerMarket) -> None:
    """Whatever is served meanwhile: the same bytes, growing in age only."""
    first = await get(market, "/v1/stats")
    ages = []
    for _ in range(5):
        await served(market)
        later(market, 9)
        exchange = await get(market, "/v1/stats")
        assert exchange.content == first.content
        ages.append(int(exchange.answer_headers["age"]))
    later(market, 60)

    assert ages == sorted(set(ages))
    changed = await get(market, "/v1/stats")
    assert changed.content != first.content
    assert changed.answer_headers["etag"] != first.answer_headers["etag"]


async def test_two_gateways_tell_the_same(market: LedgerMarket) -> None:
    """Asked at different moments of an epoch they answer byte for byte alike."""
    await served(market, 3)
    later(market, 301)
    here = {path: await get(market, path) for path in ROUTES if "analytics" not in path}
    await served(market, 2)
    later(market, 20)
    there = market.gateway()
    for path, exchange in here.items():
        other = await get(market, path, there)
        assert other.content == exchange.content
        assert other.answer_headers["etag"] == exchange.answer_headers["etag"]


class Failing:
    """A ledger whose past cannot be read; everything else is the real one."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked = 0
        self.error: Exception | None = None

    async def worked(self, question: Any) -> Any:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await self._real.worked(question)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("path", [path for path in ROUTES if "analytics" not in path])
@pytest.mark.parametrize("error", [Unavailable("Down."), StorageError("disk"), ValueError("bug")])
async def test_a_failing_store_serves_what_was_with_its_age_and_then_503(
    market: LedgerMarket, path: str, error: Exception
) -> None:
    """The last good body, older than its lifetime; later the envelope, never a zero."""
    await served(market, 2)
    later(market, 400)
    books = Failing(market.ledger)
    app = market.gateway(accountant=books)
    good = await get(market, path, app)
    books.error = error
    later(market, 400)
    stale = await get(market, path, app)
    later(market, 700)
    gone = await get(market, path, app)

    lifetime_s = int(re.findall(r"max-age=(\d+)", good.answer_headers["cache-control"])[0])
    assert (stale.status, stale.content) == (200, good.content)
    assert int(stale.answer_headers["age"]) > lifetime_s
    assert (gone.status, gone.error["code"]) == (503, "statistics_unavailable")
    assert gone.answer_headers["retry-after"]
    assert gone.answer_headers["access-control-allow-origin"] == "*"


async def test_a_router_that_does_not_know_its_macs_yet_is_no_empty_network(
    market: LedgerMarket,
) -> None:
    """Just after its restart: 503, and not zero providers, nor figures with private Macs in."""
    market.fleet.fleet_error = Unavailable("It has just started.", None, "starting")
    for path in ROUTES:
        if "analytics" not in path:
            assert (await get(market, path)).status == 503


async def test_the_snapshot_is_made_in_the_background(market: LedgerMarket) -> None:
    """No request makes it: null before the first, which nobody may keep; a store that fails at
    once is 503.
    """
    books = Failing(market.ledger)
    app = market.gateway(accountant=books)
    before = await get(market, "/api/v1/analytics/network", app)
    assert before.json["generated_at"] is None
    assert set(before.json["totals"].values()) == {None}
    jsonschema.validate(before.json, schema("network_analytics"))
    assert before.answer_headers["cache-control"] == "no-store"
    await app.figures.snapshot()
    made = await get(market, "/api/v1/analytics/network", app)
    assert made.json["generated_at"] == "2028-02-29T12:00:00.000Z"
    asked = books.asked
    for _ in range(5):
        await get(market, "/api/v1/analytics/network", app)
    assert books.asked == asked
    await app.close()

    books.error = Unavailable("Down.")
    other = market.gateway(accountant=books)
    other.start()
    with pytest.raises(Unavailable):
        await other.figures.snapshot()
    assert (await get(market, "/api/v1/analytics/network", other)).status == 503
    await other.close()


async def test_nothing_else_may_be_read_from_any_origin(market: LedgerMarket) -> None:
    """The header is on public statistics only."""
    for path in ("/v1/models", "/v1/pricing", "/health", "/v1/payments/balance", "/openapi.json"):
        exchange = await call(market, "GET", path)
        assert "access-control-allow-origin" not in exchange.answer_headers, path


@pytest.mark.parametrize("path", sorted(ROUTES))
async def test_whatever_a_public_path_answers_any_page_may_read_once(
    market: LedgerMarket, path: str
) -> None:
    """Figures, 304, 400, 404, 429 and 503: the one header, so that a page sees what was wrong."""
    await snapshot(market)
    told = await get(market, path)
    tag = told.answer_headers["etag"]
    market.fleet.fleet_error = Unavailable("It has just started.", None, "starting")
    down = market.gateway()
    answers = [
        (200, told),
        (304, await get(market, path, if_none_match=tag)),
        (404, await call(market, "POST", path)),
    ]
    if path in ("/v1/leaderboard", "/v1/network/totals"):
        answers.append((400, await get(market, f"{path}?window=1d")))
    if path != "/api/v1/analytics/network":
        answers.append((503, await get(market, path, down)))
    strict = market.gateway(replace(Limits(), strangers_per_minute=1, strangers_burst=1))
    for _ in range(2):
        await get(market, "/v1/models", strict)
    answers.append((429, await get(market, path, strict)))

    for status, exchange in answers:
        assert exchange.status == status
        said = [value for name, value in exchange.out[0]["headers"] if name == ORIGIN]
        assert said == [b"*"], status


@pytest.mark.parametrize("path", sorted(ROUTES))
async def test_a_browser_may_ask_first_and_a_client_may_ask_for_the_head(
    market: LedgerMarket, path: str
) -> None:
    """OPTIONS allows GET with any header; HEAD is GET's headers without its body."""
    await snapshot(market)
    asked = {"access-control-request-headers": "if-none-match", "origin": "https://example.org"}
    may = await call(market, "OPTIONS", path, key=None, headers=asked)
    assert (may.status, may.content) == (204, b"")
    assert "GET" in may.answer_headers["access-control-allow-methods"]
    assert "*" in may.answer_headers["access-control-allow-headers"]

    whole, head = await get(market, path), await call(market, "HEAD", path, key=None)
    ids = {"x-request-id", "x-coster-request-id"}
    assert (head.status, head.content) == (200, b"")
    assert {n: v for n, v in head.answer_headers.items() if n not in ids} == {
        n: v for n, v in whole.answer_headers.items() if n not in ids
    }
    assert int(head.answer_headers["content-length"]) == len(whole.content)
    for other in ("/v1/models", "/health"):
        assert (await call(market, "OPTIONS", other)).status == 404


# ── bad input ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/leaderboard?metric=karma", "metric"),
        ("/v1/leaderboard?metric=", "metric"),
        ("/v1/leaderboard?window=1d", "window"),
        ("/v1/network/totals?window=forever", "window"),
        ("/v1/network/totals?window=24h%00", "window"),
        ("/v1/leaderboard?limit=0", "limit"),
        ("/v1/leaderboard?limit=201", "limit"),
        ("/v1/leaderboard?limit=-1", "limit"),
        ("/v1/leaderboard?limit=abc", "limit"),
        ("/v1/leaderboard?limit=1e2", "limit"),
        ("/v1/leaderboard?limit=" + "9" * 5_000, "limit"),
    ],
)
async def test_bad_parameters_are_named(market: LedgerMarket, path: str, param: str) -> None:
    """400 in the envelope, and nothing was asked of the store for it."""
    books = Failing(market.ledger)
    exchange = await get(market, path, market.gateway(accountant=books))

    assert (exchange.status, exchange.error["param"]) == (400, param)
    assert len(exchange.content) < 1_000
    assert books.asked == 0


async def test_all_the_boards_there_are_cost_a_bounded_number_of_questions(
    market: LedgerMarket,
) -> None:
    """Any mix of metric, window and limit within an epoch: one making per window."""
    books = Failing(market.ledger)
    app = market.gateway(GENEROUS, accountant=books)
    for limit in range(1, 41):
        for metric in ("earnings", "tokens", "jobs"):
            for window in ("24h", "7d", "30d", "all"):
                path = f"/v1/leaderboard?metric={metric}&window={window}&limit={limit}"
                assert (await get(market, path, app)).status == 200

    assert books.asked == 2 * 4
