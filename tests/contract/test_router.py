"""The router actor as a plain asyncio class: polls, durability, loops, restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.decision_log import BUFFERED_RECORDS_MAX
from actors.router import Router
from market.errors import Unavailable
from market.routing.log import LogRecord
from market.routing.messages import Busy, Grant, Refused
from market.types import MachineId, RequestId
from tests.router_kit import gateway_beat, outcome, provider_beat, request

MAC = MachineId("mac_a")


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    made = Router(tmp_path / "router.db")
    await made.start()
    yield made
    await made.close()


async def test_a_poll_returns_as_soon_as_there_is_something(router: Router) -> None:
    """The waiting gateway is woken by the slot that becomes free."""
    await router.heartbeat(provider_beat("a", slots=1))
    first, second = await router.route([request("r"), request("w", queue=True)])
    assert isinstance(first, Grant)
    assert second == Busy(RequestId("w"), 1)

    poll = asyncio.create_task(router.poll(gateway_beat(first, queued=("w",)), 5.0))
    await asyncio.sleep(0)
    assert not poll.done()
    assert await router.report([outcome(first)]) == [None]

    (letter,) = await poll
    assert isinstance(letter, Grant)
    assert letter.request_id == "w"


async def test_a_poll_without_news_returns_empty(router: Router) -> None:
    """A poll is never held longer than asked."""
    assert await router.poll(gateway_beat(), 0.01) == []


async def test_a_poll_that_vanished_loses_no_grant(router: Router) -> None:
    """A cancelled poll leaves the mail for the next; an abandoned one is superseded."""
    await router.heartbeat(provider_beat("a", slots=1))
    first, _ = await router.route([request("r"), request("w", queue=True)])
    assert isinstance(first, Grant)
    cancelled = asyncio.create_task(router.poll(gateway_beat(first, queued=("w",)), 5.0))
    abandoned = asyncio.create_task(router.poll(gateway_beat(first, queued=("w",)), 5.0))
    await asyncio.sleep(0)
    cancelled.cancel()
    newest = asyncio.create_task(router.poll(gateway_beat(first, queued=("w",)), 5.0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert abandoned.done()
    await router.report([outcome(first)])

    assert [letter.request_id for letter in await newest] == ["w"]
    assert await abandoned == []
    assert cancelled.cancelled() or await cancelled == []


async def test_a_drain_outlives_the_router(tmp_path: Path) -> None:
    """An intent that was acknowledged is obeyed by the next router from its first answer."""
    first = Router(tmp_path / "router.db")
    await first.start()
    await first.heartbeat(provider_beat("a"))
    await first.drain(MAC, "update")
    await first.close()

    second = Router(tmp_path / "router.db")
    await second.start()
    assert (await second.heartbeat(provider_beat("a"))).drain
    (reply,) = await second.route([request("r")])
    assert not isinstance(reply, Grant)
    await second.undrain(MAC)
    assert not (await second.heartbeat(provider_beat("a"))).drain
    (reply,) = await second.route([request("r")])
    assert isinstance(reply, Grant)
    await second.close()


async def test_a_restarted_router_takes_declarations_over(tmp_path: Path) -> None:
    """Running grants are counted again; forgotten waiting ones are asked for again."""
    first = Router(tmp_path / "router.db")
    await first.start()
    await first.heartbeat(provider_beat("a", slots=1))
    (grant,) = await first.route([request("r")])
    assert isinstance(grant, Grant)
    await first.close()

    second = Router(tmp_path / "router.db")
    await second.start()
    (letter,) = await second.poll(gateway_beat(grant, queued=("w",)))
    assert isinstance(letter, Refused)
    assert isinstance(letter.error, Unavailable)
    assert letter.error.code == "unknown_request"
    await second.heartbeat(provider_beat("a", slots=1))
    assert await second.route([request("w", queue=True)]) == [Busy(RequestId("w"), 1)]
    await second.report([outcome(grant)])
    assert [x.request_id for x in await second.poll(gateway_beat(queued=("w",)))] == ["w"]
    await second.close()


async def test_explain_tells_the_story_before_and_after_a_restart(tmp_path: Path) -> None:
    """Why this Mac: at once with every verdict, later from the store with the best ones."""
    first = Router(tmp_path / "router.db")
    await first.start()
    await first.heartbeat(provider_beat("a"))
    await first.heartbeat(provider_beat("b", state="draining"))
    (grant,) = await first.route([request("r")])
    assert isinstance(grant, Grant)
    await first.report([outcome(grant)])
    story = await first.explain(RequestId("r"))
    await first.close()
    assert story is not None
    assert {v["provider"]: v["reason"] for v in story["verdicts"]} == {
        "prv_a": None,
        "prv_b": "draining",
    }

    second = Router(tmp_path / "router.db")
    await second.start()
    again = await second.explain(RequestId("r"))
    assert again is not None
    assert again["attempts"] == story["attempts"]
    assert again["attempts"][0]["outcome"]["result"] == "ok"
    assert await second.explain(RequestId("unknown")) is None
    await second.close()


async def test_the_reconcile_hook_is_called_and_its_errors_are_recorded(tmp_path: Path) -> None:
    """A failing hook is tried again, is shown in the status and stops nothing else."""
    calls = 0
    twice = asyncio.Event()

    async def ensure() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        raise OSError("no such node")

    router = Router(tmp_path / "router.db", ensure_providers=ensure)
    await router.start()
    await twice.wait()
    assert "no such node" in (await router.status())["last_error"]
    await router.heartbeat(provider_beat("a"))
    assert (await router.availability())[0].ready == 1
    await router.close()


async def test_a_store_that_fails_stops_no_request(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records wait while the store fails, are counted as trouble, and are stored later."""
    store = router._store.append

    async def full(records: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(router._store, "append", full)
    await router.heartbeat(provider_beat("a"))
    (grant,) = await router.route([request("r")])
    assert isinstance(grant, Grant)
    assert await router.explain(RequestId("r")) is None
    assert (await router.metrics())["coster_router_store_errors_total"] >= 1
    monkeypatch.setattr(router._store, "append", store)
    assert await router.explain(RequestId("r")) is not None


async def test_the_buffer_is_bounded_and_losses_are_counted(router: Router) -> None:
    """Beyond the limit the oldest records go, and the count says how many."""
    records: list[LogRecord] = []
    await router.heartbeat(provider_beat("a"))
    (grant,) = await router.route([request("r")])
    assert isinstance(grant, Grant)
    records.extend(router._kept._buffer)
    router._kept._buffer.clear()
    router._kept.add(records * (BUFFERED_RECORDS_MAX + 5))
    assert len(router._kept._buffer) == BUFFERED_RECORDS_MAX
    assert (await router.metrics())["coster_router_records_dropped_total"] == 5


async def test_the_door_counts_what_is_not_done_yet(router: Router) -> None:
    """Closing the door returns running and waiting requests together, and says so from then on."""
    await router.heartbeat(provider_beat("a", slots=1))
    await router.route([request("r"), request("w", queue=True)])
    assert await router.close_door() == 2
    (reply,) = await router.route([request("new")])
    assert isinstance(reply, Unavailable)
    facts = await router.describe()
    assert (facts["role"], facts["state"]) == ("router", "draining")


async def test_a_quote_leaves_nothing_behind(router: Router) -> None:
    """It names the Mac that is then granted; the router's own books say nothing of it."""
    await router.heartbeat(provider_beat("a", slots=1))
    before = await router.status()
    (quote,) = await router.quote([request("q")])
    after = await router.status()
    (reply,) = await router.route([request("q")])

    assert isinstance(reply, Grant)
    assert [mac.provider for mac in quote.macs if mac.chosen] == [reply.provider]
    assert (before["reservations"], before["records_buffered"]) == (
        after["reservations"],
        after["records_buffered"],
    )
