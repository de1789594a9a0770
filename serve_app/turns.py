"""One call over the models it may be served by: a run for each, until one has begun to answer.

Each run has a hold and an id of its own, and the one before it has been voided when it begins,
so that there is never more than one charge. What a client sees is one answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from market.errors import MarketError
from market.messages import KeyRecord
from market.types import ProviderId, RequestId
from serve_app.asgi import ClientLeftError, Send
from serve_app.desk import Desk
from serve_app.endings import answered_meanwhile
from serve_app.envelope import Headers
from serve_app.fallbacks import Fallbacks
from serve_app.hold import ReplayedError
from serve_app.parameters import Call, ignored_header
from serve_app.prepare import Prepared
from serve_app.rates import rate_headers
from serve_app.recording import Recording
from serve_app.replies import HeadersFor, Reply, StreamReply, WholeReply
from serve_app.request_ids import RANDOM_BYTES, new_request_id
from serve_app.run import Run
from serve_app.wire import Wire

_OURS = b"x-coster-request-id"


@dataclass(frozen=True, slots=True)
class Visit:
    """One HTTP request as all its runs share it. `started_s` is of the monotonic clock.

    With a `recording` every run writes there, and it is delivered by somebody else.
    """

    request_id: RequestId
    key_hash: bytes
    key: KeyRecord
    started_s: float
    send: Send
    id_headers: Headers
    heartbeats: bool
    recording: Recording | None = None


class Turns:
    """The runs of one call, one at a time. `status` is what its client was told."""

    def __init__(self, desk: Desk, call: Call, fallbacks: Fallbacks, visit: Visit) -> None:
        self._desk = desk
        self._call = call
        self._fallbacks = fallbacks
        self._visit = visit
        self._run: Run | None = None
        self._reply: Reply | None = None
        self._left = False
        self._over = True  # no other model is to be tried
        self.status = 200

    def left(self) -> None:
        """The client closed its connection."""
        self._left = True
        if self._run is not None:
            self._run.left()

    async def go(
        self,
        running: Callable[[Run], AbstractContextManager[None]],
        ended: Callable[[], MarketError | None],
    ) -> None:
        """Serve the call to its end; `running` registers each run while it lives.

        `ended` says whether the market ends all calls, and with which error. Raises what
        `Run.go` raises, ClientLeftError, and the refusal of a call that no model could be
        prepared for, unless a client that waits can be told it as an event.
        """
        request_id = self._visit.request_id
        while True:
            try:
                prepared = await self._next(request_id)
                error = ended()
                if error is not None:
                    raise error
            except MarketError as error:
                if self._reply is None or not self._reply.started:
                    raise
                self._over = True
                await self._reply.fail(error)
                return
            run = Run(
                self._desk,
                prepared,
                request_id,
                self._visit.key_hash,
                self._visit.key,
                self._visit.started_s,
                self._visit.recording,
            )
            self._reply = self._new_reply(run, prepared, request_id)
            self._over = True
            self._run = run
            with running(run):
                await self._go(run, self._reply)
            self._run = None
            self.status = self._reply.status
            if self._over:
                return
            request_id = new_request_id(self._desk.ports.clock.now_s(), os.urandom(RANDOM_BYTES))

    async def _go(self, run: Run, reply: Reply) -> None:
        """One run. A kept answer cannot follow the head of another: then the stream says so."""
        try:
            await run.go(reply)
        except ReplayedError as before:
            if not reply.started:
                raise
            await reply.fail(answered_meanwhile(before.replay.request_id))

    async def _next(self, request_id: RequestId) -> Prepared:
        drop_hopeless = self._visit.recording is None
        prepared = await self._fallbacks.next(request_id, drop_hopeless=drop_hopeless)
        if self._left:
            raise ClientLeftError
        return prepared

    def _aside(self, error: MarketError) -> MarketError | None:
        if self._run is None:
            return error
        told = self._fallbacks.fails(error)
        self._over = told is not None
        return told

    def _new_reply(self, run: Run, prepared: Prepared, request_id: RequestId) -> Reply:
        call, visit = self._call, self._visit
        send = run.guarded(visit.send) if visit.recording is None else visit.recording.send
        wire = Wire(
            call.kind,
            request_id,
            prepared.card.id,
            int(self._desk.ports.clock.now_s()),
            include_usage=call.include_usage,
            service_tier=call.wishes.service_tier,
        )
        ids = [(name, value) for name, value in visit.id_headers if name != _OURS]
        ids.append((_OURS, request_id.encode()))
        headers_for: HeadersFor = partial(_headers, run, call, ids)
        if not call.stream:
            logprobs = call.top_logprobs is not None
            return WholeReply(send, wire, headers_for, with_logprobs=logprobs, aside=self._aside)
        return StreamReply(
            send,
            wire,
            headers_for,
            n=call.n,
            include_usage=call.include_usage,
            heartbeats=visit.heartbeats,
            aside=self._aside,
            started=self._reply is not None and self._reply.started,
        )


def _headers(run: Run, call: Call, ids: Headers, provider: ProviderId | None) -> Headers:
    headers = list(ids)
    if provider is not None:
        headers.append((b"x-coster-provider", provider.encode()))
    if run.admitted is not None:
        headers += rate_headers(run.admitted.rate)
        if call.max_tokens is None:
            headers.append((b"x-coster-max-tokens", b"%d" % run.admitted.max_tokens))
    if call.ignored:
        headers.append((b"x-coster-ignored-params", ignored_header(call.ignored).encode()))
    return headers
