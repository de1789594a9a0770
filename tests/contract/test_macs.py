"""Many light Macs in one process: each is a Mac of its own to the router and to gateways.

Real providers and engines behind real sockets, a real router; without Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from actors.calls import Coalescer
from actors.engines.factory import Workshop
from actors.housing import Housing
from actors.macs import Macs
from actors.nodes import provider_id_of
from actors.process import JsonLines
from actors.provider import Provider, ProviderConfig
from actors.router import Router
from actors.transport.framed import FramedLink
from market.errors import Internal, NotFound
from market.routing.messages import ProviderBeat, ProviderOrders
from market.settings import EngineSettings, MacSettings, MarketSettings, ModelSource
from market.types import AccountId, Event, GatewayId, Hardware, Job, MachineId, ModelId, RequestId
from tests.router_kit import provider_beat

COUNT = 12
MODEL = ModelId("coster/demo")
SECRET = b"s" * 32
GATEWAY = GatewayId("gw_1")
WAIT_S = 30.0


def settings(count: int = COUNT) -> MarketSettings:
    macs = tuple(
        MacSettings(
            MachineId(f"mac_{number}"),
            provider_id_of(MachineId(f"mac_{number}")),
            f"name-{number}",
            AccountId("acct"),
            Hardware("M4", 16, 10, 10, 120.0),
        )
        for number in range(count)
    )
    echo = EngineSettings(kind="echo", slots=4)
    return MarketSettings("data", (ModelSource(MODEL),), "v1", macs=macs, engine=echo)


class Process:
    """The Macs of one process beside a router, with every call between them counted."""

    def __init__(self, router: Router, count: int = COUNT) -> None:
        self.router = router
        self.calls: list[list[ProviderBeat]] = []
        self.exits: list[str] = []
        self.leave: dict[MachineId, Callable[[str], None]] = {}
        self.beats: Coalescer[ProviderBeat, ProviderOrders] = Coalescer(
            self._call, "heartbeats", deadline_s=3.0
        )
        self.settings = settings(count)
        housing = Housing("macs:1", self.settings.macs)
        configs = [
            ProviderConfig(mac, SECRET, "v1", "node", housing.phase_s) for mac in housing.macs
        ]
        self.macs = Macs(configs, self._open, self.exits.append)

    async def _call(self, method: str, *args: object) -> object:
        (beats,) = args
        assert isinstance(beats, list)
        self.calls.append(beats)
        return await getattr(self.router, method)(beats)

    def _open(self, config: ProviderConfig, leave: Callable[[str], None]) -> Provider:
        self.leave[config.mac.machine] = leave
        workshop = Workshop(self.settings, config.mac)
        return Provider(config, workshop.offer(), workshop.make, self.beats.submit, leave)

    def facts(self, machine: str) -> dict[str, object]:
        macs = self.macs.describe()["macs"]
        assert isinstance(macs, list)
        return next(each for each in macs if each["machine"] == machine)

    async def ready(self, count: int = COUNT) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                (state,) = await self.router.availability() or [None]
                if state is not None and state.ready == count:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def a_process(folder: Path, count: int = COUNT) -> AsyncIterator[Process]:
    router = Router(folder / "router.db")
    await router.start()
    process = Process(router, count)
    await process.macs.start()
    try:
        yield process
    finally:
        await process.macs.stop("the test is over")
        await router.close()


async def answer_of(link: FramedLink, name: str) -> list[Event]:
    events: list[Event] = []
    over = asyncio.Event()

    def heard(event: Event) -> None:
        events.append(event)
        if event.finish is not None:
            over.set()

    await link.submit(Job(RequestId(name), MODEL, (5, 6, 7), 5), heard)
    async with asyncio.timeout(WAIT_S):
        await over.wait()
    return events


def link_to(process: Process, machine: str, secret: bytes = SECRET) -> FramedLink:
    host, port = str(process.facts(machine)["endpoint"]).rsplit(":", 1)
    return FramedLink(host, int(port), machine=MachineId(machine), gateway=GATEWAY, secret=secret)


async def test_each_mac_is_one_to_the_router_and_has_a_door_of_its_own(tmp_path: Path) -> None:
    """Ids, addresses and descriptions are each Mac's own, and each answers its own jobs."""
    async with a_process(tmp_path) as process:
        await process.ready()
        facts = [process.facts(f"mac_{n}") for n in range(COUNT)]
        assert len({each["endpoint"] for each in facts}) == COUNT
        assert len({each["provider"] for each in facts}) == COUNT
        assert {each["state"] for each in facts} == {"ready"}

        for machine in ("mac_0", "mac_7"):
            link = link_to(process, machine)
            try:
                events = await answer_of(link, f"req_{machine}")
            finally:
                await link.close()
            assert events[-1].finish == "length"
            assert events[-1].count == 5


async def test_a_door_is_opened_to_no_other_mac_of_the_process(tmp_path: Path) -> None:
    """Whoever asks at one Mac's address for another one is not let in."""
    async with a_process(tmp_path) as process:
        other = link_to(process, "mac_1")
        other.machine = MachineId("mac_2")
        with pytest.raises(ConnectionError):
            await other.submit(Job(RequestId("r"), MODEL, (5,), 1), lambda _: None)


