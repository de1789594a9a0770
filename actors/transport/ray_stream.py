"""The fallback transport: one multiplexed stream of batches per gateway and provider.

It needs no port of ours: batches travel as items of one streaming actor call, never one
item per token. It knows no Ray; the doorway hands it three callables. A provider keeps a
stream only while its gateway renews the lease, because an owner that dies does not stop a
Ray generator by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from actors.transport.door import ProviderDoor
from actors.transport.sinks import Sinks
from market.types import Event, GatewayId, Job, RequestId

LEASE_S = 6.0
"""A gateway that has not renewed for this long is gone; its jobs are dropped."""
RENEW_S = 1.0
BACKLOG_EVENTS_MAX = 100_000
"""Undelivered events towards one gateway before it is cut off as stuck."""

LOST = "The stream from the provider ended."

log = logging.getLogger("coster.transport")


class StreamServer:
    """The provider's end: one `StreamOutlet` per gateway that asked for a stream."""

    def __init__(self, door: ProviderDoor) -> None:
        self._door = door
        self._outlets: dict[GatewayId, StreamOutlet] = {}

    async def events(self, gateway: GatewayId) -> AsyncIterator[list[Event]]:
        """All events for this gateway, a list per wake-up; an empty list is a beat.

        Ends when the gateway's lease lapses or a newer stream of the same gateway opens.
        """
        outlet = StreamOutlet()
        older = self._outlets.get(gateway)
        if older is not None:
            older.close()
        self._outlets[gateway] = outlet
        self._door.gateway_opened(gateway, outlet)
        try:
            yield []  # the client knows the stream is open before it submits
            while (batch := await outlet.next_batch()) is not None:
                yield batch
        finally:
            if self._outlets.get(gateway) is outlet:
                del self._outlets[gateway]
            self._door.gateway_closed(gateway, outlet)

    def renew(self, gateway: GatewayId) -> bool:
        """Extend the gateway's lease; False when it has no stream here any more."""
        outlet = self._outlets.get(gateway)
        if outlet is None:
            return False
        outlet.renew()
        return True

    def submit(self, gateway: GatewayId, job: Job) -> None:
        if gateway not in self._outlets:
            raise ConnectionError("no stream is open for this gateway")
        self._door.job_submitted(gateway, job)

    def cancel(self, gateway: GatewayId, request_id: RequestId) -> None:
        self._door.job_cancelled(gateway, request_id)


class StreamOutlet:
    """Events waiting for one gateway, with the lease that keeps them alive."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Event] = []
        self._wake = asyncio.Event()
        self._open = True
        self._lease_until_s = self._loop.time() + LEASE_S

    def send(self, events: Sequence[Event]) -> None:
        if not self._open:
            return
        self._waiting.extend(events)
        if len(self._waiting) > BACKLOG_EVENTS_MAX:
            log.warning("cutting off a gateway with %d unread events", BACKLOG_EVENTS_MAX)
            self.close()
        self._wake.set()

    def renew(self) -> None:
        self._lease_until_s = self._loop.time() + LEASE_S

    def close(self) -> None:
        self._open = False
        self._wake.set()

    async def next_batch(self) -> list[Event] | None:
        """What has gathered since the last call; None when the stream is over."""
        while self._open and not self._waiting:
            left_s = self._lease_until_s - self._loop.time()
            if left_s <= 0:
                self.close()
                break
            try:
                async with asyncio.timeout(min(left_s, RENEW_S)):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()
        if not self._open:
            return None
        batch, self._waiting = self._waiting, []
        self._wake.clear()
        return batch


class StreamLink:
    """The gateway's end over three callables: a `market.ports.ProviderLink`."""

    def __init__(
        self,
        *,
        open_stream: Callable[[], AsyncIterator[list[Event]]],
        submit: Callable[[Job], Awaitable[None]],
        cancel: Callable[[RequestId], None],
        renew: Callable[[], Awaitable[bool]],
    ) -> None:
        self._open_stream = open_stream
        self._submit = submit
        self._cancel = cancel
        self._renew = renew
        self._sinks = Sinks()
        self._pump_task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None

    async def submit(self, job: Job, on_event: Callable[[Event], None]) -> None:
        if self._pump_task is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._pump_task = asyncio.create_task(self._pump(self._opened))
        assert self._opened is not None
        await asyncio.shield(self._opened)
        self._sinks.add(job, on_event)
        try:
            await self._submit(job)
        except ConnectionError:
            self._sinks.forget(job.request_id)
            raise

    def cancel(self, request_id: RequestId) -> None:
        if request_id in self._sinks:
            self._cancel(request_id)

    async def close(self) -> None:
        if self._pump_task is not None:
            self._pump_task.cancel()
            await asyncio.gather(self._pump_task, return_exceptions=True)

    @property
    def connected(self) -> bool:
        return self._opened is not None and self._opened.done()

    async def _pump(self, opened: asyncio.Future[None]) -> None:
        renewing = asyncio.create_task(self._keep_lease())
        try:
            async for batch in self._open_stream():
                if not opened.done():
                    opened.set_result(None)
                self._sinks.deliver(batch)
        except ConnectionError as error:
            log.info("a provider's stream ended: %s", error)
        finally:
            renewing.cancel()
            self._pump_task = None
            self._opened = None
            if not opened.done():
                opened.set_exception(ConnectionError("the provider's stream did not open"))
                opened.exception()
            self._sinks.fail_all(LOST)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew()
            except ConnectionError as error:
                log.info("a lease could not be renewed: %s", error)
