"""A market whose date is set by hand, and how its public statistics are asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from market.public.epochs import LAG_S
from tests.http.asgi_client import Exchange, ask, chat
from tests.http.ledger_market import Calendar, LedgerMarket, open_market
from tests.http.memory_fleet import Mac

ROOT = Path(__file__).resolve().parents[2]
NOON_S = datetime(2028, 2, 29, 12, tzinfo=UTC).timestamp()
HOUR_S, DAY_S = 3_600, 86_400
ROUTES = {
    "/v1/stats": "stats",
    "/v1/leaderboard": "leaderboard",
    "/v1/network/totals": "network_totals",
    "/api/v1/analytics/network": "network_analytics",
}


def schema(name: str) -> Any:
    return json.loads((ROOT / f"docs/schemas/{name}.json").read_text())


@asynccontextmanager
async def dated_market(folder: Path) -> AsyncIterator[LedgerMarket]:
    """Real books at noon of a leap day, when its epochs are begun to be told."""
    macs = Mac("a"), Mac("b")
    async with open_market(folder, *macs, calendar=Calendar(NOON_S + LAG_S)) as made:
        yield made


async def get(market: LedgerMarket, path: str, app: Any = None, **headers: str) -> Exchange:
    plain, _, query = path.partition("?")
    made = Exchange(b"", path=plain, method="GET", key=None, query=query.encode())
    made.headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await made.go(app or market.app)


def later(market: LedgerMarket, seconds: float) -> None:
    assert market.calendar is not None
    market.calendar.at_s += seconds


async def served(market: LedgerMarket, times: int = 1, **fields: Any) -> None:
    for _ in range(times):
        exchange = await ask(chat(**fields), key=market.inference).go(market.app)
        assert exchange.status == 200, exchange.content


async def snapshot(market: LedgerMarket) -> Any:
    """The analytics once their background task has made them."""
    figures = market.app.figures
    await get(market, "/api/v1/analytics/network")
    await figures.snapshot()
    return (await get(market, "/api/v1/analytics/network")).json
