"""Public answers that are made once per epoch, however many ask, and kept while none can be made.

A body does not change within its epoch. Whoever asks while it is being made waits for the one
that is being made. When making it fails, the last good one is served with its age, for
STALE_S_MAX beyond its lifetime; after that the failure itself is the answer. There is never a
body with invented figures in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from market.errors import MarketError, Unavailable
from market.public.epochs import Epoch, epoch_at
from serve_app.counters import Counters
from serve_app.faults import describe_fault
from serve_app.metric_names import STALE_BODIES, labelled
from serve_app.ports import ClockPort

Value = TypeVar("Value")

MAKE_S_MAX = 10.0
"""Making figures takes no longer; a store that hangs is a store that fails."""

PATIENCE_S = 1.0
"""Who can be given the last good figures does not wait longer for new ones. Once somebody has
waited in vain nobody does: the next making goes on behind the old figures."""

STALE_S_MAX = 600
"""Figures are served for this long beyond their lifetime when none can be made."""

RETRY_S = 1.0
"""After a failure nobody tries again sooner: what is down is not asked by everybody."""

GRACE_S = 30
"""What is made in the background is not called late sooner: making it takes its time."""

ETAG_BYTES = 12

_log = logging.getLogger("coster.door")


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, and the tag by which a client knows that it has it already."""

    content: bytes
    etag: str

    @classmethod
    def of(cls, content: bytes) -> Body:
        digest = hashlib.blake2b(content, digest_size=ETAG_BYTES).hexdigest()
        return cls(content, f'"{digest}"')


@dataclass(frozen=True, slots=True)
class Made(Generic[Value]):
    """The figures of one epoch. Bodies made of them are kept as long as they are."""

    epoch: Epoch
    value: Value
    bodies: dict[Hashable, Body] = field(default_factory=dict)

    def body(self, key: Hashable, render: Callable[[Value], bytes]) -> Body:
        """The body of this key, rendered once."""
        known = self.bodies.get(key)
        if known is None:
            known = self.bodies[key] = Body.of(render(self.value))
        return known


class EachEpoch(Generic[Value]):
    """One kind of figures, made anew each epoch when somebody asks. Call it on one loop."""

    def __init__(
        self,
        name: str,
        period_s: int,
        make: Callable[[Epoch], Awaitable[Value]],
        clock: ClockPort,
        counters: Counters,
    ) -> None:
        """`name` is a word for metrics and the log."""
        self._name = name
        self._period_s = period_s
        self._make = make
        self._clock = clock
        self._counters = counters
        self._made: Made[Value] | None = None
        self._making: asyncio.Task[Made[Value]] | None = None
        self._failed: MarketError | None = None
        self._failed_s = float("-inf")
        self._hangs = False  # the last making took longer than anybody's patience

    async def get(self) -> Made[Value]:
        """The figures of this epoch, or the last good ones; raises why there are none."""
        epoch = epoch_at(self._clock.now_s(), self._period_s)
        made = self._made
        if made is not None and epoch.number <= made.epoch.number <= epoch.number + 1:
            return made  # one ahead: the clock was set back a little
        kept = self._kept()
        try:
            making = self._making_of(epoch)
            patience_s = None if kept is None else 0.0 if self._hangs else PATIENCE_S
            async with asyncio.timeout(patience_s):
                # A caller that leaves must not take the figures of the others with it.
                return await asyncio.shield(making)
        except (MarketError, TimeoutError) as error:
            self._hangs = self._hangs or isinstance(error, TimeoutError)
            self._count_late()
            if kept is None:
                raise
        return kept

    def latest(self) -> Made[Value] | None:
        """The last good figures without making any; None before the first were made or failed.

        Raises why there are none, or none that are young enough.
        """
        kept = self._kept()
        if kept is None and self._failed is not None:
            self._count_late()
            raise self._failed
        if kept is not None and kept.epoch.age_s(self._clock.now_s()) > self._period_s + GRACE_S:
            self._count_late()
        return kept

    def _count_late(self) -> None:
        """Somebody was told old figures, or none: it goes on for as long as that is so."""
        self._counters.add(labelled(STALE_BODIES, name=self._name))

    def _making_of(self, epoch: Epoch) -> asyncio.Task[Made[Value]]:
        """The making that is under way, or a new one; raises what it would meet again."""
        if self._making is None:
            if self._failed and self._clock.monotonic_s() - self._failed_s < RETRY_S:
                raise self._failed
            self._making = asyncio.create_task(self._begin(epoch))
            self._making.add_done_callback(_heard)  # perhaps nobody waits for it any more
        return self._making

    async def _begin(self, epoch: Epoch) -> Made[Value]:
        try:
            async with asyncio.timeout(MAKE_S_MAX):
                value = await self._make(epoch)
        except TimeoutError:
            raise self._failing(f"no answer within {MAKE_S_MAX:.0f} s", None) from None
        except MarketError as error:
            raise self._failing(str(error), error) from error
        except Exception as error:
            raise self._failing(describe_fault(error), None) from error
        finally:
            self._making = None
        self._failed, self._hangs = None, False
        self._made = Made(epoch, value)
        return self._made

    def _failing(self, why: str, error: MarketError | None) -> MarketError:
        if self._failed is None:
            _log.warning("the %s figures cannot be made: %s", self._name, why)
        retry_s = error.retry_after_s if error is not None else None
        self._failed = Unavailable(
            "The public figures cannot be made just now. Try again.",
            None,
            "statistics_unavailable",
            retry_s or 2 * RETRY_S,
            True,
        )
        self._failed_s = self._clock.monotonic_s()
        return self._failed

    def _kept(self) -> Made[Value] | None:
        """The last good figures, while they may still be told."""
        made = self._made
        if made is None or made.epoch.age_s(self._clock.now_s()) > self._period_s + STALE_S_MAX:
            return None
        return made


def _heard(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def matches(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match names this body, by the weak comparison that it asks for."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags
