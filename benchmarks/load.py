"""The load client: streams over raw sockets on uvloop, in a process of its own.

A client library would cost more than what it measures, so this speaks just enough HTTP/1.1
for a keep-alive POST with a chunked answer. Tokens are counted in the bytes, never by reads:
a gateway may put many events into one write. Run as a script it reads one `Spec` per line of
standard input, as JSON, and answers each with one line of figures.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

from benchmarks.figures import percentile

CONTENT = b'"content":"'
EMPTY_CONTENT = b'"content":""'
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
    """What a round saw. Times are seconds of the monotonic clock or lengths of time."""

    started_s: float
    ends_s: float
    first_s: list[float]
    total_s: list[float]
    gaps_s: list[float]
    stream_tokens: list[int]
    tokens_in_time: int = 0
    completed_in_time: int = 0
    failed: int = 0
    first_failure: str = ""


class _Client(asyncio.Protocol):
    """One connection that sends the next request as soon as an answer has ended."""

    def __init__(self, spec: Spec, tally: Tally, number: int) -> None:
        self._tally = tally
        self._by_usage = spec.by_usage
        self._requests = [_request(spec, body) for body in spec.bodies]
        self._turn = number
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._tokens = 0
        self._sent_s = 0.0
        self._last_s = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._received = bytearray()
        self._tokens = 0
        request = self._requests[self._turn % len(self._requests)]
        self._turn += 1
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        received = self._received
        seen = len(received)
        received += data
        tokens = _count(received, CONTENT, seen) - _count(received, EMPTY_CONTENT, seen)
        if tokens:
            self._note(tokens, now_s)
        if received.endswith(LAST_CHUNK):
            self._ended(now_s)
        elif seen == 0 and b" 200 " not in data[:16]:
            self._fail(bytes(data[:300]).decode("latin-1"))

    def _note(self, tokens: int, now_s: float) -> None:
        tally = self._tally
        if self._tokens == 0:
            tally.first_s.append(now_s - self._sent_s)
        else:
            tally.gaps_s.append(now_s - self._last_s)
        tally.gaps_s.extend([0.0] * (tokens - 1))
        self._last_s = now_s
        self._tokens += tokens
        if now_s <= tally.ends_s and not self._by_usage:
            tally.tokens_in_time += tokens

    def _ended(self, now_s: float) -> None:
        tally = self._tally
        if DONE not in self._received[-400:]:
            self._fail("an answer without its end: " + self._received[-200:].decode("latin-1"))
            return
        tokens = _usage_tokens(self._received) if self._by_usage else self._tokens
        if now_s <= tally.ends_s:
            tally.completed_in_time += 1
            tally.tokens_in_time += tokens if self._by_usage else 0
        tally.total_s.append(now_s - self._sent_s)
        tally.stream_tokens.append(tokens)
        if now_s < tally.ends_s:
            self._send()
        else:
            self._finish()

    def _fail(self, what: str) -> None:
        self._tally.failed += 1
        self._tally.first_failure = self._tally.first_failure or what
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._fail(f"the connection was closed: {exc}")

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _count(received: bytearray, marker: bytes, seen: int) -> int:
    """New occurrences, also of a marker that two reads have split."""
    return received.count(marker, max(0, seen - len(marker) + 1))


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
    loop = asyncio.get_running_loop()
    now_s = time.perf_counter()
    tally = Tally(now_s, now_s + spec.seconds, [], [], [], [])
    cpu_s = time.process_time()
    clients: list[_Client] = []
    for number in range(spec.clients):
        _, client = await loop.create_connection(
            lambda number=number: _Client(spec, tally, number),  # type: ignore[misc]
            spec.host,
            spec.port,
        )
        clients.append(client)
        if spec.stagger_s:
            await asyncio.sleep(spec.stagger_s / spec.clients)
    _, pending = await asyncio.wait(
        [client.over for client in clients], timeout=spec.seconds + STALL_S_MAX
    )
    if pending:
        tally.failed += len(pending)
        tally.first_failure = tally.first_failure or "a stream did not end"
    return _summary(tally, spec, time.process_time() - cpu_s)


def _summary(tally: Tally, spec: Spec, client_cpu_s: float) -> dict[str, Any]:
    elapsed_s = max(time.perf_counter() - tally.started_s, spec.seconds)
    return {
        "streams": len(tally.stream_tokens),
        "tokens": sum(tally.stream_tokens),
        "tokens_min": min(tally.stream_tokens, default=0),
        "tokens_max": max(tally.stream_tokens, default=0),
        "tokens_per_s": tally.tokens_in_time / spec.seconds,
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


class LoadClient:
    """The parent's end of a load process; use as a context manager."""

    def __init__(self, command: list[str], **popen: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **popen
        )

    def round(self, spec: Spec) -> dict[str, Any]:
        """Play one round; raises RuntimeError when a stream failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(spec)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client ended")
        found: dict[str, Any] = json.loads(line)
        if found["failed"]:
            raise RuntimeError(f"{found['failed']} streams failed: {found['first_failure']}")
        return found

    def __enter__(self) -> LoadClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()  # the end of its input is its end
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> None:
    import uvloop

    for line in sys.stdin:
        spec = Spec(**{**json.loads(line), "bodies": tuple(json.loads(line)["bodies"])})
        sys.stdout.write(json.dumps(uvloop.run(run_round(spec))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
