"""The gateway's side of the actors: coalesced calls, the router's poll, provider links.

Knows no Ray: it is given callables. One `GatewayClients` lives in each gateway process and
implements the ports of `serve_app.ports` by having the same methods.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.calls import ROUTER, ActorAway, ActorCall, Coalescer, ignore_outcome
from market.errors import Unavailable
from market.ports import ProviderLink
from market.routing.messages import (
    Busy,
    GatewayBeat,
    Grant,
    ModelAvailability,
    Outcome,
    Quote,
    Refused,
    RouteRequest,
)
from market.routing.public import PublicFleet
from market.types import (
    Event,
    GatewayId,
    Job,
    MachineId,
    ModelId,
    RequestId,
)

ROUTER_S_MAX = 8.0
POLL_S = 2.0
AVAILABILITY_S = 1.0
COUNTERS_S = 1.0
"""Counters are sent along this often: with every poll they would be most of its bytes."""
CALIBRATION_REFRESHES = 5
"""Every so many refreshes of availability the calibration is asked for, too."""
LOST_IN_QUEUE = "unknown_request"
"""The code of a refusal that means: the router restarted and forgot this one; ask again."""

log = logging.getLogger("coster.gateway")


@dataclass(slots=True)
class _Waiting:
    request: RouteRequest
    since_s: float
    future: asyncio.Future[Grant]
    queued: bool = False


class RouterClient:
    """The router, with its long poll: queued requests are answered through it.

    It remembers each live grant until its outcome is reported and declares them with each
    poll, which is how a restarted router learns what is running.
    """

    def __init__(
        self,
        call: ActorCall,
        *,
        gateway: GatewayId,
        pid: int,
        node: str,
        counters: Callable[[], Mapping[str, float]],
    ) -> None:
        self._call = call
        self._gateway = gateway
        self._pid = pid
        self._node = node
        self._counters = counters
        self._counted_s = float("-inf")
        self._routes: Coalescer[RouteRequest, Grant | Busy] = Coalescer(
            call, "route", deadline_s=ROUTER_S_MAX, who=ROUTER
        )
        self._quotes: Coalescer[RouteRequest, Quote] = Coalescer(
            call, "quote", deadline_s=ROUTER_S_MAX, who=ROUTER
        )
        self._reports: Coalescer[Outcome, None] = Coalescer(
            call, "report", deadline_s=ROUTER_S_MAX, who=ROUTER
        )
        self._waiting: dict[RequestId, _Waiting] = {}
        self._running: dict[tuple[RequestId, int], tuple[MachineId, int]] = {}
        self._availability: Sequence[ModelAvailability] = ()
        self._calibration: Mapping[ModelId, Mapping[str, object]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.connected = False

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._poll_forever()),
            asyncio.create_task(self._refresh_forever()),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def route(self, request: RouteRequest) -> Grant | Busy:
        """Ask for a slot; with funding, wait for it (see `serve_app.ports.RouterPort`)."""
        if request.funding is None:
            try:
                reply = await self._routes.submit(request)
            except asyncio.CancelledError:
                # Nobody waits any more, for instance because admission refused: a grant
                # that is on its way is given back.
                self.report(self._abandoned(request.request_id, request.attempt, MachineId("")))
                raise
            if isinstance(reply, Grant):
                self._took(reply, request.n)
            return reply
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.time(), loop.create_future())
        self._waiting[request.request_id] = waiting
        try:
            await self._ask(waiting)
            async with asyncio.timeout(request.deadline_s + ROUTER_S_MAX):
                return await waiting.future
        except TimeoutError as error:
            raise Unavailable(
                f"No Mac became free within {request.deadline_s:.0f} s.",
                None,
                "deadline",
                5.0,
                True,
            ) from error
        finally:
            self._waiting.pop(request.request_id, None)
            if waiting.future.cancelled() or not waiting.future.done():
                # We no longer wait: leave the queue; a grant that still comes is given back.
                self.report(self._abandoned(request.request_id, request.attempt, MachineId("")))

    async def quote(self, request: RouteRequest) -> Quote:
        """What would become of the request. Raises Unavailable while the router is away."""
        return await self._quotes.submit(request)

    async def public_fleet(self, epoch: int) -> PublicFleet:
        """The public Macs of an epoch. Raises Unavailable while the router is away."""
        try:
            async with asyncio.timeout(ROUTER_S_MAX):
                fleet: PublicFleet = await self._call("public_fleet", epoch)
        except (ActorAway, TimeoutError) as error:
            raise Unavailable("The router does not answer.", None, "restarting", 1.0) from error
        return fleet

    async def told(self, request_id: RequestId) -> Mapping[str, Any] | None:
        """What is kept of the decisions on a request. Raises Unavailable while nobody answers."""
        try:
            story: Mapping[str, Any] | None = await self._call("told", request_id)
        except ActorAway as error:
            raise Unavailable(
                "The router does not answer; ask again.", None, "router_away", 1.0, True
            ) from error
        return story

    def report(self, outcome: Outcome) -> None:
        self._running.pop((outcome.request_id, outcome.attempt), None)
        ignore_outcome(self._reports.submit(outcome), lambda: "an outcome was not recorded")

    def availability(self) -> Sequence[ModelAvailability]:
        return self._availability

    def calibration(self) -> Mapping[ModelId, Mapping[str, object]]:
        return self._calibration

    async def _ask(self, waiting: _Waiting) -> None:
        left_s = waiting.request.deadline_s - (asyncio.get_running_loop().time() - waiting.since_s)
        request = replace(waiting.request, deadline_s=max(left_s, 0.1))
        if request.finish_by_s is not None:
            waited_s = waiting.request.deadline_s - left_s
            request = replace(request, finish_by_s=max(request.finish_by_s - waited_s, 0.0))
        reply = await self._routes.submit(request)
        if isinstance(reply, Grant):
            self._resolve(reply)
        else:
            waiting.queued = True

    def _took(self, grant: Grant, slots: int) -> None:
        self._running[(grant.request_id, grant.attempt)] = (grant.machine, slots)

    def _resolve(self, grant: Grant) -> None:
        waiting = self._waiting.get(grant.request_id)
        if waiting is None or waiting.future.done() or waiting.request.attempt != grant.attempt:
            if (grant.request_id, grant.attempt) not in self._running:
                self.report(self._abandoned(grant.request_id, grant.attempt, grant.machine))
            return
        self._took(grant, waiting.request.n)
        waiting.future.set_result(grant)

    def _abandoned(self, request_id: RequestId, attempt: int, machine: MachineId) -> Outcome:
        return Outcome(request_id, attempt, machine, "cancelled", final=True)

    def _beat(self) -> GatewayBeat:
        return GatewayBeat(
            gateway=self._gateway,
            pid=self._pid,
            node=self._node,
            running=tuple((r, a, m, n) for (r, a), (m, n) in self._running.items()),
            queued=tuple(r for r, w in self._waiting.items() if w.queued),
            counters=self._due_counters(),
        )

    def _due_counters(self) -> tuple[tuple[str, float], ...] | None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._counted_s < COUNTERS_S:
            return None
        self._counted_s = now_s
        return tuple(self._counters().items())

    async def _poll_forever(self) -> None:
        while True:
            try:
                notices = await self._call("poll", self._beat(), POLL_S)
                self.connected = True
            except (ActorAway, Unavailable):
                self.connected = False
                self._counted_s = float("-inf")  # whoever answers next knows none of them
                await asyncio.sleep(0.1)
                continue
            for notice in notices:
                if isinstance(notice, Grant):
                    self._resolve(notice)
                elif isinstance(notice, Refused):
                    self._refused(notice)

    def _refused(self, notice: Refused) -> None:
        waiting = self._waiting.get(notice.request_id)
        if waiting is None or waiting.future.done():
            return
        if getattr(notice.error, "code", None) == LOST_IN_QUEUE:
            waiting.queued = False
            ignore_outcome(asyncio.ensure_future(self._ask_again(waiting)), lambda: "asking again")
            return
        waiting.future.set_exception(notice.error)

    async def _ask_again(self, waiting: _Waiting) -> None:
        try:
            await self._ask(waiting)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiter must hear it
            if not waiting.future.done():
                waiting.future.set_exception(error)

    async def _refresh_forever(self) -> None:
        for number in itertools.count():
            try:
                self._availability = await self._call("availability")
                if number % CALIBRATION_REFRESHES == 0:
                    self._calibration = await self._call("calibration")
            except (ActorAway, Unavailable) as error:
                log.debug("availability is stale: %s", error)
            await asyncio.sleep(AVAILABILITY_S)


class ProviderLinks:
    """One link per provider, opened when first used and replaced when it moves."""

    def __init__(self, make_link: Callable[[Grant], ProviderLink]) -> None:
        self._make_link = make_link
        self._links: dict[MachineId, tuple[object, ProviderLink]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        known = self._links.get(grant.machine)
        if known is None or known[0] != grant.endpoint:
            if known is not None:
                # Jobs on the old endpoint are gone with the old incarnation.
                task = asyncio.create_task(known[1].close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            known = (grant.endpoint, self._make_link(grant))
            self._links[grant.machine] = known
        await known[1].submit(job, on_event)

    def cancel(self, grant: Grant, request_id: RequestId) -> None:
        known = self._links.get(grant.machine)
        if known is not None:
            known[1].cancel(request_id)

    async def close(self) -> None:
        for _, link in self._links.values():
            await link.close()
