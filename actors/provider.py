"""One Mac at work: the shell that carries out what `market.provider_state` decides.

It owns the engines, one per model, the transport's server side and the beat to the router. It
decides nothing about the market. When the process dies, Ray starts it again on the same machine
with a higher incarnation, and every gateway sees its connection end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from actors.hosting import Hosting
from actors.transport.door import Outlet
from actors.transport.framed import FramedServer
from actors.transport.ray_stream import StreamServer
from market.errors import InvalidRequest, MarketError
from market.hardware import GIB
from market.ports import Engine
from market.provider_places import Load, Offer, Unload
from market.provider_state import (
    Announce,
    CancelJob,
    Deliver,
    Effect,
    ExitProcess,
    ProviderState,
    failure_of,
)
from market.routing.messages import Endpoint, Place, ProviderBeat, ProviderOrders
from market.settings import MacSettings
from market.types import EngineStats, Event, GatewayId, Job, ModelId, RequestId

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
    phase_s: float = 0.0  # when it beats; those with the same one beat together


class Provider:
    """The actor of one Mac; an undecorated class, so that it is tested without Ray."""

    def __init__(
        self,
        config: ProviderConfig,
        offer: Offer,
        make_engine: Callable[[ModelId], Engine],
        beat: Callable[[ProviderBeat], Awaitable[ProviderOrders]],
        exit_process: Callable[[str], None],
    ) -> None:
        self._config = config
        self._offer = offer
        self._send_beat = beat
        self._exit_process = exit_process
        self._state = ProviderState(offer)
        self._hosting = Hosting(make_engine, self._engine_stepped)
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
        """Listen and begin to beat; what to load is in the router's answer."""
        host, port = await self._server.listen(self._config.mac.bind_host)
        self._endpoint = Endpoint(host, port)
        self._spawn(self._beat_forever())
        self._spawn(self._watch())
        return self._endpoint

    async def stop(self, reason: str) -> None:
        """Fail what runs over to other Macs and free the engines. Idempotent."""
        self._carry_out(self._state.stop(reason))
        await asyncio.sleep(0)  # let the failures reach the sockets before they close
        await self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hosting.close()
        self._gone.set()

    async def wait_forever(self) -> None:
        """Ends only with the process: a watcher learns of its death at once."""
        await self._gone.wait()

    async def drain(self, reason: str, deadline_s: float) -> bool:
        """Take nothing new and wait for what runs; True when all of it ended in time."""
        loop = asyncio.get_running_loop()
        self._carry_out(self._state.drain(reason, loop.time()))
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
            "places": {place.model: place.state for place in snapshot.places},
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
        self._carry_out(gone)

    def job_submitted(self, gateway: GatewayId, job: Job) -> None:
        now_s = asyncio.get_running_loop().time()
        try:
            self._state.submit(job, gateway, now_s)
        except MarketError as error:
            self._refuse(gateway, job.request_id, error)
            return
        try:
            self._hosting.submit(job)
        except MarketError as error:
            self._carry_out(self._state.submit_failed(job.request_id, now_s))
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

    # ── the engines ───────────────────────────────────────────────────────────────────

    def _engine_stepped(self, events: Sequence[Event]) -> None:
        self._carry_out(self._state.events(events, asyncio.get_running_loop().time()))

    async def _load(self, model: ModelId) -> None:
        now_s = asyncio.get_running_loop().time
        try:
            facts = await self._hosting.load(model)
        except InvalidRequest as error:
            log.warning("%s cannot be served: %s", model, error)
            self._carry_out(self._state.load_failed(model, str(error), now_s(), permanent=True))
        except Exception as error:
            log.exception("%s did not load", model)
            message = f"{type(error).__name__}: {error}"
            self._carry_out(self._state.load_failed(model, message, now_s()))
        else:
            self._carry_out(self._state.loaded(facts, now_s()))

    async def _unload(self, model: ModelId) -> None:
        try:
            await self._hosting.unload(model)
        except TimeoutError:
            self._exit_process(f"the engine of {model} does not close")
        else:
            self._carry_out(self._state.unloaded(model, asyncio.get_running_loop().time()))

    async def _watch(self) -> None:
        """See that the engines make progress, and that what waits for its time gets it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEALTH_S)
            for model in self._hosting.unhealthy():
                log.error("the engine of %s is no longer healthy; it is loaded again", model)
                said = "it stopped making progress"
                self._carry_out(self._state.engine_unhealthy(model, said, loop.time()))
            self._carry_out(self._state.tick(loop.time()))

    # ── effects ───────────────────────────────────────────────────────────────────────

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Deliver(gateway, events):
                    outlet = self._outlets.get(gateway)
                    if outlet is not None:
                        outlet.send(events)
                case CancelJob(request_id, model):
                    self._hosting.cancel(model, request_id)
                case Load(model):
                    self._spawn(self._load(model))
                case Unload(model):
                    self._spawn(self._unload(model))
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
        stats = self._hosting.stats()
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
            stats=stats,
            code_version=self._config.code_version,
            uptime_s=time.monotonic() - self._started_s,
            places=tuple(self._measured(place) for place in snapshot.places),
            memory_bytes=self._memory_bytes(stats),
            load_bytes_per_s=self._hosting.load_bytes_per_s,
            ask_pct=mac.ask_pct,
            trust=mac.trust,
            allowed=mac.models,
            private=mac.private,
            name=mac.name,
        )

    def _measured(self, place: Place) -> Place:
        """A place with its engine's reading, where it has an engine that serves."""
        if place.state not in ("ready", "leaving"):
            return place
        return replace(place, stats=self._hosting.stats_of(place.model))

    def _memory_bytes(self, stats: EngineStats | None) -> int:
        """What an engine has found there is, else what was expected; never more than the Mac."""
        found = stats.memory_bytes_budget if stats is not None else 0
        return min(found or self._offer.memory_bytes, self._config.mac.hardware.memory_gb * GIB)

    async def _beat_forever(self) -> None:
        while True:
            self._announce.clear()
            again_s = BEAT_S
            try:
                orders = await self._send_beat(self._beat_now())
            except (ConnectionError, MarketError) as error:
                log.debug("the router did not take the beat: %s", error)
            else:
                if not orders.known:
                    self._exit_process("a newer incarnation of this machine is registered")
                    return
                again_s = orders.again_s
                now_s = asyncio.get_running_loop().time()
                self._carry_out(
                    self._state.orders(drain=orders.drain, models=orders.models, now_s=now_s)
                )
            next_s = following_s(asyncio.get_running_loop().time(), again_s, self._config.phase_s)
            try:
                async with asyncio.timeout_at(next_s):
                    await self._announce.wait()
            except TimeoutError:
                continue


def following_s(now_s: float, every_s: float, phase_s: float) -> float:
    """The next moment of a clock that ticks `phase_s` after each multiple of `every_s`.

    Always after `now_s`: where rounding makes the present a tick, the next one is meant.
    """
    next_s = (math.floor((now_s - phase_s) / every_s) + 1) * every_s + phase_s
    return next_s if next_s - now_s > every_s * 1e-7 else next_s + every_s
