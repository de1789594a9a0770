"""One contract for every transport between a gateway and a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
import uvloop

from actors.transport.codec import FrameReader, Kind, ProtocolError, pack_frame
from actors.transport.door import Outlet
from actors.transport.framed import FramedLink, FramedServer
from actors.transport.ray_stream import StreamLink, StreamServer
from market.ports import ProviderLink
from market.types import (
    Event,
    GatewayId,
    Job,
    JobFailure,
    MachineId,
    ModelId,
    RequestId,
    Sampling,
    TokenLogprob,
)

SECRET = b"s" * 32
MACHINE = MachineId("mac_test")
GATEWAY = GatewayId("gw_test")


@dataclass
class RecordingDoor:
    """A provider that only writes down what it hears and sends what a test tells it to."""

    jobs: list[Job] = field(default_factory=list)
    cancelled: list[RequestId] = field(default_factory=list)
    opened: list[GatewayId] = field(default_factory=list)
    closed: list[GatewayId] = field(default_factory=list)
    outlet: Outlet | None = None

    def gateway_opened(self, gateway: GatewayId, outlet: Outlet) -> None:
        self.opened.append(gateway)
        self.outlet = outlet

    def gateway_closed(self, gateway: GatewayId, outlet: Outlet) -> None:
        self.closed.append(gateway)

    def job_submitted(self, gateway: GatewayId, job: Job) -> None:
        self.jobs.append(job)

    def job_cancelled(self, gateway: GatewayId, request_id: RequestId) -> None:
        self.cancelled.append(request_id)

    def send(self, *events: Event) -> None:
        assert self.outlet is not None
        self.outlet.send(events)


@dataclass
class Rig:
    """One provider, one link to it, and the way to cut the wire."""

    door: RecordingDoor
    link: ProviderLink
    cut: Callable[[], object]


@pytest.fixture(params=["framed", "ray_stream"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    door = RecordingDoor()
    if request.param == "framed":
        server = FramedServer(door, machine=MACHINE, secret=SECRET)
        host, port = await server.listen("127.0.0.1")
        link: ProviderLink = FramedLink(host, port, machine=MACHINE, gateway=GATEWAY, secret=SECRET)

        async def cut() -> None:
            await server.close()

        yield Rig(door, link, lambda: asyncio.ensure_future(cut()))
        await link.close()
        await server.close()
        await asyncio.sleep(0)
        return
    streams = StreamServer(door)

    async def submit(job: Job) -> None:
        streams.submit(GATEWAY, job)

    async def renew() -> bool:
        return streams.renew(GATEWAY)

    link = StreamLink(
        open_stream=lambda: streams.events(GATEWAY),
        submit=submit,
        cancel=lambda request_id: streams.cancel(GATEWAY, request_id),
        renew=renew,
    )
    yield Rig(door, link, lambda: streams._outlets[GATEWAY].close())
    await link.close()


def job(name: str, *, n: int = 1) -> Job:
    return Job(
        RequestId(name),
        ModelId("coster/demo"),
        (1, 2, 3),
        8,
        Sampling(temperature=0.5, logit_bias=((3, -1.0),), seed=7),
        ("end",),
        n,
        2,
        "acct_x",
    )


def event(name: str, text: str, count: int, **more: object) -> Event:
    return Event(RequestId(name), 0, (count,), text, count, **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that must come; a hang is the suite's time-out."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_job_arrives_exactly_as_it_was_sent(rig: Rig) -> None:
    """Every field of a job survives the wire."""
    sent = job("req_1", n=2)

    await rig.link.submit(sent, lambda _: None)
    await until(lambda: rig.door.jobs)

    assert rig.door.jobs == [sent]
    assert rig.door.opened == [GATEWAY]


async def test_events_arrive_in_order_and_unchanged(rig: Rig) -> None:
    """Events of one job keep their order and every field."""
    heard: list[Event] = []
    await rig.link.submit(job("req_1"), heard.append)
    await until(lambda: rig.door.jobs)
    logprob = TokenLogprob(5, "é", -0.25, ((5, "é", -0.25), (6, "b", -3.0)))
    sent = [
        event("req_1", "one", 1, logprobs=(logprob,)),
        event("req_1", "two", 2, cached_tokens=2),
        event("req_1", "", 3, finish="stop"),
    ]

    rig.door.send(*sent[:2])
    rig.door.send(sent[2])
    await until(lambda: len(heard) == 3)

    assert heard == sent


async def test_jobs_on_one_link_do_not_hear_each_other(rig: Rig) -> None:
    """Events reach only the job they belong to, however they are batched."""
    heard: dict[str, list[str]] = {"req_1": [], "req_2": []}
    for name in heard:
        await rig.link.submit(job(name), lambda e: heard[e.request_id].append(e.text))
    await until(lambda: len(rig.door.jobs) == 2)

    rig.door.send(event("req_2", "b", 1), event("req_1", "a", 1), event("req_3", "x", 1))
    await until(lambda: all(heard.values()))

    assert heard == {"req_1": ["a"], "req_2": ["b"]}


async def test_a_lost_wire_fails_each_open_job_once(rig: Rig) -> None:
    """When the wire dies, open jobs hear `lost` once and finished ones hear nothing."""
    heard: list[Event] = []
    await rig.link.submit(job("req_done"), heard.append)
    await rig.link.submit(job("req_open", n=2), heard.append)
    await until(lambda: len(rig.door.jobs) == 2)
    rig.door.send(
        event("req_done", "x", 1, finish="stop"), event("req_open", "x", 1, finish="stop")
    )
    await until(lambda: len(heard) == 2)

    rig.cut()
    await until(lambda: len(heard) == 3)
    await until(lambda: rig.door.closed)

    assert heard[2].request_id == "req_open"
    assert heard[2].error is not None
    assert heard[2].error.code == "lost"


async def test_a_failed_job_hears_nothing_more(rig: Rig) -> None:
    """After an event with an error no event of that job is delivered."""
    heard: list[Event] = []
    await rig.link.submit(job("req_1", n=2), heard.append)
    await until(lambda: rig.door.jobs)
    failure = JobFailure("invalid", "top_k is too large", "top_k")

    rig.door.send(event("req_1", "", 0, finish="error", error=failure))
    rig.door.send(event("req_1", "late", 1))
    await rig.link.submit(job("req_2"), heard.append)
    rig.door.send(event("req_2", "end", 1, finish="stop"))
    await until(lambda: len(heard) == 2)

    assert [e.error for e in heard] == [failure, None]


async def test_cancel_reaches_the_provider_while_the_job_is_open(rig: Rig) -> None:
    """A cancel travels for an open job and is silent for an unknown one."""
    await rig.link.submit(job("req_1"), lambda _: None)

    rig.link.cancel(RequestId("req_unknown"))
    rig.link.cancel(RequestId("req_1"))
    await until(lambda: rig.door.cancelled)

    assert rig.door.cancelled == ["req_1"]


async def test_a_closed_link_opens_again_for_the_next_job(rig: Rig) -> None:
    """A wire that was cut is opened anew by the next submit, or says it cannot be."""
    heard: list[Event] = []
    await rig.link.submit(job("req_1"), heard.append)
    await until(lambda: rig.door.jobs)
    await rig.link.close()
    await until(lambda: heard)

    await rig.link.submit(job("req_2"), heard.append)
    await until(lambda: len(rig.door.jobs) == 2)

    assert heard[0].error is not None


async def test_a_gateway_without_the_secret_is_never_heard() -> None:
    """A wrong wire secret opens nothing and reaches no job."""
    door = RecordingDoor()
    server = FramedServer(door, machine=MACHINE, secret=SECRET)
    host, port = await server.listen("127.0.0.1")
    link = FramedLink(host, port, machine=MACHINE, gateway=GATEWAY, secret=b"x" * 32)

    with pytest.raises(ConnectionError):
        await link.submit(job("req_1"), lambda _: None)

    assert (door.jobs, door.opened) == ([], [])
    await server.close()


async def test_a_link_refuses_another_machine_at_the_address() -> None:
    """A recycled port of another Mac is not mistaken for the granted one."""
    server = FramedServer(RecordingDoor(), machine=MachineId("mac_other"), secret=SECRET)
    host, port = await server.listen("127.0.0.1")
    link = FramedLink(host, port, machine=MACHINE, gateway=GATEWAY, secret=SECRET)

    with pytest.raises(ConnectionError):
        await link.submit(job("req_1"), lambda _: None)

    await server.close()


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff" + b"x" * 64,
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x02\x91\x63",
        pack_frame(Kind.SUBMIT, "req_1"),
        pack_frame(Kind.HELLO),
        pack_frame(Kind.HELLO, "gw", b"n", b"p"),
        pack_frame(Kind.HELLO, 5, None, []),
    ],
)
async def test_hostile_bytes_close_the_connection_and_nothing_else(hostile: bytes) -> None:
    """Bytes that are not our protocol end that connection; the next gateway is served."""
    door = RecordingDoor()
    server = FramedServer(door, machine=MACHINE, secret=SECRET)
    host, port = await server.listen("127.0.0.1")

    reader, writer = await asyncio.open_connection(host, port)
    writer.write(hostile)
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()
    link = FramedLink(host, port, machine=MACHINE, gateway=GATEWAY, secret=SECRET)
    await link.submit(job("req_1"), lambda _: None)
    await until(lambda: door.jobs)

    assert door.opened == [GATEWAY]
    await link.close()
    await server.close()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_frames_survive_any_split_of_the_bytes(size: int) -> None:
    """However the stream is cut, the same frames come out."""
    sent: list[Sequence[object]] = [[1, "a"], [b"x" * 50], []]
    stream = b"".join(pack_frame(Kind.EVENTS, *fields) for fields in sent)
    reader = FrameReader()

    got = [
        fields
        for i in range(0, len(stream), size)
        for _, fields in reader.feed(stream[i : i + size])
    ]

    assert got == sent


def test_the_framed_transport_works_on_uvloop() -> None:
    """Ray's actors run uvloop, whose transports are not asyncio's: a job still gets through."""

    async def exchange() -> list[Event]:
        door, heard = RecordingDoor(), list[Event]()
        server = FramedServer(door, machine=MACHINE, secret=SECRET)
        host, port = await server.listen("127.0.0.1")
        link = FramedLink(host, port, machine=MACHINE, gateway=GATEWAY, secret=SECRET)
        await link.submit(job("req_1"), heard.append)
        await until(lambda: door.jobs)
        door.send(event("req_1", "hi", 1, finish="stop"))
        await until(lambda: heard)
        await link.close()
        await server.close()
        return heard

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard = runner.run(exchange())

    assert [e.text for e in heard] == ["hi"]


def test_an_oversized_frame_is_refused_before_it_is_buffered() -> None:
    """A length beyond the limit raises at once, whatever follows."""
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(b"\x7f\xff\xff\xff"))
