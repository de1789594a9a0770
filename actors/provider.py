"""One Mac at work: the shell that carries out what `market.provider_state` decides.

It owns one engine, the transport's server side and the beat to the router. It decides
nothing about the market. When the process dies, Ray starts it again on the same machine
with a higher incarnation, and every gateway sees its connection end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from actors.transport.door import Outlet
from actors.transport.framed import FramedServer
from actors.transport.ray_stream import StreamServer
from market.errors import InvalidRequest, MarketError
from market.ports import Engine
from market.provider_state import (
    Announce,
    CancelJob,
    Deliver,
    Effect,
    ExitProcess,
    ProviderState,
    RestartEngine,
    failure_of,
)
from market.routing.messages import Endpoint, ProviderBeat, ProviderOrders
from market.settings import MacSettings
from market.types import Event, GatewayId, Job, RequestId

BEAT_S = 1.0
HEALTH_S = 0.5
DRAIN_POLL_S = 0.05

log = logging.getLogger("coster.provider")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """What one provider process is given at its start."""

    mac: MacSettings
    wire_secret: bytes
    code_version: str
    node: str = ""  # filled in by the process itself, which knows where it runs


class Provider:
    """The actor of one Mac; an undecorated class, so that it is tested without Ray."""

    def __init__(
        self,
        config: ProviderConfig,
        make_engine: Callable[[], Engine],
        beat: Callable[[ProviderBeat], Awaitable[ProviderOrders]],
        exit_process: Callable[[str], None],
    ) -> None:
        self._config = config
        self._make_engine = make_engine
        self._send_beat = beat
        self._exit_process = exit_process
        self._state = ProviderState()
        self._engine: Engine | None = None
        self._outlets: dict[GatewayId, Outlet] = {}
        self._server = FramedServer(self, machine=config.mac.machine, secret=config.wire_secret)
        self.streams = StreamServer(self)
        self._endpoint = Endpoint(config.mac.bind_host, 0)
        self._incarnation = time.time_ns()
        self._started_s = time.monotonic()
        self._announce = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    async def start(self) -> Endpoint:
        """Listen, begin to beat, and load the model in the background."""
        host, port = await self._server.listen(self._config.mac.bind_host)
        self._endpoint = Endpoint(host, port)
        self._spawn(self._beat_forever())
        self._spawn(self._watch_engine())
        self._spawn(self._load_engine(0.0))
        return self._endpoint

    async def stop(self, reason: str) -> None:
        """Fail what runs over to other Macs and free the engine. Idempotent."""
        self._carry_out(self._state.stop(reason))
        await asyncio.sleep(0)  # let the failures reach the sockets before they close
        await self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()
        self._gone.set()

    async def wait_forever(self) -> None:
        """Ends only with the process: a watcher learns of its death at once."""
        await self._gone.wait()

    async def drain(self, reason: str, deadline_s: float) -> bool:
        """Take nothing new and wait for what runs; True when all of it ended in time."""
        self._carry_out(self._state.drain(reason))
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + deadline_s
        while self._state.snapshot(loop.time()).in_flight_jobs:
            if loop.time() >= give_up_s:
                return False
            await asyncio.sleep(DRAIN_POLL_S)
        return True

    def describe(self) -> dict[str, object]:
        """Who this is, for `status`: pid, node, state and what it holds."""
        snapshot = self._state.snapshot(asyncio.get_running_loop().time())
        return {
            "role": "provider",
            "name": self._config.mac.name,
            "machine": self._config.mac.machine,
            "provider": self._config.mac.provider,
            "chip": self._config.mac.hardware.chip,
            "pid": os.getpid(),
            "node": self._config.node,
            "state": snapshot.state,
            "reason": snapshot.reason,
            "models": [facts.model for facts in snapshot.models],
            "jobs": snapshot.in_flight_jobs,
            "endpoint": f"{self._endpoint.host}:{self._endpoint.port}",
            "code_version": self._config.code_version,
            "uptime_s": time.monotonic() - self._started_s,
        }

    # ── what gateways say (actors.transport.door.ProviderDoor) ────────────────────────

    def gateway_opened(self, gateway: GatewayId, outlet: Outlet) -> None:
        self._outlets[gateway] = outlet

    def gateway_closed(self, gateway: GatewayId, outlet: Outlet) -> None:
        if self._outlets.get(gateway) is not outlet:
            return
        del self._outlets[gateway]
        gone = self._state.gateway_gone(gateway)
        if gone:
            log.info("gateway %s left with %d jobs; they are cancelled", gateway, len(gone))
        for request_id in gone:
            self._cancel(request_id)

    def job_submitted(self, gateway: GatewayId, job: Job) -> None:
        try:
            self._state.submit(job, gateway, asyncio.get_running_loop().time())
        except MarketError as error:
            self._refuse(gateway, job.request_id, error)
            return
        assert self._engine is not None, "a ready provider has an engine"
        try:
            self._engine.submit(job)
        except MarketError as error:
            self._carry_out(self._state.submit_failed(job.request_id))
            self._refuse(gateway, job.request_id, error)

    def job_cancelled(self, gateway: GatewayId, request_id: RequestId) -> None:
        self._carry_out(self._state.cancel(request_id, gateway))

    def stream_events(self, gateway: GatewayId) -> AsyncIterator[list[Event]]:
        """The fallback transport's stream for one gateway."""
        return self.streams.events(gateway)

    def _refuse(self, gateway: GatewayId, request_id: RequestId, error: MarketError) -> None:
        outlet = self._outlets.get(gateway)
        if outlet is not None:
            outlet.send([Event(request_id, 0, (), "", 0, "error", error=failure_of(error))])

    # ── the engine ────────────────────────────────────────────────────────────────────

    def _engine_stepped(self, events: Sequence[Event]) -> None:
        self._carry_out(self._state.events(events))

    def _cancel(self, request_id: RequestId) -> None:
        if self._engine is not None:
            self._engine.cancel(request_id)

    async def _load_engine(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._carry_out(self._state.restarting())
        old, self._engine = self._engine, None
        if old is not None:
            await old.close()
        try:
            # Both inside: an engine's constructor may already refuse a folder.
            engine = self._make_engine()
            facts = await engine.load(self._engine_stepped)
        except InvalidRequest as error:
            log.warning("the model cannot be served: %s", error)
            self._carry_out(self._state.load_failed(str(error), permanent=True))
        except Exception as error:
            log.exception("the model did not load")
            self._carry_out(self._state.load_failed(f"{type(error).__name__}: {error}"))
        else:
            self._engine = engine
            self._carry_out(self._state.loaded([facts]))

    async def _watch_engine(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_S)
            if self._engine is not None and not self._engine.healthy():
                log.error("the engine is no longer healthy; it is loaded again")
                self._carry_out(self._state.engine_unhealthy("it stopped making progress"))

    # ── effects ───────────────────────────────────────────────────────────────────────

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Deliver(gateway, events):
                    outlet = self._outlets.get(gateway)
                    if outlet is not None:
                        outlet.send(events)
                case CancelJob(request_id):
                    self._cancel(request_id)
                case RestartEngine(after_s):
                    self._spawn(self._load_engine(after_s))
                case Announce(state, reason):
                    log.info("%s %s", state, reason)
                    self._announce.set()
                case ExitProcess(reason):
                    self._exit_process(reason)
                case _:
                    assert_never(effect)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ── the beat ──────────────────────────────────────────────────────────────────────

    def _beat_now(self) -> ProviderBeat:
        mac = self._config.mac
        snapshot = self._state.snapshot(asyncio.get_running_loop().time())
        return ProviderBeat(
            machine=mac.machine,
            provider=mac.provider,
            owner=mac.owner,
            incarnation=self._incarnation,
            pid=os.getpid(),
            node=self._config.node,
            endpoint=self._endpoint,
            hardware=mac.hardware,
            state=snapshot.state,
            reason=snapshot.reason,
            models=snapshot.models,
            stats=self._engine.stats() if self._engine is not None else None,
            code_version=self._config.code_version,
            uptime_s=time.monotonic() - self._started_s,
        )

    async def _beat_forever(self) -> None:
        while True:
            self._announce.clear()
            try:
                orders = await self._send_beat(self._beat_now())
            except (ConnectionError, MarketError) as error:
                log.debug("the router did not take the beat: %s", error)
            else:
                if not orders.known:
                    self._exit_process("a newer incarnation of this machine is registered")
                    return
                self._carry_out(self._state.orders(drain=orders.drain))
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._announce.wait()
            except TimeoutError:
                continue
