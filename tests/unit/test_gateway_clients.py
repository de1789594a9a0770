"""The gateway's side of the actors, against actors that die, forget and answer late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.calls import ActorAway, Coalescer
from actors.clients import LOST_IN_QUEUE, ProviderLinks, RouterClient
from market.errors import PaymentRequired, Unavailable
from market.messages import Funding
from market.routing.messages import Busy, Endpoint, Grant, Outcome, Refused, RouteRequest
from market.routing.public import PublicFleet
from market.types import AccountId, Event, GatewayId, Job, MachineId, ModelId, ProviderId, RequestId

GATEWAY = GatewayId("gw_1")


class FakeActor:
    """An actor that does what a test says, per method, and remembers what it heard."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.answers = answers
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    async def __call__(self, method: str, *args: object) -> Any:
        self.heard.append((method, args))
        await asyncio.sleep(0)
        answer = self.answers[method](*args)
        return await answer if asyncio.iscoroutine(answer) else answer

    def batches(self, method: str) -> list[Any]:
        return [args[0] for name, args in self.heard if name == method]


def request(name: str = "req_1", *, funded: bool = False, deadline_s: float = 5.0) -> RouteRequest:
    return RouteRequest(
        RequestId(name),
        GATEWAY,
        AccountId("acct_1"),
        ModelId("m"),
        prompt_tokens=3,
        max_tokens=5,
        deadline_s=deadline_s,
        funding=Funding(1, 0) if funded else None,
    )


def grant(name: str = "req_1", attempt: int = 1, port: int = 1) -> Grant:
    return Grant(
        RequestId(name),
        attempt,
        MachineId("mac_1"),
        ProviderId("prv_1"),
        AccountId("acct_p"),
        Endpoint("127.0.0.1", port),
        1.0,
    )


def router(actor: FakeActor) -> RouterClient:
    client = RouterClient(actor, gateway=GATEWAY, pid=1, node="n", counters=dict)
    client.start()
    return client


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def quiet_poll(*_: object) -> list[Any]:
    await asyncio.sleep(0.02)
    return []


async def test_what_arrives_during_a_call_is_the_next_batch() -> None:
    """One batch is in flight at a time, order is kept, and each item gets its own reply."""
    actor = FakeActor(double=lambda items: [2 * item for item in items])
    calls: Coalescer[int, int] = Coalescer(actor, "double", deadline_s=1)

    replies = await asyncio.gather(*(calls.submit(number) for number in range(100)))

    assert replies == [2 * number for number in range(100)]
    assert [n for batch in actor.batches("double") for n in batch] == list(range(100))
    assert len(actor.batches("double")) < 5


async def test_one_refusal_in_a_batch_hurts_nobody_else() -> None:
    """An element that is an error is raised to its own caller only."""
    refusal = PaymentRequired("no money")
    actor = FakeActor(op=lambda items: [refusal if item == 1 else item for item in items])
    calls: Coalescer[int, int] = Coalescer(actor, "op", deadline_s=1)

    replies = await asyncio.gather(*(calls.submit(n) for n in range(3)), return_exceptions=True)

    assert replies == [0, refusal, 2]


async def test_a_batch_that_breaks_does_not_strand_the_next_one() -> None:
    """An unexpected failure is heard by its callers; what queued behind them is still sent."""

    def answer(items: list[int]) -> list[int]:
        if 0 in items:
            raise TypeError("a defect")
        return items

    calls: Coalescer[int, int] = Coalescer(FakeActor(op=answer), "op", deadline_s=1)
    broken = calls.submit(0)
    await asyncio.sleep(0)
    behind = calls.submit(1)

    async with asyncio.timeout(5):
        with pytest.raises(TypeError):
            await broken
        assert await behind == 1


async def test_a_batch_is_repeated_while_the_actor_is_away() -> None:
    """A restart in the middle is not seen by the callers."""
    failures = iter([True, True, False])

    def answer(items: list[int]) -> list[int]:
        if next(failures):
            raise ActorAway("restarting")
        return items

    calls: Coalescer[int, int] = Coalescer(FakeActor(op=answer), "op", deadline_s=5)

    assert await calls.submit(7) == 7


