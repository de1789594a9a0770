"""The public statistics over real books: every documented field, and no secret."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest

from market.public.epochs import LAG_S
from market.types import AccountId, MachineId
from tests.http.asgi_client import ask, chat
from tests.http.ledger_market import LedgerMarket, call
from tests.http.public_market import (
    DAY_S,
    HOUR_S,
    ROOT,
    ROUTES,
    dated_market,
    get,
    later,
    schema,
    served,
    snapshot,
)
from tests.http.routed_fleet import RoutedFleet

KEYLESS = (
    "/v1/models",
    "/v1/models/coster/demo",
    "/v1/pricing",
    "/v1/pricing/history?model=coster/demo",
    "/v1/quote/calibration",
)
"""Answers that anybody gets and that are no statistics."""


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LedgerMarket]:
    async with dated_market(tmp_path) as made:
        yield made


def exactly_typed(value: Any, schema: dict[str, Any]) -> bool:
    """Integers are written without a point: JSON Schema would let 1.0 pass for one."""
    kind = schema.get("type")
    if isinstance(value, dict):
        return all(exactly_typed(value[key], schema["properties"][key]) for key in value)
    if isinstance(value, list):
        return all(exactly_typed(entry, schema["items"]) for entry in value)
    integer = kind == "integer" or (isinstance(kind, list) and "integer" in kind)
    return type(value) is not float or not integer


# ── every documented call, every field ───────────────────────────────────────────────


def documented_calls() -> list[str]:
    text = (ROOT / "docs/statistics.md").read_text()
    return re.findall(r"^curl .*$", text, re.MULTILINE)


@pytest.mark.parametrize("line", documented_calls())
async def test_every_documented_curl_gets_what_its_schema_says(
    market: LedgerMarket, line: str
) -> None:
    """Run as it stands: 200, the published shape, integers integers and times with a Z."""
    await served(market, 3)
    later(market, 2 * HOUR_S)
    address = urlsplit(next(word for word in shlex.split(line) if word.startswith("http")))
    path = f"{address.path}?{address.query}"
    if "analytics" in path:
        await snapshot(market)
    exchange = await get(market, path)

    published = schema(ROUTES[address.path])
    assert exchange.status == 200
    jsonschema.validate(exchange.json, published)
    assert exactly_typed(exchange.json, published)


def test_each_route_is_documented_with_a_curl() -> None:
    """Nothing is published that the page does not show."""
    shown = {urlsplit(shlex.split(line)[-1]).path for line in documented_calls()}

    assert shown == set(ROUTES)


async def test_an_empty_market_answers_in_the_same_shapes(market: LedgerMarket) -> None:
    """Before anything was served: true zeros, an empty board, every minute and day present."""
    await snapshot(market)
    for path, name in ROUTES.items():
        exchange = await get(market, path)
        jsonschema.validate(exchange.json, schema(name))
    stats = (await get(market, "/v1/stats")).json

    assert (stats["total_requests"], stats["avg_tokens_per_request"]) == (0, 0)
    assert (stats["active_providers"], len(stats["time_series"])) == (2, 30)


async def test_openapi_says_what_is_served(market: LedgerMarket) -> None:
    """The document's own shapes hold for the bodies, aliases included."""
    document = (await get(market, "/openapi.json")).json
    await served(market)
    later(market, 900)
    await snapshot(market)
    for path in ROUTES:
        operation = document["paths"][path]["get"]
        content = operation["responses"]["200"]["content"]["application/json"]
        shape = {**content["schema"], "components": document["components"]}
        jsonschema.validate((await get(market, path)).json, shape)


# ── every figure is the ledger's ─────────────────────────────────────────────────────


