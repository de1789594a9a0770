"""Calling a named actor, seen without Ray: a callable and one kind of failure.

The doorway (`actors.cluster`) turns Ray's errors into `ActorAway`; everything else in the
market retries or gives up on that alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from market.errors import MarketError, Unavailable

BATCH_ITEMS_MAX = 512
"""A batch is the caller's backlog, up to this many operations."""
FIRST_TRY_S = 3.0
"""One question to an actor that may still be starting; then it is asked again."""
FIRST_PAUSE_S = 0.1
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 0.5

MARKET, LEDGER, ROUTER, PAYMENTS = (
    "The market",
    "The market's ledger",
    "The market's router",
    "The market's payment service",
)
"""What a user is told did not answer."""

log = logging.getLogger("coster.calls")

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class ActorAway(ConnectionError):
    """The actor cannot be reached now. It may have done what was asked."""


class ActorNotStarted(ActorAway):
    """The actor could not begin, and nobody starts it again: waiting is of no use.

    `reason` is what it said itself, with the fix; empty where only its log knows.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} could not start: {self.reason or 'its log says why'}"


class ActorCall(Protocol):
    """Call `method` of one named actor. Raises ActorAway, or the MarketError it raised."""

    async def __call__(self, method: str, *args: object) -> Any: ...


async def first_answer(
    call: Callable[..., Awaitable[Any]],
    method: str,
    deadline_s: float,
    check: Callable[[], None] = lambda: None,
) -> Any:
    """What an actor that is just being started says first, within `deadline_s`.

    Raises ActorAway when it does not come, and ActorNotStarted as soon as it cannot. `check` is
    called between tries and may raise to give up sooner.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + deadline_s
    while True:
        check()
        try:
            return await call(method, timeout_s=FIRST_TRY_S)
        except ActorNotStarted:
            raise
        except ActorAway:
            if loop.time() > give_up_s:
                raise
            await asyncio.sleep(FIRST_PAUSE_S)


async def call_until(
    call: ActorCall, deadline_s: float, method: str, *args: object, who: str = MARKET
) -> Any:
    """Call, and while the actor is away call again, for at most `deadline_s` seconds.

    Only for methods that may safely run twice. Raises Unavailable when time is up; it names
    `who` did not answer in a user's words, never in ours.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + deadline_s
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await call(method, *args)
        except ActorAway as error:
            if loop.time() + pause_s >= give_up_s:
                raise Unavailable(
                    f"{who} does not answer now; try again.",
                    None,
                    "restarting",
                    1.0,
                    True,
                ) from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)


class Coalescer(Generic[Item, Reply]):
    """One batch in flight at a time; what arrives meanwhile is the next batch.

    An actor call costs 1.5–2 ms however many operations it carries, so throughput comes
    from sharing it. Replies keep the order of the items. While the actor is away the batch
    is sent again until `deadline_s`: the operations must be idempotent.
    """

    def __init__(
        self, call: ActorCall, method: str, *, deadline_s: float, who: str = MARKET
    ) -> None:
        self._call = call
        self._method = method
        self._deadline_s = deadline_s
        self._who = who
        self._waiting: list[tuple[Item, asyncio.Future[Reply]]] = []
        self._pump: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> asyncio.Future[Reply]:
        """Queue one operation; the future gets its reply or raises its MarketError."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:BATCH_ITEMS_MAX]
                del self._waiting[: len(batch)]
                await self._send(batch)
        finally:
            self._pump = None

    async def _send(self, batch: Sequence[tuple[Item, asyncio.Future[Reply]]]) -> None:
        items = [item for item, _ in batch]
        try:
            replies: Sequence[Any] = await call_until(
                self._call, self._deadline_s, self._method, items, who=self._who
            )
            if len(replies) != len(items):
                raise Unavailable(f"{self._who} answered {len(replies)} of {len(items)}.")
        except MarketError as error:
            replies = [error] * len(items)
        except Exception as error:
            # Its callers hear it; whoever queued behind them must still be sent.
            log.exception("a batch of %d could not be sent to %s", len(items), self._method)
            replies = [error] * len(items)
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


def ignore_outcome(future: asyncio.Future[Any], what: Callable[[], str]) -> None:
    """Let a fire-and-forget operation end by itself, logging its failure."""

    def ended(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("%s: %s", what(), error)

    future.add_done_callback(ended)
