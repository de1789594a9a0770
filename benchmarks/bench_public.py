"""The public statistics over a month of history, while 50 requests a second are settled.

The history is made through the accountant's own settlements, on SQLite, its clock led through
30 days; minutes are folded as they are in a running market. Then each address is asked through
a gateway's app: again and again within an epoch, and once at the beginning of every new one.
Without `--requests` the month has 60,000 of them; the goal is meant for a million.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from actors.accountant import Accountant, AccountantSettings, Clock
from benchmarks.figures import Options, Report, Spread, percentile, read_options
from market.accounting.promos import PromoRules
from market.catalogue import CARDS
from market.keys import key_hash
from market.messages import Admit, Settle
from market.types import AccountId, MachineId, ProviderId, RequestId, Usage
from serve_app.app import GatewayApp
from storage.pepper import load_pepper
from tests.http.asgi_client import Exchange
from tests.http.ledger_market import Calendar, LedgerMarket
from tests.http.memory_fleet import Fleet, Mac
from tests.http.test_hostile import GENEROUS

DAYS, DAY_S = 30, 86_400
BEGIN_S = 1_800_000_000
MACS, OWNERS, CALLERS = 20, 10, 40
MODELS = [card.id for card in CARDS[:6]]
BATCH = 250
PER_SECOND = 50
CACHED, COLD = 2_000, 60
PROMO_NANO = 10**15
PERIODS_S = {
    "/v1/stats": 60,
    "/v1/leaderboard": 300,
    "/v1/network/totals": 60,
    "/api/v1/analytics/network": 600,
}


class Month:
    """An accountant with a month behind it, and a gateway before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calendar = Calendar(BEGIN_S)
        self.rng = random.Random(7)
        self.count = 0
        self.keys: list[bytes] = []
        self.accountant = Accountant(
            AccountantSettings(folder, promo=PromoRules(0)),
            clock=Clock(wall_ns=lambda: int(self.calendar.at_s * 1e9)),
        )

    async def open(self) -> None:
        await self.accountant.start()
        for number in range(OWNERS):
            name = AccountId(f"acct_owner_{number}")
            await self.accountant.ensure_account(name, "Owner", "operator", 0)
        for number in range(CALLERS):
            name = AccountId(f"acct_caller_{number}")
            await self.accountant.ensure_account(name, "Caller", "operator", PROMO_NANO)
            _, secret = await self.accountant.create_key(name, "", frozenset({"inference"}), None)
            self.keys.append(key_hash(secret, load_pepper(self.folder)))

    async def live(self, requests: int) -> None:
        """Thirty days, the nights quieter than the days."""
        began_s, folded_s = self.calendar.at_s, self.calendar.at_s
        for done in range(0, requests, BATCH):
            self.calendar.at_s = began_s + DAYS * DAY_S * done / requests
            await self.settle(min(BATCH, requests - done))
            if self.calendar.at_s - folded_s > 3_600:
                folded_s = self.calendar.at_s
                await self.fold()
        self.calendar.at_s = began_s + DAYS * DAY_S
        await self.fold()

    async def fold(self) -> None:
        while await self.accountant.fold():
            pass

    async def settle(self, count: int) -> None:
        """So many requests, held in one commit and settled in the next."""
        asked = [self._request() for _ in range(count)]
        await self.accountant.batch([admit for admit, _ in asked])
        await self.accountant.batch([settle for _, settle in asked])

    def _request(self) -> tuple[Admit, Settle]:
        rng = self.rng
        self.count += 1
        request = RequestId(f"req_{self.count}")
        model, mac = rng.choice(MODELS), rng.randrange(MACS)
        prompt, completion = rng.randrange(20, 800), rng.randrange(1, 300)
        return (
            Admit(request, rng.choice(self.keys), model, prompt, completion, completion),
            Settle(
                request,
                AccountId(f"acct_owner_{mac % OWNERS}"),
                MachineId(f"mac_{mac}"),
                ProviderId(f"prv_{mac}"),
                Usage(prompt, completion, prompt // 3),
                "stop",
                ttft_ms=200.0,
                total_ms=3_000.0,
            ),
        )


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--requests", type=int, default=0, help="in the month [60,000]")

    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=1, add=add)
    requests = asked.own.requests or (5_000 if asked.quick else 60_000)
    report = Report("public", f"a month of {requests:,} requests, {PER_SECOND} a second more")
    asyncio.run(_measure(asked, requests, report))
    report.show()