async def test_an_actor_that_stays_away_is_unavailable_not_a_hang() -> None:
    """After the deadline every caller hears 503 with a time to come back, and who was away in
    words of its own, not the name of a method.
    """

    def away(_: object) -> None:
        raise ActorAway("gone")

    calls: Coalescer[int, int] = Coalescer(
        FakeActor(op=away), "op", deadline_s=0.1, who="The market's ledger"
    )

    with pytest.raises(Unavailable) as refused:
        await calls.submit(1)
    assert refused.value.retry_after_s
    assert refused.value.message == "The market's ledger does not answer now; try again."


async def test_a_grant_for_a_caller_that_left_is_given_back() -> None:
    """Cancelling an unfunded route reports the request as cancelled, so no slot leaks."""
    actor = FakeActor(
        route=lambda items: [grant() for _ in items],
        report=lambda items: [None] * len(items),
        poll=quiet_poll,
        availability=list,
    )
    client = router(actor)

    asking = asyncio.create_task(client.route(request()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: actor.batches("report"))
    await client.close()

    (outcome,) = actor.batches("report")[0]
    assert (outcome.request_id, outcome.result, outcome.final) == ("req_1", "cancelled", True)


async def test_a_queued_request_gets_its_grant_through_the_poll() -> None:
    """Busy with funding means waiting; the poll's grant ends the wait and is declared."""
    mail = [[], [grant()]]

    async def poll(*_: object) -> list[Any]:
        await asyncio.sleep(0.01)
        return mail.pop(0) if mail else []

    actor = FakeActor(
        route=lambda items: [Busy(items[0].request_id, 1)], poll=poll, availability=list
    )
    client = router(actor)

    got = await client.route(request(funded=True))
    await until(lambda: any(b.running for b in actor.batches("poll")))
    await client.close()

    assert got == grant()
    assert actor.batches("poll")[-1].running == (("req_1", 1, "mac_1", 1),)


async def test_a_router_that_forgot_a_request_is_asked_again() -> None:
    """After its restart the router refuses what it does not know; the client asks anew."""
    answers = [Busy(RequestId("req_1"), 1), grant()]
    mail = [[Refused(RequestId("req_1"), Unavailable("?", None, LOST_IN_QUEUE))]]

    async def poll(*_: object) -> list[Any]:
        await asyncio.sleep(0.02)
        return mail.pop(0) if mail else []

    actor = FakeActor(
        route=lambda items: [answers.pop(0) for _ in items], poll=poll, availability=list
    )
    client = router(actor)

    assert await client.route(request(funded=True)) == grant()
    await client.close()
    assert len(actor.batches("route")) == 2


async def test_a_refusal_in_the_queue_reaches_the_waiter() -> None:
    """A queue timeout decided by the router is the error the caller sees."""
    refusal = Unavailable("queue", None, "queue_timeout", 3.0)
    mail = [[Refused(RequestId("req_1"), refusal)]]

    async def poll(*_: object) -> list[Any]:
        await asyncio.sleep(0.02)
        return mail.pop(0) if mail else []

    actor = FakeActor(
        route=lambda items: [Busy(items[0].request_id, 1)],
        poll=poll,
        report=lambda items: [None] * len(items),
        availability=list,
    )
    client = router(actor)

    with pytest.raises(Unavailable, match="queue"):
        await client.route(request(funded=True))
    await client.close()


async def test_a_grant_is_declared_until_its_outcome_is_reported() -> None:
    """What a restarted router rebuilds from is exactly the grants not yet given back."""
    actor = FakeActor(
        route=lambda items: [grant(item.request_id) for item in items],
        report=lambda items: [None] * len(items),
        poll=quiet_poll,
        availability=list,
    )
    client = router(actor)
    for name in ("req_1", "req_2"):
        await client.route(request(name))

    client.report(Outcome(RequestId("req_1"), 1, MachineId("mac_1"), "ok", final=True))
    await until(lambda: actor.batches("poll")[-1].running)
    await until(lambda: len(actor.batches("poll")[-1].running) == 1)
    await client.close()

    assert actor.batches("poll")[-1].running == (("req_2", 1, "mac_1", 1),)


class FakeLink:
    """A link that remembers."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.closed = False

    async def submit(self, job: Job, on_event: Callable[[Event], None]) -> None:
        self.jobs.append(job)

    def cancel(self, request_id: RequestId) -> None: ...

    async def close(self) -> None:
        self.closed = True


async def test_a_moved_provider_gets_a_new_link_and_the_old_one_is_closed() -> None:
    """One link per provider, replaced when a restart moves its endpoint."""
    made: list[FakeLink] = []

    def make(_: Grant) -> FakeLink:
        made.append(FakeLink())
        return made[-1]

    links = ProviderLinks(make)
    job = Job(RequestId("req_1"), ModelId("m"), (1,), 1)
    await links.submit(grant(port=1), job, lambda _: None)
    await links.submit(grant(port=1), job, lambda _: None)
    await links.submit(grant(port=2), job, lambda _: None)
    await asyncio.sleep(0)

    assert [len(link.jobs) for link in made] == [2, 1]
    assert [link.closed for link in made] == [True, False]
    await links.close()


async def test_quotes_of_one_moment_travel_together() -> None:
    """A call with fallbacks asks for all its models in one message, each with its own answer."""
    actor = FakeActor(
        quote=lambda items: [f"quote of {item.request_id}" for item in items],
        poll=quiet_poll,
        availability=list,
        calibration=dict,
    )
    client = router(actor)
    try:
        quotes = await asyncio.gather(*(client.quote(request(f"r{n}")) for n in range(4)))
    finally:
        await client.close()

    assert quotes == [f"quote of r{n}" for n in range(4)]
    assert [len(batch) for batch in actor.batches("quote")] == [4]


async def test_calibration_comes_from_cache() -> None:
    """It is refreshed beside availability and never asked for by a reader."""
    known = {"m": {"requests": 1}}
    actor = FakeActor(poll=quiet_poll, availability=list, calibration=lambda: known)
    client = router(actor)
    try:
        assert client.calibration() == {}
        await until(client.calibration)
        assert client.calibration() == known
    finally:
        await client.close()


async def test_whoever_asks_again_has_less_time_left() -> None:
    """A router that has forgotten a waiting request is told what remains of its deadline."""
    asked: list[RouteRequest] = []
    letters: list[list[Any]] = []

    def route(items: list[RouteRequest]) -> list[Any]:
        asked.extend(items)
        if len(asked) == 1:
            lost = Unavailable("lost", None, LOST_IN_QUEUE)
            letters.append([Refused(RequestId("req_1"), lost)])
            return [Busy(RequestId("req_1"), 1)]
        return [grant()]

    async def poll(*_: object) -> list[Any]:
        await asyncio.sleep(0.05)
        return letters.pop() if letters else []

    actor = FakeActor(route=route, poll=poll, availability=list, calibration=dict)
    client = router(actor)
    try:
        await client.route(replace(request(funded=True), finish_by_s=3.0))
    finally:
        await client.close()

    first, second = asked
    assert first.finish_by_s == pytest.approx(3.0, abs=0.04)
    assert second.finish_by_s is not None
    assert second.deadline_s < first.deadline_s
    spent_s = first.deadline_s - second.deadline_s
    assert first.finish_by_s - second.finish_by_s == pytest.approx(spent_s)


async def test_counters_go_along_once_a_second_and_to_whoever_knows_none() -> None:
    """Polls are many and counters large; a router that was away is told them at once."""
    turns = iter(["", "", "away", "", ""])

    async def poll(*_: object) -> list[Any]:
        await asyncio.sleep(0.005)
        if next(turns, "") == "away":
            raise ActorAway("restarting")
        return []

    actor = FakeActor(poll=poll, availability=list, calibration=dict)
    counted = {"things_total": 3.0}
    client = RouterClient(actor, gateway=GATEWAY, pid=1, node="n", counters=lambda: counted)
    client.start()
    await until(lambda: len(actor.batches("poll")) >= 5)
    await client.close()

    told = [beat.counters for beat in actor.batches("poll")[:5]]
    assert told == [(("things_total", 3.0),), None, None, (("things_total", 3.0),), None]


async def test_who_asks_for_the_public_fleet_is_told_when_nobody_answers() -> None:
    """The router's fleet of that epoch, or Unavailable: never an empty one."""
    fleet = PublicFleet((), frozenset({MachineId("mac_1")}))
    asked = FakeActor(public_fleet=lambda epoch: (epoch, fleet))
    client = RouterClient(asked, gateway=GATEWAY, pid=1, node="n", counters=dict)
    assert await client.public_fleet(60) == (60, fleet)

    def away(_: int) -> PublicFleet:
        raise ActorAway("restarting")

    client = RouterClient(
        FakeActor(public_fleet=away), gateway=GATEWAY, pid=1, node="n", counters=dict
    )
    with pytest.raises(Unavailable):
        await client.public_fleet(60)
