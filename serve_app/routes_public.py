"""The public statistics: no key, any origin, one body per epoch, and a tag to ask by.

Any web page may read whatever these paths answer, refusals included: `open_to_all` is asked for
the headers that say so by the app, since not every answer is made here. A page that asks by tag
makes its browser ask first, with OPTIONS.

`Age` says for how long a body has been the newest there is, so that caches between us and a
reader count on from there. A body older than its `max-age` is the last good one: newer figures
could not be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import FastAPI, Query, Request, Response

from market.public.epochs import Epoch
from serve_app.caching import Body, matches
from serve_app.desk import Desk
from serve_app.public_figures import (
    ANALYTICS_S,
    LEADERBOARD_S,
    STATS_S,
    TOTALS_S,
    PublicFigures,
)
from serve_app.schemas_public import (
    Leaderboard,
    Metric,
    NetworkAnalytics,
    NetworkTotals,
    Stats,
    Window,
)

STATS: Final = "/v1/stats"
LEADERBOARD: Final = "/v1/leaderboard"
TOTALS: Final = "/v1/network/totals"
ANALYTICS: Final = "/api/v1/analytics/network"
PATHS: Final = frozenset({STATS, LEADERBOARD, TOTALS, ANALYTICS})

ANYBODY: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"age, etag, retry-after, x-request-id"),
)
PREFLIGHT: Final = {
    "access-control-allow-methods": "GET, HEAD, OPTIONS",
    "access-control-allow-headers": "*, authorization",
    "access-control-max-age": "86400",
}
"""What a browser may do here, and for how many seconds it need not ask again."""

ENTRIES_DEFAULT: Final = 50
ENTRIES_MOST: Final = 200
MetricQuery = Annotated[Metric, Query(description="What is ranked by")]
WindowQuery = Annotated[Window, Query(description="The last hours or days, up to now")]
LimitQuery = Annotated[int, Query(ge=1, le=ENTRIES_MOST)]


def open_to_all(path: str) -> Sequence[tuple[bytes, bytes]]:
    """The headers on every answer of this path: those of public statistics any origin may read."""
    return ANYBODY if path in PATHS else ()


def add_public(app: FastAPI, desk: Desk, figures: PublicFigures) -> None:
    """The four routes, each for GET, HEAD and OPTIONS."""
    now_s = desk.ports.clock.now_s

    @app.head(STATS, include_in_schema=False)
    @app.get(STATS, response_model=Stats, tags=["statistics"])
    async def stats(request: Request) -> Response:
        """The network so far and now: totals, Macs, models, the last 30 minutes."""
        epoch, body = await figures.stats()
        return _told(request, epoch, body, now_s(), _for_all(STATS_S))

    @app.head(LEADERBOARD, include_in_schema=False)
    @app.get(LEADERBOARD, response_model=Leaderboard, tags=["statistics"])
    async def leaderboard(
        request: Request,
        metric: MetricQuery = "earnings",
        window: WindowQuery = "all",
        limit: LimitQuery = ENTRIES_DEFAULT,
    ) -> Response:
        """Who earned, generated or served most, by pseudonym."""
        epoch, body = await figures.leaderboard(metric, window, limit)
        return _told(request, epoch, body, now_s(), _for_all(LEADERBOARD_S))

    @app.head(TOTALS, include_in_schema=False)
    @app.get(TOTALS, response_model=NetworkTotals, tags=["statistics"])
    async def totals(request: Request, window: WindowQuery = "all") -> Response:
        """Earnings, tokens, jobs and active accounts of a window."""
        epoch, body = await figures.totals(window)
        return _told(request, epoch, body, now_s(), _for_all(TOTALS_S))

    @app.head(ANALYTICS, include_in_schema=False)
    @app.get(ANALYTICS, response_model=NetworkAnalytics, tags=["statistics"])
    async def analytics(request: Request) -> Response:
        """Tokens of the last 30 days: totals, the largest models, trends by hour and day."""
        epoch, body = await figures.analytics()
        lasting = f"{_for_all(ANALYTICS_S)}, s-maxage={ANALYTICS_S}"
        return _told(request, epoch, body, now_s(), lasting)

    for path in sorted(PATHS):
        app.add_api_route(path, _preflight, methods=["OPTIONS"], include_in_schema=False)


async def _preflight() -> Response:
    """Whether a page may ask, which every one may."""
    return Response(status_code=204, headers=PREFLIGHT)


def _for_all(seconds: int) -> str:
    return f"public, max-age={seconds}"


def _told(
    request: Request, epoch: Epoch | None, body: Body, now_s: float, lasting: str
) -> Response:
    """The body, or that the caller has it already. Of no epoch, nobody is to keep it."""
    headers = {"etag": body.etag}
    if epoch is None:
        headers["cache-control"] = "no-store"
    else:
        headers["cache-control"] = lasting
        headers["age"] = str(epoch.age_s(now_s))
    if matches(request.headers.get("if-none-match"), body.etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        headers["content-length"] = str(len(body.content))
        return Response(None, 200, headers, "application/json")
    return Response(body.content, 200, headers, "application/json")
