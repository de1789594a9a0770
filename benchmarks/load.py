"""The load client: streams over raw sockets on uvloop, in a process of its own.

A client library would cost more than what it measures, so this speaks just enough HTTP/1.1
for a keep-alive POST with a chunked answer. Tokens are counted in the bytes, never by reads:
a gateway may put many events into one write. Run as a script it reads one `Spec` per line of
standard input, as JSON, and answers each with one line of figures.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

from benchmarks.figures import percentile
from benchmarks.worker import serve_rounds

TEXT = (b'"content":"', b'"content": "')
NO_TEXT = (b'"content":""', b'"content": ""')
"""How an event with text starts, and one without, in the two ways JSON is written."""
DONE = b"data: [DONE]"
LAST_CHUNK = b"0\r\n\r\n"
STALL_S_MAX = 60.0
"""A round whose streams do not end this long after its time is cut, and says so."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One round. `clients` keep one stream each, one after another, for `seconds`.

    `bodies` are sent in turn. `stagger_s` spreads the clients' first requests.
    `by_usage` takes the token counts from the final usage instead of the bytes.
    """

    port: int
    key: str
    bodies: tuple[str, ...]
    clients: int
    seconds: float
    host: str = "127.0.0.1"
    path: str = "/v1/chat/completions"
    stagger_s: float = 0.0
    by_usage: bool = False


@dataclass(slots=True)
class Tally:
    """What a round saw. Times are seconds of the performance clock or lengths of time.

    `pieces` are events with text, per stream; `tokens` are what the usage says, if asked.
    """

    started_s: float
    ends_s: float
    first_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    pieces_in_time: int = 0
    completed_in_time: int = 0
    failed: int = 0
    first_failure: str = ""

    def note_failure(self, what: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or what


class _Client(asyncio.Protocol):
    """One stream after another: the next request leaves as soon as an answer has ended.

    Where the server closes the connection after each answer, the next one has its own.
    """

    def __init__(self, spec: Spec, tally: Tally, number: int) -> None:
        self._spec = spec
        self._tally = tally
        self._requests = [_request(spec, body) for body in spec.bodies]
        self._turn = number
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._pieces = 0
        self._sent_s = 0.0
        self._last_s = 0.0
        self._waiting = False  # for the answer to what was sent
        self._again: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def play(self) -> None:
        """Send streams until the round's time is up."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._spec.host, self._spec.port)
        await self._over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send(time.perf_counter())

    def _send(self, now_s: float) -> None:
        assert self._transport is not None
        self._received = bytearray()
        self._pieces = 0
        self._waiting = True
        # Steps of the number of clients: no two of them ask the same thing in a round.
        request = self._requests[self._turn % len(self._requests)]
        self._turn += self._spec.clients
        self._sent_s = now_s
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        received = self._received
        seen = len(received)
        received += data
        if seen == 0 and b" 200 " not in data[:16]:
            self._fail(bytes(data[:300]).decode("latin-1"))
            return
        pieces = _count(received, TEXT, seen) - _count(received, NO_TEXT, seen)
        if pieces:
            self._note(pieces, now_s)
        if received.endswith(LAST_CHUNK):
            self._ended(now_s)
            if now_s < self._tally.ends_s:
                self._send(now_s)
            else:
                self._finish()

    def _note(self, pieces: int, now_s: float) -> None:
        tally = self._tally
        if self._pieces == 0:
            tally.first_s.append(now_s - self._sent_s)
        else:
            tally.gaps_s.append(now_s - self._last_s)
        tally.gaps_s.extend([0.0] * (pieces - 1))
        self._last_s = now_s
        self._pieces += pieces
        if now_s <= tally.ends_s:
            tally.pieces_in_time += pieces

    def _ended(self, now_s: float) -> None:
        tally = self._tally
        self._waiting = False
        if DONE not in self._received[-400:]:
            self._fail("an answer without its end: " + self._received[-200:].decode("latin-1"))
            return
        tally.completed_in_time += now_s <= tally.ends_s
        tally.total_s.append(now_s - self._sent_s)
        tally.pieces.append(self._pieces)
        if self._spec.by_usage:
            tally.tokens.append(_usage_tokens(self._received))

    def _fail(self, what: str) -> None:
        self._waiting = False
        self._tally.note_failure(what)
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over.done():
            return
        now_s = time.perf_counter()
        if self._waiting and DONE in self._received[-400:]:
            self._ended(now_s)  # an answer that the end of its connection delimits
        if self._waiting:
            self._fail(f"the connection was closed: {exc}")
        elif now_s < self._tally.ends_s:
            self._again = asyncio.ensure_future(self._reconnect())
        else:
            self._finish()

    async def _reconnect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, self._spec.host, self._spec.port)
        except OSError as error:
            self._fail(f"no connection: {error}")

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _count(received: bytearray, markers: tuple[bytes, ...], seen: int) -> int:
    """New occurrences, also of a marker that two reads have split."""
    return sum(received.count(m, max(0, seen - len(m) + 1)) for m in markers)