async def test_figures_are_what_the_books_say(market: LedgerMarket) -> None:
    """Requests, tokens, earnings: of each route the sum of the settled rows, to the token."""
    await served(market, 5)
    await served(market, 2, max_tokens=3)
    rows = (await call(market, "GET", "/v1/payments/usage")).json
    later(market, 900)
    stats = (await get(market, "/v1/stats")).json
    totals = (await get(market, "/v1/network/totals?window=24h")).json
    (entry,) = (await get(market, "/v1/leaderboard")).json["entries"]
    analytics = await snapshot(market)

    prompt = sum(row["prompt_tokens"] for row in rows)
    completion = sum(row["completion_tokens"] for row in rows)
    cost_nano = sum(int(row["cost_nano_usd"]) for row in rows)
    assert (stats["total_requests"], totals["jobs"], entry["jobs"]) == (7, 7, 7)
    assert stats["total_prompt_tokens"] == analytics["totals"]["prompt_tokens"] == prompt
    assert stats["total_completion_tokens"] == completion
    assert stats["total_tokens"] == totals["tokens"] == entry["tokens"] == prompt + completion
    assert totals["earnings_micro_usd"] == entry["earnings_micro_usd"] == cost_nano // 1_000
    assert analytics["totals"]["tokens"] == prompt + completion
    assert analytics["trend"]["24h"][-1]["requests"] == 7
    assert sum(mac["requests_served"] for mac in stats["providers"]) == 7
    assert analytics["top_models"][0]["share"] == 1


async def test_a_job_of_25_hours_ago_is_in_the_week_and_not_in_the_day(
    market: LedgerMarket,
) -> None:
    """Windows roll in UTC, over midnights and the leap day."""
    await served(market)
    later(market, 25 * HOUR_S)
    await served(market, 2)
    later(market, 120)

    async def jobs(window: str) -> int:
        return int((await get(market, f"/v1/network/totals?window={window}")).json["jobs"])

    assert [await jobs(w) for w in ("24h", "7d", "30d", "all")] == [2, 3, 3, 3]
    later(market, 7 * DAY_S)
    assert [await jobs(w) for w in ("24h", "7d", "30d", "all")] == [0, 0, 3, 3]
    later(market, 30 * DAY_S)
    assert [await jobs(w) for w in ("24h", "7d", "30d", "all")] == [0, 0, 0, 3]


async def test_what_happens_now_is_told_when_its_minute_is_over(market: LedgerMarket) -> None:
    """Figures are of whole minutes that are over: nobody watches a single request."""
    await served(market)
    assert (await get(market, "/v1/stats")).json["total_requests"] == 0
    later(market, 60 + LAG_S)
    told = (await get(market, "/v1/stats")).json

    assert told["total_requests"] == 1
    assert told["time_series"][-1]["requests"] == 1
    assert told["snapshot_at"] == "2028-02-29T12:01:00Z"


async def test_answers_by_two_macs_are_two_jobs_of_one_request(market: LedgerMarket) -> None:
    """Each Mac's own tokens are its own, in whatever way they are added up."""
    market.fleet.digest = "d"
    market.fleet.macs[0].fail_after = 5
    await served(market, stream=True)
    market.fleet.macs[0].fail_after = None
    later(market, 900)
    stats = (await get(market, "/v1/stats")).json
    totals = (await get(market, "/v1/network/totals")).json

    assert (stats["total_requests"], totals["jobs"]) == (1, 2)
    assert [mac["tokens_generated"] for mac in stats["providers"]] == [5, 19]


# ── private Macs and hidden people ───────────────────────────────────────────────────


async def test_a_private_mac_enters_no_public_figure(market: LedgerMarket) -> None:
    """Neither its hardware nor anything it ever did; the others' figures stay."""
    await served(market, 2)
    market.fleet.macs[0].slots = 0
    await served(market)
    market.fleet.private = {MachineId("mac_a")}
    later(market, 900)
    stats = (await get(market, "/v1/stats")).json
    totals = (await get(market, "/v1/network/totals")).json
    board = (await get(market, "/v1/leaderboard")).json
    analytics = await snapshot(market)

    assert [mac["id"] for mac in stats["providers"]] == ["prv_b"]
    assert (stats["active_providers"], stats["total_requests"]) == (1, 1)
    assert sum(minute["requests"] for minute in stats["time_series"]) == 1
    assert (totals["jobs"], board["entries"][0]["jobs"]) == (1, 1)
    assert analytics["totals"]["requests"] == 1
    assert sum(day["requests"] for day in analytics["trend"]["30d"]) == 1


async def test_what_a_private_mac_does_changes_no_answer_that_needs_no_key(
    market: LedgerMarket,
) -> None:
    """Models, prices and how good predictions are: byte for byte as before it served."""
    fleet = RoutedFleet(*market.fleet.macs, a={"private": True}, b={"state": "draining"})
    fleet.private = {MachineId("mac_a")}
    market.fleet, market.app = fleet, market.gateway(router=fleet, providers=fleet)
    before = {path: (await get(market, path)).content for path in KEYLESS}
    await served(market, 3)
    await asyncio.sleep(0)
    assert {outcome.machine for outcome in fleet.outcomes} == {"mac_a"}
    after = {path: (await get(market, path)).content for path in KEYLESS}

    assert after == before
    assert not [path for path, body in after.items() if b"prv_" in body]


