"""The primary transport: one authenticated TCP connection per gateway and provider.

All requests of a gateway at a provider share it; events of one engine step leave as one
frame. Both sides prove knowledge of the market's wire secret before any job is read
(HMAC-SHA256 over both nonces, the gateway's id and the machine's id). The wire is not
encrypted: it stays on loopback or inside the operator's private network.

A side that hears nothing for `SILENCE_S_MAX` closes: a frozen peer is a dead peer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any, cast

from actors.transport.codec import (
    FrameReader,
    Kind,
    ProtocolError,
    events_from_wire,
    events_to_wire,
    job_from_wire,
    job_to_wire,
    pack_frame,
)
from actors.transport.door import ProviderDoor
from actors.transport.sinks import Sinks
from market.types import Event, GatewayId, Job, MachineId, RequestId

BEAT_S = 1.0
"""How often each side says it is alive."""
SILENCE_S_MAX = 6.0
"""A connection silent for this long is closed; its jobs are dropped."""
CONNECT_S_MAX = 3.0
"""Opening and proving a connection takes at most this long."""
OUTBOX_BYTES_MAX = 16 * 1024 * 1024
"""Unread bytes towards one gateway before it is cut off as stuck."""
NONCE_BYTES = 32
LOST = "The connection to the provider was lost."

log = logging.getLogger("coster.transport")


def _proof(secret: bytes, role: bytes, *parts: bytes) -> bytes:
    mac = hmac.new(secret, role, hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(4, "big") + part)
    return mac.digest()


class _Wire(asyncio.Protocol):
    """Frames over a socket, beats and the silence rule; both sides build on it."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._heard_s = self._loop.time()
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        try:
            for kind, fields in self._reader.feed(data):
                if kind is not Kind.BEAT:
                    self.on_frame(kind, fields)
        except (ProtocolError, TypeError, ValueError, IndexError) as error:
            log.warning("closing a connection: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self.on_lost(exc)

    def _beat(self) -> None:
        if self._loop.time() - self._heard_s > SILENCE_S_MAX:
            log.warning("closing a connection silent for %.0f s", SILENCE_S_MAX)
            self.abort()
            return
        self.write(pack_frame(Kind.BEAT))
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def write(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > OUTBOX_BYTES_MAX:
            log.warning("closing a connection with %d unread bytes", OUTBOX_BYTES_MAX)
            self.abort()
            return
        transport.write(frame)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def on_frame(self, kind: Kind, fields: list[Any]) -> None:
        raise AssertionError("a side defines what it hears")

    def on_lost(self, exc: Exception | None) -> None:
        raise AssertionError("a side defines what a loss means")


class _ProviderSide(_Wire):
    def __init__(self, server: FramedServer) -> None:
        super().__init__()
        self._server = server
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._gateway: GatewayId | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.sides.add(self)
        self.write(pack_frame(Kind.CHALLENGE, self._nonce, self._server.machine))
        self._loop.call_later(CONNECT_S_MAX, self._expect_proof)

    def _expect_proof(self) -> None:
        if self._gateway is None:
            self.abort()

    def on_frame(self, kind: Kind, fields: list[Any]) -> None:
        if self._gateway is None:
            self._prove(kind, fields)
        elif kind is Kind.SUBMIT:
            self._server.door.job_submitted(self._gateway, job_from_wire(fields))
        elif kind is Kind.CANCEL:
            self._server.door.job_cancelled(self._gateway, RequestId(str(fields[0])))
        else:
            raise ProtocolError(f"unexpected {kind.name} from a gateway")

    def _prove(self, kind: Kind, fields: list[Any]) -> None:
        if kind is not Kind.HELLO:
            raise ProtocolError("a gateway spoke before proving itself")
        gateway, nonce, proof = fields
        secret, machine = self._server.secret, self._server.machine.encode()
        want = _proof(secret, b"gateway", self._nonce, nonce, gateway.encode(), machine)
        if not hmac.compare_digest(want, proof):
            raise ProtocolError("a gateway failed to prove the wire secret")
        self._gateway = GatewayId(gateway)
        self.write(pack_frame(Kind.WELCOME, _proof(secret, b"provider", nonce, self._nonce)))
        self._server.door.gateway_opened(self._gateway, self)

    def send(self, events: Sequence[Event]) -> None:
        self.write(pack_frame(Kind.EVENTS, events_to_wire(events)))

    def on_lost(self, exc: Exception | None) -> None:
        self._server.sides.discard(self)
        if self._gateway is not None:
            self._server.door.gateway_closed(self._gateway, self)


class FramedServer:
    """Listens for gateways on behalf of one provider."""

    def __init__(self, door: ProviderDoor, *, machine: MachineId, secret: bytes) -> None:
        self.door = door
        self.machine = machine
        self.secret = secret
        self.sides: set[_ProviderSide] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int = 0) -> tuple[str, int]:
        """Bind; returns the address as bound. Port 0 takes any free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _ProviderSide(self), host, port)
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop listening and cut every gateway."""
        if self._server is not None:
            self._server.close()
        for side in list(self.sides):
            side.abort()


class _GatewaySide(_Wire):
    def __init__(self, link: FramedLink) -> None:
        super().__init__()
        self._link = link
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._provider_nonce = b""
        self.ready: asyncio.Future[None] = self._loop.create_future()

    def on_frame(self, kind: Kind, fields: list[Any]) -> None:
        if kind is Kind.EVENTS:
            if not self.ready.done():
                raise ProtocolError("a provider sent events before proving itself")
            self._link.deliver(events_from_wire(fields[0]))
        elif kind is Kind.CHALLENGE:
            self._answer(*fields)
        elif kind is Kind.WELCOME:
            want = _proof(self._link.secret, b"provider", self._nonce, self._provider_nonce)
            if not hmac.compare_digest(want, fields[0]):
                raise ProtocolError("the provider failed to prove the wire secret")
            if not self.ready.done():
                self.ready.set_result(None)
        else:
            raise ProtocolError(f"unexpected {kind.name} from a provider")

    def _answer(self, nonce: bytes, machine: str) -> None:
        if machine != self._link.machine:
            raise ProtocolError("another machine answers at this address")
        self._provider_nonce = nonce
        gateway = self._link.gateway
        proof = _proof(
            self._link.secret, b"gateway", nonce, self._nonce, gateway.encode(), machine.encode()
        )
        self.write(pack_frame(Kind.HELLO, gateway, self._nonce, proof))

    def on_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the provider closed the connection"))
            self.ready.exception()  # retrieved here too: the opener may have given up already
        self._link.lost(self)


class FramedLink:
    """A gateway's end of the connection to one provider: a `market.ports.ProviderLink`."""

    def __init__(
        self, host: str, port: int, *, machine: MachineId, gateway: GatewayId, secret: bytes
    ) -> None:
        self.host = host
        self.port = port
        self.machine = machine
        self.gateway = gateway
        self.secret = secret
        self._side: _GatewaySide | None = None
        self._opening: asyncio.Task[_GatewaySide] | None = None
        self._sinks = Sinks()

    async def submit(self, job: Job, on_event: Callable[[Event], None]) -> None:
        """Send a job, opening the connection first if needed."""
        side = self._side or await self._open()
        self._sinks.add(job, on_event)
        try:
            side.write(pack_frame(Kind.SUBMIT, *job_to_wire(job)))
        except ProtocolError:
            self._sinks.forget(job.request_id)
            raise
        if self._side is not side:
            self._sinks.fail(job.request_id, LOST)

    def cancel(self, request_id: RequestId) -> None:
        if self._side is not None and request_id in self._sinks:
            self._side.write(pack_frame(Kind.CANCEL, request_id))

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._side is not None:
            side = self._side
            side.abort()
            self.lost(side)

    @property
    def connected(self) -> bool:
        return self._side is not None

    async def _open(self) -> _GatewaySide:
        # One task opens for all that wait, so a burst makes one connection.
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[_GatewaySide]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> _GatewaySide:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, side = await loop.create_connection(
                    lambda: _GatewaySide(self), self.host, self.port
                )
                try:
                    await side.ready
                except BaseException:
                    side.abort()
                    raise
        except TimeoutError as error:
            raise ConnectionError("the provider did not answer in time") from error
        except OSError as error:
            raise ConnectionError(f"cannot reach the provider: {error}") from error
        self._side = side
        return side

    def deliver(self, events: Sequence[Event]) -> None:
        self._sinks.deliver(events)

    def lost(self, side: _GatewaySide) -> None:
        """The connection is gone: each open request hears it exactly once."""
        if self._side is side:
            self._side = None
            self._sinks.fail_all(LOST)