def _usage_tokens(received: bytearray) -> int:
    _, _, rest = received.rpartition(b'"completion_tokens":')
    digits = rest.lstrip()[:12].split(b",")[0].split(b"}")[0]
    return int(digits) if digits.strip().isdigit() else 0


def _request(spec: Spec, body: str) -> bytes:
    payload = body.encode()
    head = (
        f"POST {spec.path} HTTP/1.1\r\nhost: {spec.host}:{spec.port}\r\n"
        f"authorization: Bearer {spec.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def run_round(spec: Spec) -> dict[str, Any]:
    """Play one round and sum it up."""
    now_s = time.perf_counter()
    tally = Tally(now_s, now_s + spec.seconds)
    cpu_s = time.process_time()
    playing = []
    for number in range(spec.clients):
        playing.append(asyncio.ensure_future(_Client(spec, tally, number).play()))
        await asyncio.sleep(spec.stagger_s / spec.clients)
    ended, pending = await asyncio.wait(playing, timeout=spec.seconds + STALL_S_MAX)
    for task in (*ended, *pending):
        if not task.done():
            task.cancel()
            tally.note_failure("a stream did not end")
        elif (error := task.exception()) is not None:
            tally.note_failure(repr(error))
    return _summary(tally, spec, time.process_time() - cpu_s)


def _summary(tally: Tally, spec: Spec, client_cpu_s: float) -> dict[str, Any]:
    elapsed_s = max(time.perf_counter() - tally.started_s, spec.seconds)
    tokens = tally.tokens if spec.by_usage else tally.pieces
    # A piece of text may carry several tokens, or a token no text yet.
    tokens_per_piece = sum(tokens) / max(1, sum(tally.pieces))
    return {
        "streams": len(tokens),
        "tokens": sum(tokens),
        "tokens_min": min(tokens, default=0),
        "tokens_max": max(tokens, default=0),
        "tokens_per_s": tally.pieces_in_time * tokens_per_piece / spec.seconds,
        "streams_per_s": tally.completed_in_time / spec.seconds,
        "ttft_ms_p50": percentile(tally.first_s, 50) * 1e3,
        "ttft_ms_p99": percentile(tally.first_s, 99) * 1e3,
        "total_ms_p50": percentile(tally.total_s, 50) * 1e3,
        "gap_ms_p50": percentile(tally.gaps_s, 50) * 1e3,
        "gap_ms_p99": percentile(tally.gaps_s, 99) * 1e3,
        "failed": tally.failed,
        "first_failure": tally.first_failure,
        "elapsed_s": elapsed_s,
        "client_cores": client_cpu_s / elapsed_s,
    }


def main() -> None:
    import uvloop

    serve_rounds(lambda asked: uvloop.run(run_round(Spec(**asked))))


if __name__ == "__main__":
    main()
