"""The outermost layer in front of Serve's own: one clean request id, and no control from outside.

Serve trusts some request headers: a caller could switch off the notice of its own departure,
set a timeout, or choose the text of an id that Serve echoes and logs. They are removed here,
before Serve reads them; the caller's id passes when it is harmless.
"""

from __future__ import annotations

import secrets

from starlette.middleware import Middleware

from serve_app.asgi import App, Message, Receive, Scope, Send
from serve_app.request_ids import echoed_id

REQUEST_ID = b"x-request-id"
TAKEN = frozenset({REQUEST_ID, b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
ID_BYTES = 16


class Edge:
    """A pure ASGI layer: costs two passes over the headers and nothing per chunk."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Clean the request's headers; send exactly one request id back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        theirs, kept = None, []
        for name, value in scope["headers"]:
            if name == REQUEST_ID:
                theirs = value
            elif name not in TAKEN:
                kept.append((name, value))
        sane = echoed_id(theirs, secrets.token_hex(ID_BYTES)).encode()
        kept.append((REQUEST_ID, sane))

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0].lower() != REQUEST_ID]
                message = {**message, "headers": [*headers, (REQUEST_ID, sane)]}
            await send(message)

        await self._app({**scope, "headers": kept}, receive, send_with_one_id)


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names."""
    return [Middleware(Edge)]