async def _measure(asked: Options, requests: int, report: Report) -> None:
    folder = Path(tempfile.mkdtemp(prefix="coster-bench-"))
    month = Month(folder)
    try:
        await month.open()
        began_s = time.perf_counter()
        await month.live(requests)
        report.fact("the month took", f"{time.perf_counter() - began_s:.0f} s to settle")
        fleet = Fleet(*(Mac(str(number)) for number in range(MACS)))
        market = LedgerMarket(folder, month.accountant, fleet, GENEROUS, month.calendar)
        market.app.start()
        await market.app.figures.snapshot()
        quiet_ms = await _settled(month, 3.0 if asked.quick else 8.0)
        reading = asyncio.create_task(_ask_all(month, market.app, report, quick=asked.quick))
        busy_ms = await _settled(month, None, reading)
        for name, spent_ms in (("alone", quiet_ms), ("beside readers without pause", busy_ms)):
            for percent in (50, 99):
                what = f"hold and settle, {name}, p{percent}"
                report.row(what, percentile(spent_ms, percent), "ms")
        await market.app.close()
    finally:
        await month.accountant.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _settled(
    month: Month, seconds: float | None, until: asyncio.Task[None] | None = None
) -> list[float]:
    """Settle PER_SECOND requests a second, evenly; how long each pair took, in ms."""
    spent_ms: list[float] = []
    ends_s = time.perf_counter() + (seconds or 3_600.0)
    pairs: set[asyncio.Task[None]] = set()

    async def one() -> None:
        began_s = time.perf_counter()
        await month.settle(1)
        spent_ms.append((time.perf_counter() - began_s) * 1e3)

    while time.perf_counter() < ends_s and (until is None or not until.done()):
        pair = asyncio.create_task(one())
        pairs.add(pair)
        pair.add_done_callback(pairs.discard)
        await asyncio.sleep(1 / PER_SECOND)
    await asyncio.gather(*pairs)
    if until is not None:
        await until
    return spent_ms


async def _ask_all(month: Month, app: GatewayApp, report: Report, *, quick: bool) -> None:
    """Every address, cached and cold; new epochs come as fast as they can be asked for."""
    for path, period_s in PERIODS_S.items():
        await _ask(app, path)
        cached_ms = [
            await _timed(partial(_ask, app, path)) for _ in range(CACHED // (20 if quick else 1))
        ]
        cold_ms = []
        for _ in range(COLD // (10 if quick else 1)):
            month.calendar.at_s += period_s
            await month.fold()
            cold_ms.append(await _timed(partial(_cold, app, path)))
        for kind, spent_ms, aim in (("cached", cached_ms, "< 20"), ("cold", cold_ms, "< 300")):
            value = Spread(percentile(spent_ms, 99), percentile(spent_ms, 50), max(spent_ms))
            report.row(f"{path}, {kind}, p99 (p50–max)", value, "ms", aim)


async def _cold(app: GatewayApp, path: str) -> None:
    """The first request of an epoch; the analytics are made when no request waits for them."""
    if "analytics" in path:
        await app.figures.snapshot()
    await _ask(app, path)


async def _ask(app: GatewayApp, path: str) -> None:
    made = Exchange(b"", path=path, method="GET", key=None)
    await made.go(app)
    assert made.status == 200, made.content
    await asyncio.sleep(0)


async def _timed(act: Callable[[], Awaitable[Any]]) -> float:
    began_s = time.perf_counter()
    await act()
    return (time.perf_counter() - began_s) * 1e3


if __name__ == "__main__":
    main()
