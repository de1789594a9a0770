"""The gateway app: one ASGI callable, hot routes answered raw, the rest by FastAPI."""

from __future__ import annotations

import asyncio
import logging
import os

from market.errors import Internal, MarketError
from serve_app import metric_names
from serve_app.asgi import App, Bodies, Message, Receive, Scope, Send, send_error
from serve_app.desk import Desk
from serve_app.faults import describe_fault
from serve_app.inference import Inference
from serve_app.limits import Limits
from serve_app.parameters import Kind
from serve_app.ports import GatewayPorts
from serve_app.public_figures import PublicFigures
from serve_app.request_ids import RANDOM_BYTES, echoed_id, new_request_id
from serve_app.routes import build_routes
from serve_app.routes_public import open_to_all

_log = logging.getLogger("coster.door")
HOT: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
UNCOUNTED = frozenset({"/health", "/readyz", "/v1/accounts", "/v1/payments/webhook"})
"""Paths that need no key and have no limit per address, or one of their own."""
CLOSE_S = 10.0  # how long a stopping gateway waits for its requests, and then its books


class GatewayApp:
    """The ASGI app of one gateway process."""

    def __init__(self, ports: GatewayPorts, limits: Limits) -> None:
        self._desk = Desk.of(ports, limits)
        bodies = Bodies(limits)
        self._inference = Inference(self._desk, bodies)
        self.figures = PublicFigures(ports, self._desk.counters)
        self._routes: App = build_routes(
            self._desk, bodies, self._inference.preparing, self.figures
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event: a request, or the server's start and stop."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def counters(self) -> dict[str, float]:
        """Cumulative metrics of this process, by the names of `metric_names`.

        What has no labels, or known ones, is there from the beginning: a count that appears as 1
        is no increase to whoever watches it.
        """
        return {**metric_names.ZEROS, **self._desk.counters.snapshot()}

    @property
    def running(self) -> int:
        """Inference requests under way."""
        return self._inference.running

    def start(self) -> None:
        """Begin what goes on without requests: snapshots of the public figures. Idempotent."""
        self.figures.start()

    async def end_all(self, reason: str) -> None:
        """End every inference request now, and refuse those that come after.

        `reason` is a sentence for the clients. A stream ends with the terminal event: code
        `draining`, finish_reason "error", [DONE]; a request of which nothing was written
        gets 503 with Retry-After. As when a Mac is lost, nobody pays; an answer that is
        complete and being charged is finished. Takes at most 2 seconds (2 x END_S): a
        client that does not read is then dropped. `close` waits for the books.
        """
        await self._inference.end_all(reason)

    async def close(self) -> None:
        """Let requests end for `CLOSE_S`, end the others, wait for the books. Idempotent."""
        await self._inference.close(CLOSE_S)
        await self.figures.close()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id(self._desk.ports.clock.now_s(), os.urandom(RANDOM_BYTES))
        theirs, stranger = None, scope["path"] not in UNCOUNTED
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                theirs = value
            elif name == b"authorization":
                stranger = False
        ours = request_id.encode()
        ids = [(b"x-request-id", echoed_id(theirs, request_id).encode())]
        ids.append((b"x-coster-request-id", ours))
        ids += open_to_all(scope["path"])
        started = False

        async def with_ids(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(scope, message["status"])
                message["headers"] = [*message.get("headers", ()), *ids]
            await send(message)

        try:
            if stranger:
                self._desk.door.stranger(scope)
        except MarketError as error:
            self._desk.measures.rejected("stranger", error.code or error.type)
            await send_error(send, error, ids)
            return
        try:
            hot = HOT.get(scope["path"])
            if hot is not None and scope["method"] == "POST":
                await self._inference.serve(hot, scope, receive, send, request_id, ids)
            else:
                await self._routes(scope, receive, with_ids)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  the HTTP boundary: recorded, then answered
            self._desk.counters.add(metric_names.INTERNAL_ERRORS)
            _log.error(
                "a request failed: %s", describe_fault(error), extra={"request_id": request_id}
            )
            if not started:
                shown = error if isinstance(error, MarketError) else _internal()
                await send_error(send, shown, ids)

    def _count(self, scope: Scope, status: int) -> None:
        """By the route's own pattern: paths are the caller's, patterns are ours."""
        route = getattr(scope.get("route"), "path", "unknown")
        key = metric_names.labelled(metric_names.API_REQUESTS, route=route, status=status)
        self._desk.counters.add(key)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _internal() -> Internal:
    return Internal("An internal error; it has been recorded.")


def create_app(ports: GatewayPorts, limits: Limits | None = None) -> GatewayApp:
    """The gateway over these ports. Call it once per process, on no particular loop."""
    return GatewayApp(ports, limits or Limits())