async def test_macs_of_one_process_share_a_call_to_the_router(tmp_path: Path) -> None:
    """Once begun, all their beats of a second go in one call, each answered for itself."""
    async with a_process(tmp_path) as process:
        await process.ready()
        process.calls.clear()
        async with asyncio.timeout(WAIT_S):
            while not any(len(call) == COUNT for call in process.calls):
                await asyncio.sleep(0.1)

        whole = next(call for call in process.calls if len(call) == COUNT)
        assert {beat.machine for beat in whole} == {f"mac_{n}" for n in range(COUNT)}


async def test_a_beat_that_makes_no_sense_costs_the_others_nothing(tmp_path: Path) -> None:
    """Of beats that come together each has its answer: one that nobody understands an error, one
    of an older incarnation its marching orders, and the Macs beside them are known.
    """
    router = Router(tmp_path / "router.db")
    await router.start()
    try:
        await router.heartbeat(provider_beat("b", incarnation=9))
        senseless = replace(provider_beat("c"), models=None)  # type: ignore[arg-type]
        answers = await router.heartbeats(
            [provider_beat("a"), provider_beat("b", incarnation=3), senseless, provider_beat("d")]
        )
        known = [isinstance(each, ProviderOrders) and each.known for each in answers]
        assert known == [True, False, False, True]
        assert isinstance(answers[2], Internal)
    finally:
        await router.close()


async def test_a_mac_that_must_end_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    """Its watcher hears why, its door is shut, its neighbours answer; begun again it is the same
    Mac under a higher incarnation.
    """
    async with a_process(tmp_path) as process:
        await process.ready()
        watcher = asyncio.create_task(process.macs.wait_forever(MachineId("mac_3")))
        neighbour = asyncio.create_task(process.macs.wait_forever(MachineId("mac_4")))
        before, door = process.facts("mac_3"), link_to(process, "mac_3")

        process.leave[MachineId("mac_3")]("its engine hangs")

        async with asyncio.timeout(WAIT_S):
            assert await watcher == "its engine hangs"
        assert not neighbour.done()
        assert process.exits == []
        assert process.facts("mac_3")["state"] == "unavailable"
        with pytest.raises(ConnectionError):
            await door.submit(Job(RequestId("r"), MODEL, (5,), 1), lambda _: None)
        link = link_to(process, "mac_4")
        assert (await answer_of(link, "req_4"))[-1].finish == "length"
        await link.close()

        first = _incarnations(process, "mac_3")[-1]
        await process.macs.begin(MachineId("mac_3"))
        await process.ready()
        assert process.facts("mac_3")["provider"] == before["provider"]
        assert _incarnations(process, "mac_3")[-1] > first
        neighbour.cancel()


def _incarnations(process: Process, machine: str) -> list[int]:
    return [beat.incarnation for call in process.calls for beat in call if beat.machine == machine]


async def test_a_mac_alone_in_its_process_ends_with_it(tmp_path: Path) -> None:
    """What hangs is freed by nothing less than the end of its process."""
    async with a_process(tmp_path, 1) as process:
        await process.ready(1)

        process.leave[MachineId("mac_0")]("its engine hangs")

        assert process.exits == ["its engine hangs"]
        assert process.facts("mac_0")["state"] == "ready"


async def test_the_fallback_stream_finds_its_mac(tmp_path: Path) -> None:
    """Jobs handed to one Mac of a process are answered on that Mac's stream, and on no other's."""
    async with a_process(tmp_path) as process:
        await process.ready()
        macs = process.macs
        mine, other = MachineId("mac_5"), MachineId("mac_6")
        async with aclosing(macs.events(mine, GATEWAY)) as stream:  # type: ignore[type-var]
            assert await anext(stream) == []
            with pytest.raises(ConnectionError):
                await macs.stream_submit(other, GATEWAY, Job(RequestId("r"), MODEL, (5,), 1))
            assert await macs.stream_renew(mine, GATEWAY)
            assert not await macs.stream_renew(other, GATEWAY)

            await macs.stream_submit(mine, GATEWAY, Job(RequestId("r"), MODEL, (5, 6), 3))
            heard: list[Event] = []
            async with asyncio.timeout(WAIT_S):
                while not heard or heard[-1].finish is None:
                    heard += await anext(stream)
            assert heard[-1].count == 3

        with pytest.raises(NotFound):
            macs.events(MachineId("mac_elsewhere"), GATEWAY)


async def test_a_log_line_says_whose_it_is(tmp_path: Path) -> None:
    """What a Mac logs in a process of many carries its name."""
    lines: list[dict[str, object]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines("macs-1").format(record)))

    log, kept = logging.getLogger("coster.provider"), Kept()
    log.addHandler(kept)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        async with a_process(tmp_path) as process:
            await process.ready()
    finally:
        log.removeHandler(kept)
        log.setLevel(level)

    named = {line["mac"] for line in lines if str(line["message"]).startswith("ready")}
    assert named == {f"name-{n}" for n in range(COUNT)}
