"""The loop that sees payments through: reads what is due, starts an errand for each, repeats.

It keeps nothing but what is being done just now. Killed at any await, its successor is told
the same work again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from actors.calls import LEDGER, ActorCall, call_until
from actors.payments.reconcile import reconcile
from actors.payments.worker import Errands
from market.accounting.state_rows import DisputeRow, PayeeRow, TopUpRow
from market.errors import MarketError
from market.payments.processor import PaymentProcessor
from market.payments.work import PaymentWork, look_after_s

log = logging.getLogger("coster.payments")

ACCOUNTANT_S_MAX: Final = 10.0
PASS_S: Final = 2.0
"""The list of work is read at least this often; news reads it at once."""
ERRANDS_MAX: Final = 8
"""Conversations with the processor at a time."""
SWEEP_S: Final = 3_600.0
SWEEP_OVERLAP_S: Final = 3_600
SWEEP_FIRST_S: Final = 3 * 86_400
"""A first look for lost notices goes back as far as the processor would still repeat them."""
RECONCILE_S: Final = 86_400.0
STUMBLE_S: Final = 60.0
"""An errand that failed is left alone this long, unless its row says when."""
RESTING_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class PaymentPlaces:
    """Where people are sent back to after a hosted page."""

    topup_done: str
    topup_cancelled: str
    payouts: str


COUNTED: Final = ("webhooks", "errands", "errands_failed", "events_found")
"""What is counted, in metrics from the beginning."""


class PaymentLoop:
    """Starts errands and waits for them. All methods run on one asyncio loop."""

    def __init__(
        self,
        accountant: ActorCall,
        processor: PaymentProcessor,
        places: PaymentPlaces,
        *,
        wall_ns: Callable[[], int],
        kind: str,
    ) -> None:
        """`kind` names the processor; books that have met another one are left alone."""
        self._kind = kind
        self._bound = False
        self._accountant = accountant
        self._processor = processor
        self._places = places
        self._wall_ns = wall_ns
        self._errands = Errands(
            self._ask,
            processor,
            success_url=places.topup_done,
            cancel_url=places.topup_cancelled,
            now_ns=wall_ns,
        )
        self._loop_task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._gate = asyncio.Semaphore(ERRANDS_MAX)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._not_before_s: dict[str, float] = {}
        self._swept_s: int | None = None
        self._reconciling = asyncio.Lock()
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self.last_reconcile: dict[str, Any] = {}

    # ── life ──────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Begin to see payments through."""
        self._loop_task = asyncio.create_task(self._run(), name="payments")

    async def stop(self) -> None:
        """Stop in the middle of whatever is being done; it is taken up again. Idempotent."""
        tasks = [*self._busy.values(), *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._processor.close()

    async def _run(self) -> None:
        self._not_before_s["reconcile"] = self._now_s() + PASS_S
        while True:
            self._news.clear()
            try:
                await self._pass()
            except Exception:
                log.exception("payments: the list of work could not be read")
                self._counts["errands_failed"] += 1
            waiting = asyncio.create_task(self._news.wait())
            await asyncio.wait([waiting], timeout=PASS_S)
            waiting.cancel()

    async def _ready(self) -> None:
        """See to it that these books and this processor belong together; raises if not."""
        if not self._bound:
            await self._ask("bind_processor", self._kind)
            self._bound = True

    async def _pass(self) -> None:
        try:
            await self._ready()
            work: PaymentWork = await self._ask("payment_work")
        except MarketError as error:
            log.warning("payments wait: %s", error)
            return
        self.begin(work)
        if len(self._not_before_s) > RESTING_MAX:
            now_s = self._now_s()
            resting = {name: at_s for name, at_s in self._not_before_s.items() if at_s > now_s}
            self._not_before_s = resting
        self._every("sweep", SWEEP_S, self._sweep)
        self._every("reconcile", RECONCILE_S, self.reconcile)

    def begin(self, work: PaymentWork) -> None:
        """Start an errand for every row that is due and has none yet."""
        errands = self._errands
        for event in work.events:
            self._begin(f"event {event.id}", partial(errands.event, event))
        for refund in work.refunds:
            self._begin(f"refund {refund.id}", partial(errands.refund, refund))
        for payout in work.payouts:
            self._begin(f"payout {payout.id}", partial(errands.payout, payout))
        for row in work.looks:
            self._look(row)
        if work.week_due:
            self._begin("week", self._run_week)

    async def idle(self) -> None:
        """Return when nothing is being done."""
        while self._busy:
            await asyncio.wait(self._busy.values())

    def _look(self, row: TopUpRow | DisputeRow | PayeeRow) -> None:
        errand: Callable[[], Awaitable[object]]
        match row:
            case TopUpRow():
                name, errand = f"topup {row.id}", partial(self._errands.topup, row)
            case DisputeRow():
                name, errand = f"dispute {row.id}", partial(self._errands.dispute, row.id)
            case PayeeRow():
                name, errand = f"payee {row.owner}", partial(self._errands.payee, row.account)
        if self._begin(name, errand):
            self._not_before_s[name] = self._now_s() + look_after_s(row, self._wall_ns())

    def _every(self, name: str, period_s: float, errand: Callable[[], Awaitable[object]]) -> None:
        if self._begin(name, errand):
            self._not_before_s[name] = self._now_s() + period_s

    def _begin(self, name: str, errand: Callable[[], Awaitable[object]]) -> bool:
        """Start an errand under a name, unless one runs or it is to be left alone."""
        if name in self._busy or self._not_before_s.get(name, 0.0) > self._now_s():
            return False
        self._not_before_s.pop(name, None)
        task = asyncio.create_task(self._do(name, errand), name=name)
        self._busy[name] = task
        task.add_done_callback(lambda _: self._busy.pop(name, None))
        return True

    async def _do(self, name: str, errand: Callable[[], Awaitable[object]]) -> None:
        async with self._gate:
            try:
                await errand()
                self._counts["errands"] += 1
            except MarketError as error:
                self._stumbled(name, str(error))
            except Exception:
                log.exception("payments: %s failed", name)
                self._stumbled(name, "a fault of ours")
        self._news.set()

    def _stumbled(self, name: str, reason: str) -> None:
        self._counts["errands_failed"] += 1
        log.warning("payments: %s is tried again later: %s", name, reason)
        self._not_before_s[name] = self._now_s() + STUMBLE_S  # sooner than its period, too

    async def _sweep(self) -> None:
        """Find notices that never arrived."""
        if self._swept_s is None:
            newest_s = int(await self._ask("newest_event_s"))
            since_s = newest_s - SWEEP_FIRST_S
        else:
            since_s = self._swept_s - SWEEP_OVERLAP_S
        now_s = int(self._now_s())
        events = list(await self._processor.events_since(max(0, since_s)))
        found = int(await self._ask("record_events", events)) if events else 0
        self._swept_s = now_s
        if found:
            self._counts["events_found"] += found
            log.warning("%d notices of the processor had not arrived", found)

    async def _run_week(self) -> None:
        log.info("weekly payouts: %s", await self.run_weekly())

    async def run_weekly(self) -> dict[str, Any]:
        """The week's payouts, if they have not been decided yet; what was decided."""
        told: dict[str, Any] = await self._ask("run_weekly")
        self._news.set()
        return told

    async def reconcile(self) -> dict[str, Any]:
        """Compare the books with the processor's; see `actors.payments.reconcile`."""
        async with self._reconciling:
            self.last_reconcile = await reconcile(self._ask, self._processor, self._errands)
        return self.last_reconcile

    async def _ask(self, method: str, *args: object) -> Any:
        return await call_until(self._accountant, ACCOUNTANT_S_MAX, method, *args, who=LEDGER)

    def _now_s(self) -> float:
        return self._wall_ns() / 1e9
