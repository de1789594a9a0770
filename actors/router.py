"""The router actor: a thin shell that gives `RouterState` its clock, its store and its loop.

An undecorated class, tested as plain asyncio; the doorway to Ray wraps it. Between reading
the state and changing it nothing is awaited, so concurrent calls cannot interleave there.
Its live state is soft and its store is its own: neither ever touches the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from actors.router_operator import OperatorMethods
from market.errors import Internal, MarketError
from market.routing.messages import (
    Busy,
    GatewayBeat,
    Grant,
    ModelAvailability,
    Outcome,
    ProviderBeat,
    ProviderOrders,
    Quote,
    Refused,
    RouteRequest,
)
from market.routing.public import PublicFleet
from market.routing.state import BEAT_S
from market.types import MachineId

POLL_S_MAX = 5.0
"""No poll is held longer, whatever the gateway asks for: its lease is renewed by polling."""

EPOCHS_KEPT = 8
"""Snapshots of the public fleet that are remembered, the newest."""

log = logging.getLogger("coster.router")


class Router(OperatorMethods):
    """Routes requests to Macs. Call `start` first; every method is safe to call twice."""

    def __init__(self, path: Path, **more: Any) -> None:
        """As RouterCore."""
        super().__init__(path, **more)
        self._public: dict[int, PublicFleet] = {}

    # ── gateways ──────────────────────────────────────────────────────────────────────

    async def route(self, requests: list[RouteRequest]) -> list[Grant | Busy | MarketError]:
        """A reply for each request, in order. Busy: queued, if it carried funding."""
        replies = self._state.route(requests, time.monotonic())
        self._after()
        return replies

    async def report(self, outcomes: list[Outcome]) -> list[None]:
        """Take the ends of attempts in."""
        self._state.report(outcomes, time.monotonic())
        self._after()
        return [None] * len(outcomes)

    async def poll(self, beat: GatewayBeat, wait_s: float = 2.0) -> list[Grant | Refused]:
        """Answers for a gateway's queued requests, at once or within `wait_s`.

        A newer poll of the same gateway ends an older one, which then delivers nothing.
        """
        self._state.beat_gateway(beat, time.monotonic())
        self._after()
        mail = self._state.take_mail(beat.gateway)
        if mail:
            return mail
        arrived = asyncio.Event()
        older = self._polls.get(beat.gateway)
        self._polls[beat.gateway] = arrived
        if older is not None:
            older.set()
        try:
            async with asyncio.timeout(min(wait_s, POLL_S_MAX)):
                await arrived.wait()
        except TimeoutError:
            return []
        finally:
            is_newest = self._polls.get(beat.gateway) is arrived
            if is_newest:
                del self._polls[beat.gateway]
        return self._state.take_mail(beat.gateway) if is_newest else []

    async def quote(self, requests: list[RouteRequest]) -> list[Quote]:
        """What would become of each request, in order; nothing changes by asking."""
        return self._state.quote(requests, time.monotonic())

    async def public_fleet(self, epoch: int) -> PublicFleet:
        """The public Macs as they were when this epoch was first asked for: every gateway that
        shows figures of one epoch shows the same ones.
        """
        known = self._public.get(epoch)
        if known is None:
            known = self._public[epoch] = self._state.public_fleet(time.monotonic())
            while len(self._public) > EPOCHS_KEPT:
                del self._public[next(iter(self._public))]
        return known

    async def availability(self) -> list[ModelAvailability]:
        return self._state.availability(time.monotonic())

    # ── Macs ──────────────────────────────────────────────────────────────────────────

    async def heartbeat(self, beat: ProviderBeat) -> ProviderOrders:
        """Take a Mac's declaration in and answer with its orders."""
        orders = self._state.beat_provider(beat, time.monotonic())
        if orders.again_s < BEAT_S:
            self._planning.look_now()
        self._after()
        return orders

    async def heartbeats(self, beats: list[ProviderBeat]) -> list[ProviderOrders | MarketError]:
        """The beats of Macs that share a process, and the answer to each: a call costs far more
        than a beat.
        """
        answers: list[ProviderOrders | MarketError] = []
        for beat in beats:
            try:
                answers.append(await self.heartbeat(beat))
            except Exception as error:
                log.exception("a beat of %s could not be taken in", beat.machine)
                answers.append(Internal(f"its beat could not be taken in: {error!r}"))
        return answers

    async def machine_lost(self, machine: MachineId, reason: str) -> None:
        """A death notice: the process of this Mac's provider is gone."""
        log.warning("%s is lost: %s", machine, reason)
        self._state.machine_lost(machine, reason, time.monotonic())
        self._after()

    async def close_door(self) -> int:
        """Take no new requests; returns how many are not done yet."""
        return self._state.close_door()
