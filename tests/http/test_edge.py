"""The outermost layer: one clean request id, and no control of Serve from outside."""

from __future__ import annotations

import pytest

from serve_app.asgi import Message, Receive, Scope, Send
from serve_app.edge import Edge

HARMLESS = b"my-request.42_A"


async def through(headers: list[tuple[bytes, bytes]]) -> tuple[Scope, list[tuple[bytes, bytes]]]:
    """What the layers below see of these headers, and what the client gets back."""
    seen: list[Scope] = []
    sent: list[Message] = []

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        """Serve's own layer: it adds its id to the app's."""
        seen.append(scope)
        theirs = dict(scope["headers"])[b"x-request-id"]
        answer = [(b"x-request-id", b"the app's"), (b"X-Request-ID", theirs), (b"a", b"b")]
        await send({"type": "http.response.start", "status": 200, "headers": answer})

    async def receive() -> Message:
        raise AssertionError("nothing is read here")

    async def send(message: Message) -> None:
        sent.append(message)

    await Edge(below)({"type": "http", "headers": headers}, receive, send)
    return seen[0], sent[0]["headers"]


async def test_a_harmless_id_is_echoed_once() -> None:
    """The caller's own id comes back, and only once, whoever added it below."""
    _, answer = await through([(b"x-request-id", HARMLESS)])

    assert answer == [(b"a", b"b"), (b"x-request-id", HARMLESS)]


@pytest.mark.parametrize("hostile", [b"", b"a b", b"x" * 5000, "é".encode(), b"a\r\nb: c"])
async def test_a_hostile_id_never_gets_inside(hostile: bytes) -> None:
    """What is not a short plain word is replaced before anything can log it."""
    scope, answer = await through([(b"x-request-id", hostile)])

    (name, value) = answer[-1]
    assert (name, len(value)) == (b"x-request-id", 32)
    assert dict(scope["headers"])[b"x-request-id"] == value


async def test_a_caller_cannot_steer_serve() -> None:
    """Headers that Serve would obey are gone; all others are untouched."""
    scope, _ = await through(
        [
            (b"x-request-disconnect-disabled", b"?1"),
            (b"x-request-timeout-seconds", b"0.001"),
            (b"authorization", b"Bearer k"),
        ]
    )

    assert [name for name, _ in scope["headers"]] == [b"authorization", b"x-request-id"]