async def test_no_public_body_holds_a_secret(market: LedgerMarket) -> None:
    """A search for every id, name, key and address that the market knows finds nothing."""
    ledger = market.ledger.accountant
    await ledger.ensure_account(AccountId("acct_zed"), "zed@example.org", "operator", 10**10)
    key_id, secret = await market.key("inference", account=AccountId("acct_zed"), name="laptop")
    market.fleet.payee = AccountId("acct_zed")
    await served(market, 2)
    await ask(chat(user="zed"), key=secret).go(market.app)
    later(market, 900)
    await snapshot(market)
    rows = [*ledger._books.ended.rows.values()]
    secrets = {
        *(row.request_id for row in rows), *(row.owner for row in rows),
        *(str(row.payee) for row in rows), *(str(row.machine) for row in rows),
        *(row.key_id for row in rows), key_id, secret, market.inference, market.management,
        "Ada", "zed@example.org", "laptop", "mac_a", "mac_b", "acct_", "key_", "sk-coster",
    }  # fmt: skip

    pages = "/llms.txt", "/openapi.json"
    bodies = {path: await get(market, path) for path in [*ROUTES, *KEYLESS, *pages]}
    for path, exchange in bodies.items():
        assert exchange.status == 200, path
        text = exchange.content.decode() + json.dumps(exchange.answer_headers)
        found = {one for one in secrets if one and one in text}
        documented = {"acct_", "key_", "sk-coster"} if path in pages else set()
        assert found <= documented, path
    board = bodies["/v1/leaderboard"].content.decode()
    assert "prv_" not in board, "a pseudonym never stands beside a Mac's public id"
    names = [entry["pseudonym"] for entry in json.loads(board)["entries"]]
    assert names
    assert not [name for name in names if name in bodies["/v1/stats"].content.decode()]


async def test_a_market_of_larger_groups_withholds_what_is_of_fewer(market: LedgerMarket) -> None:
    """One owner and one caller where groups are of two: null everywhere, and never a zero,
    in the shapes that are published.
    """
    await served(market, 2)
    later(market, 900)
    app = market.gateway(group_min=2)
    app.start()
    await app.figures.snapshot()
    stats = (await get(market, "/v1/stats", app)).json
    totals = (await get(market, "/v1/network/totals", app)).json
    analytics = (await get(market, "/api/v1/analytics/network", app)).json
    board = (await get(market, "/v1/leaderboard", app)).json
    await app.close()

    for name, told in {
        "stats": stats,
        "network_totals": totals,
        "network_analytics": analytics,
        "leaderboard": board,
    }.items():
        jsonschema.validate(told, schema(name))
        assert exactly_typed(told, schema(name))
    assert stats["total_requests"] is totals["jobs"] is totals["active_accounts"] is None
    assert set(analytics["totals"].values()) == {None}
    assert analytics["top_models"][0]["rank"] is None
    assert analytics["trend"]["30d"][-1]["requests"] is None
    assert analytics["trend"]["30d"][0]["requests"] == 0
    assert board["entries"] == []


# ── the index ────────────────────────────────────────────────────────────────────────


async def test_llms_txt_names_every_route_once(market: LedgerMarket) -> None:
    """Each operation of the document has its line, with what it needs; no line is more."""
    document = (await get(market, "/openapi.json")).json
    exchange = await get(market, "/llms.txt")
    text = exchange.content.decode()

    named = re.findall(r"^- \[([A-Z]+ \S+)\]\((\S+)\): \S.*$", text, re.MULTILINE)
    expected = [
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    ]
    assert sorted(name for name, _ in named) == sorted(expected)
    assert exchange.answer_headers["content-type"].startswith("text/plain")
    assert text.startswith("# coster\n\n> ")
    for name, link in named:
        if link.startswith("/openapi.json#"):
            method, path = name.split(" ", 1)
            pointer = link.split("#/paths/")[1]
            found, verb = pointer.rsplit("/", 1)
            assert document["paths"][found.replace("~1", "/").replace("~0", "~")][verb]
            assert (verb.upper(), path) == (method, found.replace("~1", "/"))
        else:
            assert (await call(market, "GET", link)).status in (200, 400, 503), link
