"""The door's side of the money: settle or void exactly once, however often it takes.

Operations are idempotent at the accountant, so one that was not answered is sent again
unchanged. What cannot be answered while the client waits goes on in the background until
the hold's lease would have expired.
"""

from __future__ import annotations

import asyncio

from market.errors import Internal, MarketError, Unavailable
from market.messages import AccountantReply, Checkpoint, Settle, Settled, Void
from serve_app import metric_names
from serve_app.background import Background
from serve_app.counters import Counters
from serve_app.limits import Limits
from serve_app.ports import AccountantPort


class Books:
    """Settles, voids and checkpoints the holds of this gateway's requests."""

    def __init__(
        self,
        accountant: AccountantPort,
        background: Background,
        counters: Counters,
        limits: Limits,
    ) -> None:
        self._accountant = accountant
        self._background = background
        self._counters = counters
        self._limits = limits

    async def settle(self, op: Settle) -> Settled:
        """Durable when this returns; Unavailable after `settle_wait_s`, still being tried."""
        reply = await self._answered(op)
        if not isinstance(reply, Settled):
            raise Internal("The accountant answered a settle with something else.")
        self._counters.add(metric_names.SETTLED_NANO_USD, reply.cost_nano)
        return reply

    async def void(self, op: Void) -> None:
        """Release the hold. A refusal means that there is none, which is what we want."""
        try:
            await self._answered(op)
        except MarketError:
            self._counters.add(metric_names.labelled(metric_names.SETTLE_GIVEN_UP, op="void"))

    async def persist(self, op: Settle | Void) -> None:
        """Keep trying for `settle_background_s`; what is given up is counted."""
        try:
            reply = await self._try_for(op, self._limits.settle_background_s)
        except (MarketError, TimeoutError):
            name = type(op).__name__.lower()
            self._counters.add(metric_names.labelled(metric_names.SETTLE_GIVEN_UP, op=name))
            return
        if isinstance(reply, Settled):
            self._counters.add(metric_names.SETTLED_NANO_USD, reply.cost_nano)

    async def checkpoint(self, op: Checkpoint) -> None:
        """Renew the hold's lease. Losing one is harmless: the next is two seconds away."""
        try:
            await self._accountant.op(op)
        except MarketError:
            self._counters.add(metric_names.CHECKPOINT_FAILURES)

    async def _answered(self, op: Settle | Void) -> AccountantReply:
        try:
            return await self._try_for(op, self._limits.settle_wait_s)
        except TimeoutError:
            self._background.start(self.persist(op))
            raise Unavailable(
                "The ledger did not confirm this request in time; its charge is still being "
                "recorded. GET /v1/generations/{request_id} tells how it ended.",
                None,
                "settlement_delayed",
            ) from None

    async def _try_for(self, op: Settle | Void, seconds: float) -> AccountantReply:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await self._accountant.op(op)
                except Unavailable:
                    self._counters.add(metric_names.SETTLE_RETRIES)
                    await asyncio.sleep(self._limits.settle_pause_s)
