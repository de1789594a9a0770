"""The two shapes of an answer, streamed and whole, behind one interface.

Nothing reaches the client before the first content: until then a failed attempt leaves no
trace and the status is still ours to choose. `delivered` is the number of tokens whose
text was handed to the client's connection; it is what a broken-off answer costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from market.errors import MarketError
from market.types import Event, ProviderId
from serve_app.asgi import Send, send_body, send_error
from serve_app.envelope import Headers
from serve_app.progress import Choice, Progress
from serve_app.wire import DONE, HEARTBEAT, Bill, ChoiceText, Wire

HeadersFor = Callable[[ProviderId | None], Headers]
Aside = Callable[[MarketError], MarketError | None]
"""Asked before an error is told while nothing of an answer is written: the error to tell, or None
where somebody else goes on."""

SSE_TYPE = b"text/event-stream; charset=utf-8"
JSON_TYPE = b"application/json"
_NO_BUFFERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def head_of(content_type: bytes) -> Headers:
    """The headers that this kind of body needs, whoever sends it."""
    extra = _NO_BUFFERS if content_type == SSE_TYPE else []
    return [(b"content-type", content_type), *extra]


class Reply(Protocol):
    """How an answer reaches the client."""

    written: bool  # content is out: no other Mac can take over
    started: bool  # the head is out, perhaps with heartbeats
    delivered: int
    status: int
    content_type: bytes

    def begin(self, progress: Progress, provider: ProviderId, *, goes_on: bool = False) -> None:
        """A new attempt starts from nothing, or `goes_on` where a Mac was lost."""
        ...

    def led_by(self, provider: ProviderId) -> None:
        """Of two attempts this Mac's is the one that is passed on."""
        ...

    def add(self, event: Event, choice: Choice) -> None: ...

    async def flush(self) -> None: ...

    async def heartbeat(self) -> bool:
        """Tell a waiting client that we live; False if this reply cannot."""
        ...

    def last(self, bill: Bill) -> bytes:
        """Everything that is still to be sent, with the bill in it. May be asked again."""
        ...

    async def end(self, last: bytes) -> None: ...

    async def fail(self, error: MarketError) -> None: ...


class StreamReply:
    """Server-sent events, one write per batch of engine events."""

    content_type = SSE_TYPE

    def __init__(
        self,
        send: Send,
        wire: Wire,
        headers_for: HeadersFor,
        *,
        n: int,
        include_usage: bool,
        heartbeats: bool,
        aside: Aside | None = None,
        started: bool = False,
    ) -> None:
        """`started`: an earlier reply has sent the head and nothing but heartbeats."""
        self.written = False
        self.delivered = 0
        self.status = 200
        self.started = started
        self._aside = aside
        self._send = send
        self._wire = wire
        self._headers_for = headers_for
        self._include_usage = include_usage
        self._heartbeats = heartbeats
        self._open = list(range(n))
        self._parts: list[bytes] = []
        self._last = 0
        self._progress: Progress | None = None
        self._provider: ProviderId | None = None

    def begin(self, progress: Progress, provider: ProviderId, *, goes_on: bool = False) -> None:
        self._progress = progress
        self._provider = provider
        if not goes_on:
            self._parts = []

    def led_by(self, provider: ProviderId) -> None:
        self._provider = provider

    def add(self, event: Event, choice: Choice) -> None:
        parts, wire, index = self._parts, self._wire, event.index
        if (event.text or event.finish is not None) and not choice.begun:
            choice.begun = True
            parts.append(wire.role(index))
        if event.logprobs:
            parts.append(wire.text_with_logprobs(index, event.text, event.logprobs, choice.chars))
        elif event.text:
            parts.append(wire.text(index, event.text))
        choice.chars += len(event.text)
        if event.finish is not None:
            self._last = index
            if self._progress is not None and self._progress.open:
                parts.append(wire.finish(index, event.finish))

    async def flush(self) -> None:
        """Write what is pending, with the head of the response before the first content."""
        if not self._parts:
            return
        parts, self._parts = self._parts, []
        if not self.started:
            await self._start(self._provider)
        self.written = True
        await self._send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
        if self._progress is not None:
            self.delivered = self._progress.tokens

    async def heartbeat(self) -> bool:
        if not self._heartbeats:
            return False
        if not self.started:
            await self._start(None)  # who will answer is not known yet
        await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
        return True

    def last(self, bill: Bill) -> bytes:
        progress = self._progress
        assert progress is not None
        reason = progress.choices[self._last].finish or "stop"
        parts = [*self._parts, self._wire.finish(self._last, reason)]
        if self._include_usage:
            parts.append(self._wire.usage(bill))
        parts.append(DONE)
        return b"".join(parts)

    async def end(self, last: bytes) -> None:
        if not self.started:
            await self._start(self._provider)
        await self._send({"type": "http.response.body", "body": last})

    async def fail(self, error: MarketError) -> None:
        told = error if self.written or self._aside is None else self._aside(error)
        if told is None:
            return
        error = told
        if not self.started:
            self.status = error.status
            await send_error(self._send, error, self._headers_for(None))
            return
        choices = self._open if self._progress is None else self._progress.open_indexes()
        body = self._wire.failure(error, choices or [self._last])
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, provider: ProviderId | None) -> None:
        self.started = True
        headers = [*self._headers_for(provider), *head_of(SSE_TYPE)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})


class WholeReply:
    """One JSON document at the end."""

    written = False
    started = False
    delivered = 0
    content_type = JSON_TYPE

    def __init__(
        self,
        send: Send,
        wire: Wire,
        headers_for: HeadersFor,
        *,
        with_logprobs: bool,
        aside: Aside | None = None,
    ) -> None:
        self.status = 200
        self._aside = aside
        self._send = send
        self._wire = wire
        self._headers_for = headers_for
        self._with_logprobs = with_logprobs
        self._choices: list[ChoiceText] = []
        self._provider: ProviderId | None = None

    def begin(self, progress: Progress, provider: ProviderId, *, goes_on: bool = False) -> None:
        self._provider = provider
        if not goes_on:
            self._choices = [ChoiceText() for _ in range(progress.n)]

    def led_by(self, provider: ProviderId) -> None:
        self._provider = provider

    def add(self, event: Event, choice: Choice) -> None:
        mine = self._choices[event.index]
        mine.texts.append(event.text)
        mine.logprobs.extend(event.logprobs)
        mine.finish = choice.finish

    async def flush(self) -> None:
        return

    async def heartbeat(self) -> bool:
        return False

    def last(self, bill: Bill) -> bytes:
        return self._wire.whole(self._choices, bill, with_logprobs=self._with_logprobs)

    async def end(self, last: bytes) -> None:
        await send_body(self._send, 200, self._headers_for(self._provider), last)

    async def fail(self, error: MarketError) -> None:
        told = error if self._aside is None else self._aside(error)
        if told is None:
            return
        self.status = told.status
        await send_error(self._send, told, self._headers_for(None))
