"""An answer that outlives its reader: written down as it is made, delivered while somebody reads.

A request with an Idempotency-Key is not ended by a client that leaves: it runs to its end, is
charged once and its answer kept. So its reply never writes to the connection itself. The
connection's own task delivers what has been written down, and may stop at any moment.
"""

from __future__ import annotations

import asyncio

from market.accounting.kept_answers import OUTCOME_BYTES_MAX
from market.types import AccountId, RequestId
from serve_app.asgi import Message, Send
from serve_app.limits import Limits
from serve_app.sealed import KeptAnswer, OwnKey, Sealer


class Recording:
    """All that one reply has sent, and how much of it has been delivered."""

    def __init__(self, own_key: OwnKey, sealer: Sealer, limits: Limits) -> None:
        self.own_key = own_key
        self._sealer = sealer
        self._limits = limits
        self._head: Message | None = None
        self._parts: list[bytes] = []
        self._delivered = 0  # of `_parts`
        self._bytes = 0
        self._waiting_bytes = 0
        self._complete = False
        self._left = False
        self._changed = asyncio.Event()

    @property
    def slow(self) -> bool:
        """The reader is further behind than what one request may hold for it."""
        return self._waiting_bytes > self._limits.buffer_bytes

    async def send(self, message: Message) -> None:
        """What the reply writes with: never waits, whoever reads or not."""
        if message["type"] == "http.response.start":
            self._head = message
        else:
            part = message.get("body", b"")
            self._bytes += len(part)
            if self._left and self._bytes > OUTCOME_BYTES_MAX:
                self._parts.clear()  # too long to be kept, and nobody reads it
            else:
                self._parts.append(part)
                self._waiting_bytes += len(part)
            self._complete = not message.get("more_body", False)
        self._changed.set()

    def leave(self) -> None:
        """Nobody reads any more."""
        self._left = True
        self._changed.set()

    def close(self) -> None:
        """The reply has ended, whether or not it has written anything."""
        self._complete = True
        self._changed.set()

    def sealed(
        self, account: AccountId, request_id: RequestId, content_type: bytes, last: bytes
    ) -> bytes | None:
        """The whole answer, if `last` is its end, as the ledger keeps it; None when too long."""
        if self._bytes + len(last) > OUTCOME_BYTES_MAX:
            return None
        answer = KeptAnswer(200, content_type, b"".join([*self._parts, last]))
        return self._sealer.seal(account, self.own_key, request_id, answer)

    async def deliver(self, send: Send) -> bool:
        """Write to the connection until all is written; False when its reader is gone or slow.

        Takes at most `write_s` for one write.
        """
        started = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.slow:
                self._left = True
            if self._left:
                return False
            if self._head is not None and not started:
                started = True
                await send(self._head)
            body, last = self._take()
            if started and (body or last):
                try:
                    async with asyncio.timeout(self._limits.write_s):
                        await send(_body(body, more=not last))
                except (TimeoutError, ConnectionError):
                    self._left = True
                    return False
            if last:
                return True

    def _take(self) -> tuple[bytes, bool]:
        body = b"".join(self._parts[self._delivered :])
        if self._bytes > OUTCOME_BYTES_MAX:
            self._parts.clear()
        self._delivered = len(self._parts)
        self._waiting_bytes = 0
        return body, self._complete


def _body(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
