"""`kill -9` of each process of a running market while sixteen streams run.

One market serves all the kills, in an order that leaves `up` for last. After each one: what
the clients saw, that new requests are answered, and that the books balance to the nano.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live_market import LiveMarket, coster, live_market, start_market, stop_market
from tests.support.streams import Crowd, Seen

pytestmark = [pytest.mark.chaos, pytest.mark.cluster]

STREAMS = 16
TOKENS = 150
PACE_MS = "20"
MODEL = "coster/demo"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    """Two echo Macs that take three seconds for an answer, so that kills land inside."""
    data = tmp_path_factory.mktemp("kills") / "data"
    with live_market(data, "--engine", "echo", "--pace-ms", PACE_MS) as running:
        yield running


async def crowd_during(market: LiveMarket, victim: int) -> list[Seen]:
    """Sixteen streams; the victim dies once all of them flow."""
    crowd = Crowd(market.base, market.key, MODEL, count=STREAMS, tokens=TOKENS)
    await crowd.flowing()
    os.kill(victim, signal.SIGKILL)
    return await crowd.ended()


async def probe(market: LiveMarket, count: int = 4) -> list[Seen]:
    """A few fresh streams."""
    crowd = Crowd(market.base, market.key, MODEL, count=count, tokens=4)
    return await crowd.ended()


def kinds(seen: list[Seen]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in seen:
        counts[one.outcome] = counts.get(one.outcome, 0) + 1
    return counts


def assert_balanced(market: LiveMarket) -> None:
    report = market.verify()
    assert report["problems"] == []
    assert report["ok"] is True


def charged(market: LiveMarket) -> dict[str, int]:
    """Cost in nano-USD by request, as the consumer's usage lists it."""
    with market.client() as client:
        rows = client.get("payments/usage?limit=1000").json()
    assert len({row["request_id"] for row in rows}) == len(rows)
    return {row["request_id"]: int(row["cost_nano_usd"]) for row in rows}


def assert_charged_as_seen(market: LiveMarket, seen: list[Seen]) -> None:
    """An answered stream is charged once, what its usage said; a refused one never."""
    bills = charged(market)
    for one in seen:
        if one.outcome == "answered":
            assert bills[one.request_id] == one.cost_nano
        elif one.outcome == "refused":
            assert one.request_id not in bills


async def test_a_killed_providers_streams_go_on_elsewhere(market: LiveMarket) -> None:
    """Streams of the dead Mac are finished by the other one; each is charged once, as it says."""
    macs = {a["provider"]: a["pid"] for a in market.status()["actors"] if a["role"] == "provider"}
    whole = await Crowd(market.base, market.key, MODEL, count=STREAMS, tokens=TOKENS).ended()

    crowd = Crowd(market.base, market.key, MODEL, count=STREAMS, tokens=TOKENS)
    await crowd.flowing()
    busy = Counter(one.provider for one in crowd.seen if one.provider in macs)
    ((victim, _),) = busy.most_common(1)
    os.kill(int(macs[victim]), signal.SIGKILL)
    seen = await crowd.ended()

    assert kinds(seen) == {"answered": STREAMS}
    assert [one.text for one in seen] == [one.text for one in whole]
    assert any(victim in one.shares for one in seen)
    assert kinds(await probe(market)) == {"answered": 4}
    assert_charged_as_seen(market, seen)
    market.until(lambda: len(market.pids("provider")) == 2)
    assert_balanced(market)


async def test_a_killed_router_is_not_noticed_by_running_streams(market: LiveMarket) -> None:
    """Running streams finish; new requests wait for the router's restart and are served."""
    market.until(lambda: market.status()["ok"])
    before = market.pids("router")

    seen = await crowd_during(market, before[0])
    fresh = await probe(market)

    assert kinds(seen) == {"answered": STREAMS}
    assert kinds(fresh) == {"answered": 4}
    assert market.pids("router") != before
    assert_charged_as_seen(market, seen + fresh)
    assert_balanced(market)


async def test_a_killed_accountant_loses_no_acknowledged_charge(market: LiveMarket) -> None:
    """Streams wait for the accountant to come back and settle exactly once."""
    market.until(lambda: market.status()["ok"])
    before = market.pids("accountant")

    seen = await crowd_during(market, before[0])
    fresh = await probe(market)

    assert kinds(seen) == {"answered": STREAMS}
    assert kinds(fresh) == {"answered": 4}
    assert market.pids("accountant") != before
    assert_charged_as_seen(market, seen + fresh)
    assert_balanced(market)


async def test_a_killed_gateway_breaks_its_own_streams_and_no_new_request(
    market: LiveMarket,
) -> None:
    """Streams through the dead replica are cut; every new request is answered."""
    market.until(lambda: market.status()["ok"] and len(market.pids("gateway")) == 2)
    victim = market.pids("gateway")[0]
    crowd = Crowd(market.base, market.key, MODEL, count=STREAMS, tokens=TOKENS)
    await crowd.flowing()

    os.kill(victim, signal.SIGKILL)
    fresh: list[Seen] = []
    for _ in range(10):
        fresh += await probe(market, 4)
    seen = await crowd.ended()

    assert set(kinds(seen)) <= {"answered", "broken"}
    assert kinds(seen)["answered"] >= 1
    assert kinds(fresh) == {"answered": 40}
    assert_charged_as_seen(market, seen + fresh)
    market.until(lambda: len(market.pids("gateway")) == 2)
    assert_balanced(market)


async def test_a_killed_up_is_cleaned_up_by_the_next_one(tmp_path: Path) -> None:
    """After `kill -9` of `up` the books balance, and the next `up` ends what it left."""
    first = start_market(tmp_path / "data", "--engine", "echo", "--pace-ms", PACE_MS)
    crowd = Crowd(first.base, first.key, MODEL, count=STREAMS, tokens=TOKENS)
    await crowd.flowing()

    os.kill(first.process.pid, signal.SIGKILL)
    seen = await crowd.ended()
    first.process.wait(timeout=30)
    offline = first.verify()
    second = await asyncio.to_thread(
        start_market, tmp_path / "data", "--engine", "echo", "--pace-ms", PACE_MS
    )
    fresh = await probe(second)
    online = second.verify()
    code = stop_market(second)
    stop_market(first)

    assert set(kinds(seen)) <= {"answered", "broken", "refused", "truncated"}
    assert (offline["ok"], offline["problems"]) == (True, [])
    assert kinds(fresh) == {"answered": 4}
    assert (online["ok"], online["problems"]) == (True, [])
    assert code == 0


def test_down_without_a_market_says_so(tmp_path: Path) -> None:
    """`coster down` on empty data names what is missing and exits 3."""
    done = coster("down", "--data", str(tmp_path), check=False)

    assert done.returncode == 3
    assert "No market runs" in done.stderr
