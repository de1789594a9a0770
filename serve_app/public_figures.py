"""The public statistics of one gateway: what is asked for them, and how long each is kept.

Every gateway makes the same bodies of the same epoch by itself: sums come from the ledger's
reading port, of time that is over, and the fleet is the router's one snapshot of that epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, get_args

import orjson
from pydantic import BaseModel

from market.accounting.periods import WINDOWS, Between
from market.accounting.rollups import DAY_S, HOUR_S, MINUTE_S
from market.accounting.statistics import (
    ROWS_MAX,
    UseQuestion,
    WorkBy,
    Worked,
    WorkQuestion,
)
from market.errors import InvalidRequest, MarketError
from market.public.epochs import LAG_S, Epoch
from market.public.pseudonyms import pseudonyms
from market.types import MachineId, ModelId
from serve_app import views_analytics as analytic
from serve_app import views_public as views
from serve_app.caching import Body, EachEpoch, Made
from serve_app.counters import Counters
from serve_app.ports import GatewayPorts
from serve_app.schemas_public import LeaderboardEntry, Metric, NetworkAnalytics, Stats, Window
from serve_app.views_analytics import NOBODY_COUNTED, Consumers

STATS_S: Final = 60
LEADERBOARD_S: Final = 300
TOTALS_S: Final = 60
ANALYTICS_S: Final = 600
"""Lifetimes of the bodies, in seconds."""

Value = TypeVar("Value")

AGAIN_S: Final = 5.0
"""When making a snapshot failed, it is tried again so soon."""


@dataclass(frozen=True, slots=True)
class Board:
    """One window of the leaderboard, ranked by every metric."""

    window: Window
    entries: Mapping[Metric, Sequence[LeaderboardEntry]]


class PublicFigures:
    """Makes and keeps the four public bodies. Call it on the gateway's loop."""

    def __init__(self, ports: GatewayPorts, counters: Counters) -> None:
        self._ports = ports
        self._k = ports.group_min
        self._refreshing: asyncio.Task[None] | None = None
        clock = ports.clock
        self._stats: EachEpoch[Stats] = EachEpoch(
            "stats", STATS_S, self._make_stats, clock, counters
        )
        self._analytics: EachEpoch[NetworkAnalytics] = EachEpoch(
            "analytics", ANALYTICS_S, self._make_analytics, clock, counters
        )
        self._totals = {
            window: EachEpoch(
                "totals", TOTALS_S, _of_window(self._make_totals, window), clock, counters
            )
            for window in get_args(Window)
        }
        self._boards = {
            window: EachEpoch(
                "leaderboard", LEADERBOARD_S, _of_window(self._make_board, window), clock, counters
            )
            for window in get_args(Window)
        }

    # ── what is asked for ────────────────────────────────────────────────────────────

    async def stats(self) -> tuple[Epoch, Body]:
        """`GET /v1/stats`. Raises Unavailable when there is nothing true to tell."""
        made = await self._stats.get()
        return made.epoch, made.body("", _plain)

    async def totals(self, window: Window) -> tuple[Epoch, Body]:
        """`GET /v1/network/totals`."""
        made = await self._totals[window].get()
        return made.epoch, made.body("", _plain)

    async def leaderboard(self, metric: Metric, window: Window, limit: int) -> tuple[Epoch, Body]:
        """`GET /v1/leaderboard`."""
        made = await self._boards[window].get()

        def render(board: Board) -> bytes:
            entries = board.entries[metric]
            return _plain(views.leaderboard(made.epoch, metric, window, entries, limit, self._k))

        return made.epoch, made.body((metric, limit), render)

    async def analytics(self) -> tuple[Epoch | None, Body]:
        """The last snapshot, or what is told before the first, of no epoch."""
        self.start()
        made: Made[NetworkAnalytics] | None = self._analytics.latest()
        if made is None:
            return None, Body.of(_plain(analytic.no_analytics()))
        return made.epoch, made.body("", _plain)

    # ── the snapshot in the background ───────────────────────────────────────────────

    async def snapshot(self) -> Epoch:
        """See to it that there is one of this epoch; raises Unavailable when none can be made."""
        return (await self._analytics.get()).epoch

    def start(self) -> None:
        """Begin to make snapshots, one an epoch. Idempotent."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(), name="public-snapshots")

    async def close(self) -> None:
        """Make no more. Idempotent."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh(self) -> None:
        while True:
            try:
                epoch = await self.snapshot()
            except MarketError:  # counted and recorded where it was made
                await asyncio.sleep(AGAIN_S)
                continue
            next_s = epoch.end_s + ANALYTICS_S + LAG_S - self._ports.clock.now_s()
            await asyncio.sleep(min(max(next_s, AGAIN_S), ANALYTICS_S))

    # ── how each is made ─────────────────────────────────────────────────────────────

    async def _make_stats(self, epoch: Epoch) -> Stats:
        fleet = await self._ports.router.public_fleet(epoch.end_s)
        ever = Between(None, epoch.end_s)
        recent = Between(epoch.end_s - views.MINUTES * MINUTE_S, epoch.end_s)
        whole, minutes = await asyncio.gather(
            self._worked(ever, ("machine", "account"), 0, fleet.private),
            self._worked(recent, ("account",), MINUTE_S, fleet.private),
        )
        return views.stats(epoch, fleet, whole, minutes, self._k)

    async def _make_totals(self, epoch: Epoch, window: Window) -> BaseModel:
        figures = await self._of_accounts(epoch, window)
        return views.network_totals(epoch, window, figures, self._k)

    async def _make_board(self, epoch: Epoch, window: Window) -> Board:
        """Names are given among all that ever earned: nobody's depends on the window."""
        everyone, figures = await asyncio.gather(
            self._of_accounts(epoch, "all"), self._of_accounts(epoch, window)
        )
        known = {figure.account for figure in (*everyone, *figures)}
        names = pseudonyms(known, self._ports.alias_key)
        return Board(
            window, {metric: views.ranked(metric, figures, names) for metric in get_args(Metric)}
        )

    async def _of_accounts(self, epoch: Epoch, window: Window) -> Sequence[Worked]:
        fleet = await self._ports.router.public_fleet(epoch.end_s)
        long_s = WINDOWS[window]
        begin_s = None if long_s is None else epoch.end_s - long_s
        return await self._worked(Between(begin_s, epoch.end_s), ("account",), 0, fleet.private)

    async def _make_analytics(self, epoch: Epoch) -> NetworkAnalytics:
        fleet = await self._ports.router.public_fleet(epoch.end_s)
        days = Between(analytic.day_starts(epoch.end_s)[0], epoch.end_s)
        hours = Between(analytic.hour_starts(epoch.end_s)[0], epoch.end_s)
        daily, hourly = await asyncio.gather(
            self._worked(days, ("model",), DAY_S, fleet.private),
            self._worked(hours, (), HOUR_S, fleet.private),
        )
        consumers = await self._consumers(daily, hourly) if self._k > 1 else NOBODY_COUNTED
        catalogue = self._ports.catalogue
        return analytic.analytics(epoch, daily, hourly, catalogue, consumers, self._k)

    async def _consumers(self, daily: Sequence[Worked], hourly: Sequence[Worked]) -> Consumers:
        """How many accounts are in each group that has anything, asked one by one."""
        days = sorted({figure.start_s for figure in daily})
        hours = sorted({figure.start_s for figure in hourly})
        if not days:
            return NOBODY_COUNTED
        whole = Between(days[0], days[-1] + DAY_S)
        models = sorted({figure.model for figure in daily})
        return Consumers(
            {model: await self._accounts(whole, model) for model in models},
            {day: await self._accounts(Between(day, day + DAY_S)) for day in days},
            {hour: await self._accounts(Between(hour, hour + HOUR_S)) for hour in hours},
            await self._accounts(whole),
        )

    async def _accounts(self, period: Between, *models: ModelId) -> int:
        """Accounts that have used anything; ROWS_MAX where there are more."""
        question = UseQuestion(period, ("account",), models=frozenset(models))
        try:
            return len((await self._ports.accountant.used(question)).figures)
        except InvalidRequest as error:
            if error.code != "too_many_figures":
                raise
            return ROWS_MAX

    async def _worked(
        self,
        period: Between,
        by: tuple[WorkBy, ...],
        bucket_s: int,
        private: frozenset[MachineId],
    ) -> Sequence[Worked]:
        question = WorkQuestion(period, by, bucket_s, without_machines=private)
        return (await self._ports.accountant.worked(question)).figures


def _plain(shape: BaseModel) -> bytes:
    return orjson.dumps(shape.model_dump(by_alias=True))


def _of_window(
    make: Callable[[Epoch, Window], Awaitable[Value]], window: Window
) -> Callable[[Epoch], Awaitable[Value]]:
    return lambda epoch: make(epoch, window)
