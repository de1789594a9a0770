"""The hot path: raw ASGI for the two inference routes, from bytes to a `Run`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from market.errors import MarketError, Unavailable
from market.keys import INFERENCE
from market.types import RequestId
from serve_app import metric_names
from serve_app.asgi import Bodies, ClientLeftError, Receive, Scope, Send, send_error
from serve_app.desk import Desk
from serve_app.endings import draining
from serve_app.envelope import Headers
from serve_app.fallbacks import Fallbacks
from serve_app.faults import describe_fault
from serve_app.hold import ReplayedError
from serve_app.parameters import Kind
from serve_app.preferences import contradiction
from serve_app.preparing import Preparing
from serve_app.recording import Recording
from serve_app.replay import send_again
from serve_app.run import Run
from serve_app.sealed import read_key
from serve_app.turns import Turns, Visit
from serve_app.wishes import ROUTE_HEADER

_log = logging.getLogger("coster.door")
_GATES = {401: "key", 403: "key", 429: "limits", 503: "capacity"}
"""Which gate it was that refused a request before it became a run, by the error's status."""
END_S = 1.0  # how long ended requests may take to say so, before and after being cut off


class Inference:
    """Serves inference calls and looks after those that run."""

    def __init__(self, desk: Desk, bodies: Bodies) -> None:
        self._desk = desk
        self._bodies = bodies
        self._running: set[Run] = set()
        self._lives = 0
        self._taken = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: MarketError | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self.preparing = Preparing(desk)

    @property
    def running(self) -> int:
        return self._taken

    async def serve(
        self,
        kind: Kind,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: RequestId,
        id_headers: Headers,
    ) -> None:
        """Answer one call. Raises only CancelledError."""
        self._taken += 1
        try:
            status = await self._serve(kind, scope, receive, send, request_id, id_headers)
            self._count(kind, status)
        except ClientLeftError:
            self._desk.counters.add(metric_names.CLIENTS_LEFT)
        except MarketError as error:
            self._count(kind, error.status)
            self._note(error, request_id)
            await send_error(send, error, id_headers)
        finally:
            self._taken -= 1

    async def _serve(
        self,
        kind: Kind,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: RequestId,
        id_headers: Headers,
    ) -> int:
        """Answer one call and return its status; raises what is to be answered instead."""
        desk = self._desk
        started_s = desk.ports.clock.monotonic_s()
        if self._taken > desk.limits.requests_in_flight:
            raise Unavailable(
                f"This gateway already serves {desk.limits.requests_in_flight} requests.",
                None,
                "busy",
                1.0,
            )
        headers = dict(scope["headers"])
        key_hash, key = await desk.identify(scope, (INFERENCE,), fresh=False)
        own = read_key(scope["headers"])
        body = await self._bodies.read(headers, receive)
        route = headers.get(ROUTE_HEADER.encode())
        begun = await self.preparing.begin(kind, body, route, key.account)
        wishes = begun.call.wishes
        if wishes.preferences.own is not None:  # which machines are one's own may have changed
            key_hash, key = await desk.identify(scope, (INFERENCE,))
            wishes = wishes.owned(key.machines)
        if self._ended is not None:
            raise self._ended
        recording = None
        if own is not None:
            if wishes.private is not None:
                raise contradiction(wishes.private, "Idempotency-Key", "its answer is kept")
            sealer = desk.ports.sealer
            own_key = sealer.own_key(key.account, own, scope["path"], body)
            recording = Recording(own_key, sealer, desk.limits)
        fallbacks = Fallbacks(desk, self.preparing, begun, wishes, key, started_s, len(body))
        beats = headers.get(b"x-coster-heartbeat", b"").strip().lower() != b"off"
        visit = Visit(request_id, key_hash, key, started_s, send, id_headers, beats, recording)
        turns = Turns(desk, begun.call, fallbacks, visit)
        if recording is None:
            await self._run(turns, receive)
            return turns.status
        try:
            await self._record(turns, recording, receive, send)
        except ReplayedError as before:
            return await send_again(
                desk, key.account, recording.own_key, before.replay, send, id_headers
            )
        return turns.status

    async def end_all(self, reason: str) -> None:
        """End what runs and refuse what comes; see `GatewayApp.end_all`."""
        self._ended = draining(reason)
        for run in list(self._running):
            run.end(self._ended)
        if not await self._runs_out(END_S):
            for run in list(self._running):
                run.cut()
            await self._runs_out(END_S)

    async def close(self, timeout_s: float) -> None:
        """Let what runs and its books be finished, for `timeout_s` each; then end it."""
        if not await self._runs_out(timeout_s):
            await self.end_all("The market is stopping.")
        await self._desk.background.drain(timeout_s)
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self.preparing.close()

    async def _runs_out(self, timeout_s: float) -> bool:
        """Wait until no request runs; False when some still do after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()

    async def _run(self, turns: Turns, receive: Receive) -> None:
        watcher = asyncio.ensure_future(_watch(receive, turns.left))
        try:
            await self._live(turns)
        finally:
            watcher.cancel()

    async def _live(self, turns: Turns) -> None:
        self._lives += 1
        self._idle.clear()
        try:
            await turns.go(self._ticked, lambda: self._ended)
        finally:
            self._lives -= 1
            if not self._lives:
                self._idle.set()

    @contextlib.contextmanager
    def _ticked(self, run: Run) -> Iterator[None]:
        """Look after a run while it lives."""
        self._running.add(run)
        self._arm()
        try:
            yield
        finally:
            self._running.discard(run)

    async def _record(
        self, turns: Turns, recording: Recording, receive: Receive, send: Send
    ) -> None:
        """Run in a task of its own; a client that leaves, or a cancelled call, ends only this."""
        life = asyncio.create_task(self._live(turns))
        life.add_done_callback(lambda _: recording.close())
        watcher = asyncio.ensure_future(_watch(receive, recording.leave))
        try:
            if await recording.deliver(send):
                await asyncio.shield(life)
            else:
                self._desk.counters.add(
                    metric_names.SLOW_READERS if recording.slow else metric_names.CLIENTS_LEFT
                )
        finally:
            watcher.cancel()
            if not life.done():
                recording.leave()
                self._taken += 1
                life.add_done_callback(self._left_behind)

    def _left_behind(self, life: asyncio.Task[None]) -> None:
        """A request has ended whose client had left before."""
        self._taken -= 1
        error = None if life.cancelled() else life.exception()
        if error is not None and not isinstance(error, ReplayedError | MarketError):
            self._desk.counters.add(metric_names.INTERNAL_ERRORS)
            _log.error("a request without a client failed: %s", describe_fault(error))

    def _note(self, error: MarketError, request_id: RequestId) -> None:
        """A request was refused before it became a run; strangers are only counted."""
        gate = "draining" if error is self._ended else _GATES.get(error.status, "request")
        code = error.code or error.type
        self._desk.measures.rejected(gate, code)
        if gate != "key":
            about = {"request_id": request_id, "gate": gate, "code": code, "status": error.status}
            _log.info("refused", extra=about)

    def _count(self, kind: Kind, status: int) -> None:
        name = metric_names.labelled(metric_names.REQUESTS, route=kind, status=status)
        self._desk.counters.add(name)

    def _arm(self) -> None:
        """One timer for all requests of the gateway, while there are any."""
        if self._ticking is None:
            loop = asyncio.get_running_loop()
            self._ticking = loop.call_later(self._desk.limits.tick_s, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now_s = self._desk.ports.clock.monotonic_s()
        for run in list(self._running):
            run.tick(now_s)
        if self._running:
            self._arm()


async def _watch(receive: Receive, left: Callable[[], None]) -> None:
    """Call `left` when the client closes the connection."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                left()
                return
