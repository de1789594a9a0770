"""The public statistics: no key, any origin, one body per epoch, and a tag to ask by.

`Age` says for how long a body has been the newest there is, so that caches between us and a
reader count on from there. A body older than its `max-age` is the last good one: newer figures
could not be made.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import FastAPI, Query, Request, Response

from market.errors import MarketError
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
from serve_app.rest import error_response
from serve_app.schemas_public import (
    Leaderboard,
    Metric,
    NetworkAnalytics,
    NetworkTotals,
    Stats,
    Window,
)

ANYBODY: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "age, etag, x-request-id",
}
ENTRIES_DEFAULT: Final = 50
ENTRIES_MOST: Final = 200
MetricQuery = Annotated[Metric, Query(description="What is ranked by")]
WindowQuery = Annotated[Window, Query(description="The last hours or days, up to now")]
LimitQuery = Annotated[int, Query(ge=1, le=ENTRIES_MOST)]


def add_public(app: FastAPI, desk: Desk, figures: PublicFigures) -> None:
    """The four routes."""
    now_s = desk.ports.clock.now_s

    @app.get("/v1/stats", response_model=Stats, tags=["statistics"])
    async def stats(request: Request) -> Response:
        """The network so far and now: totals, Macs, models, the last 30 minutes."""
        try:
            epoch, body = await figures.stats()
        except MarketError as error:
            return _refused(error)
        return _told(request, epoch, body, now_s(), _for_all(STATS_S))

    @app.get("/v1/leaderboard", response_model=Leaderboard, tags=["statistics"])
    async def leaderboard(
        request: Request,
        metric: MetricQuery = "earnings",
        window: WindowQuery = "all",
        limit: LimitQuery = ENTRIES_DEFAULT,
    ) -> Response:
        """Who earned, generated or served most, by pseudonym."""
        try:
            epoch, body = await figures.leaderboard(metric, window, limit)
        except MarketError as error:
            return _refused(error)
        return _told(request, epoch, body, now_s(), _for_all(LEADERBOARD_S))

    @app.get("/v1/network/totals", response_model=NetworkTotals, tags=["statistics"])
    async def totals(request: Request, window: WindowQuery = "all") -> Response:
        """Earnings, tokens, jobs and active accounts of a window."""
        try:
            epoch, body = await figures.totals(window)
        except MarketError as error:
            return _refused(error)
        return _told(request, epoch, body, now_s(), _for_all(TOTALS_S))

    @app.get("/api/v1/analytics/network", response_model=NetworkAnalytics, tags=["statistics"])
    async def analytics(request: Request) -> Response:
        """Tokens of the last 30 days: totals, the largest models, trends by hour and day."""
        try:
            epoch, body = await figures.analytics()
        except MarketError as error:
            return _refused(error)
        lasting = f"{_for_all(ANALYTICS_S)}, s-maxage={ANALYTICS_S}"
        return _told(request, epoch, body, now_s(), lasting)


def _for_all(seconds: int) -> str:
    return f"public, max-age={seconds}"


def _told(
    request: Request, epoch: Epoch | None, body: Body, now_s: float, lasting: str
) -> Response:
    """The body, or that the caller has it already. Of no epoch, nobody is to keep it."""
    headers = {**ANYBODY, "etag": body.etag}
    if epoch is None:
        headers["cache-control"] = "no-store"
    else:
        headers["cache-control"] = lasting
        headers["age"] = str(epoch.age_s(now_s))
    if matches(request.headers.get("if-none-match"), body.etag):
        return Response(status_code=304, headers=headers)
    return Response(body.content, 200, headers, "application/json")


def _refused(error: MarketError) -> Response:
    response = error_response(error)
    response.headers.update(ANYBODY)
    return response
