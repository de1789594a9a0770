"""A client without a socket: drives the app, reads its events, leaves when told to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from serve_app.app import GatewayApp
from tests.http.memory_market import Market

HI = {"model": "coster/demo", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Exchange:
    """One request as its client lives it."""

    body: bytes
    path: str = "/v1/chat/completions"
    method: str = "POST"
    key: str | None = Market.KEY
    headers: dict[str, str] = field(default_factory=dict)
    query: bytes = b""
    peer: str = "127.0.0.1"
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    leave_after: int | None = None  # writes of the body
    stall_after: int | None = None  # the reader stands still after as many writes
    out: list[dict[str, Any]] = field(default_factory=list)
    writes: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    resume: asyncio.Event = field(default_factory=asyncio.Event)

    async def go(self, app: GatewayApp) -> Exchange:
        sent = False
        headers = [(b"content-type", b"application/json")]
        if self.key is not None:
            headers.append((b"authorization", f"Bearer {self.key}".encode()))
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        headers += self.raw_headers

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": self.body, "more_body": False}
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.out.append(message)
            if message["type"] != "http.response.body":
                return
            self.writes += 1
            if self.leave_after == self.writes:
                self.left.set()
            if self.stall_after is not None and self.writes >= self.stall_after:
                await self.resume.wait()

        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": headers,
            "client": (self.peer, 5),
            "server": ("127.0.0.1", 8000),
        }
        await app(scope, receive, send)  # type: ignore[arg-type]
        return self

    @property
    def status(self) -> int:
        return int(self.out[0]["status"])

    @property
    def answer_headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.out[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.out[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return dict(found)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The chunks of a stream, without [DONE]."""
        lines = [line for line in self.content.decode().split("\n\n") if line.startswith("data: ")]
        assert lines, "not a stream"
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]

    @property
    def text(self) -> str:
        deltas = [c["delta"] for event in self.events for c in event["choices"]]
        return "".join(delta.get("content", "") for delta in deltas)


def ask(body: Any = None, **options: Any) -> Exchange:
    """A chat request; fields given override the plain greeting."""
    if isinstance(body, bytes):
        return Exchange(body, **options)
    return Exchange(json.dumps(HI if body is None else body).encode(), **options)


def chat(**fields: Any) -> dict[str, Any]:
    """The greeting with other fields."""
    return {**HI, **fields}


async def settled(market: Market, timeout_s: float = 5.0) -> None:
    """Wait for the books of what has ended."""
    await market.app.close()
    async with asyncio.timeout(timeout_s):
        while not market.nothing_is_left():
            await asyncio.sleep(0.005)
