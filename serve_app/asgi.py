"""The raw ASGI the hot path is made of: reading a bounded body, sending a whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from market.errors import InvalidRequest, MarketError, TooLarge, Unavailable
from serve_app.envelope import Headers, error_body, error_headers
from serve_app.limits import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")


class ClientLeftError(Exception):
    """The client closed the connection; there is nobody to answer."""


class Bodies:
    """Reads request bodies within bounds of bytes and seconds, each and all together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held_bytes = 0

    async def read(
        self, headers: dict[bytes, bytes], receive: Receive, most_bytes: int | None = None
    ) -> bytes:
        """The whole body, of at most `most_bytes`. Raises TooLarge, InvalidRequest or
        ClientLeftError.
        """
        most_bytes = most_bytes or self._limits.body_bytes
        _check_declared(headers, most_bytes)
        message = await _within(receive, self._limits.body_read_s)
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        if not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > most_bytes:
                raise _too_large(most_bytes)
            return body
        return await self._read_parts(message.get("body", b""), receive, most_bytes)

    async def _read_parts(self, first: bytes, receive: Receive, most_bytes: int) -> bytes:
        limits = self._limits
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + limits.body_read_s
        body = bytearray(first)
        held = len(first)
        self._held_bytes += held
        try:
            more = True
            while more:
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                if self._held_bytes > limits.bodies_bytes:
                    raise Unavailable(
                        "This gateway is reading too many large bodies at once.", None, "busy", 1.0
                    )
                message = await _within(receive, ends_s - loop.time())
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                part: bytes = message.get("body", b"")
                body += part
                held += len(part)
                self._held_bytes += len(part)
                more = message.get("more_body", False)
            if len(body) > most_bytes:
                raise _too_large(most_bytes)
            return bytes(body)
        finally:
            self._held_bytes -= held


def _check_declared(headers: dict[bytes, bytes], most_bytes: int) -> None:
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b""):
        raise InvalidRequest(
            "Content-Encoding is not supported; send the body as it is.",
            None,
            "unsupported_encoding",
        )
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > most_bytes:
        raise _too_large(most_bytes)


async def _within(receive: Receive, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            return await receive()
    except TimeoutError:
        raise InvalidRequest(
            "The body did not arrive in time; send it at once.", None, "request_timeout"
        ) from None


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {limit_bytes} bytes ({limit_bytes // 2**20} MiB).",
        None,
        "body_too_large",
    )


async def send_body(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer of JSON in two messages."""
    length = (b"content-length", str(len(body)).encode())
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, JSON, length]}
    )
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: MarketError, headers: Headers) -> None:
    """The envelope. Errors that leave a body unread close the connection."""
    closing = [CLOSE] if error.code in ("body_too_large", "request_timeout") else []
    await send_body(
        send, error.status, [*headers, *error_headers(error), *closing], error_body(error)
    )
