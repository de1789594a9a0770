"""The accountant's part in hearing of payments: the inbox, what is due, reconciliation."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.accounting.payments_in import PaymentsIn
from actors.accounting.payments_out import PaymentsOut
from market.accounting.answers import check_text
from market.accounting.chart import Code
from market.accounting.rows import OperationRow
from market.accounting.state_rows import EventRow
from market.errors import Conflict
from market.metrics import labelled
from market.money import NANO_PER_CENT
from market.payments import matching
from market.payments.answers import Trouble
from market.payments.desk import asset_cents
from market.payments.disputes import collect_debts
from market.payments.processor import BalanceLine, ProcessorEvent
from market.payments.topups import book_fee
from market.payments.work import PaymentWork, work_due

log = logging.getLogger("coster.ledger")

REFUSED_TRIES_MAX: Final = 3
"""A notice about something that the processor does not know is given up after so many."""
EVENT_S_MAX: Final = 2**33 - 1
"""No notice is dated after the year 2242: a row's times are 64 bits of nanoseconds."""
RECONCILED: Final = "reconcile:"


@dataclass(frozen=True, slots=True)
class Matched:
    """What came of a list of balance lines."""

    matched: int
    unexplained: tuple[matching.Unexplained, ...]


@dataclass(frozen=True, slots=True)
class PaymentSums:
    """The ledger's side of a reconciliation, in cents; `since_s` is where the last one ended.

    `refunds_cents` have left the ledger and may not have left the processor; of
    `payouts_cents` the opposite is so: the processor may have paid them.
    """

    clearing_cents: int
    refunds_cents: int
    payouts_cents: int
    suspense_cents: int
    since_s: int


PROCESSORS: Final = {
    "stripe": "Stripe",
    "sandbox": "a sandbox of Stripe",
    "test": "the test payments",
}
"""How the kinds of processor are called."""


class PaymentMethods(PaymentsIn, PaymentsOut):
    """Events, the list of work, balance lines."""

    # ── the inbox ─────────────────────────────────────────────────────────────────────

    async def bind_processor(self, kind: str) -> None:
        """Note which processor these books have met; raises Conflict when it was another one.

        Top-ups and payees live at their processor: another one would pay out money that it
        has never received.
        """
        self._check_alive()
        met = self._operations.before("processor", "bound", ())
        if met is None:
            self._books.ledger.changes.operations.append(
                self._operations.remember("processor", "bound", (), kind, self._now_ns())
            )
            await self._written()
        elif met != kind:
            raise Conflict(
                f"These books have met {PROCESSORS.get(met, met)} and not "
                f"{PROCESSORS.get(kind, kind)}, so no payments run on them. Start the market with "
                "what it had before, or open new books with --data.",
                None,
                "other_processor",
                None,
                False,
            )

    async def record_events(self, events: Sequence[ProcessorEvent]) -> int:
        """Keep notices before they are answered; how many were new. Duplicates are fine."""
        self._check_alive()
        new = 0
        for event in events:
            for text in (event.event, event.kind, event.subject):
                check_text("event", text)
            created_s = min(max(0, event.created_s), EVENT_S_MAX)
            if await self._fetch(self._desk.events, event.event) is None:
                now_ns = self._now_ns()
                self._desk.put(
                    EventRow(
                        id=event.event,
                        kind=event.kind,
                        subject=event.subject,
                        state="new",
                        tries=0,
                        reason="",
                        created_ns=created_s * 1_000_000_000,
                        changed_ns=now_ns,
                    )
                )
                new += 1
        await self._written()
        return new

    async def event_done(self, event_id: str, reason: str = "") -> None:
        """A notice has been acted on, or says nothing to us."""
        self._check_alive()
        row = self._desk.events.get(event_id)
        if row is not None and row.state == "new":
            self._desk.put(row._replace(state="done", reason=reason, changed_ns=self._now_ns()))
        await self._written()

    async def event_troubled(self, event_id: str, trouble: Trouble) -> None:
        """A notice could not be acted on: it is tried again, later and later."""
        self._check_alive()
        row = self._desk.events.get(event_id)
        if row is not None and row.state == "new":
            tries = row.tries + 1
            refused = trouble.kind == "refused" and not trouble.passes
            state = "failed" if refused and tries >= REFUSED_TRIES_MAX else "new"
            if state == "failed":
                log.error("the notice %s is given up: %s", event_id, trouble.reason)
            self._desk.put(
                row._replace(
                    state=state, tries=tries, reason=trouble.reason, changed_ns=self._now_ns()
                )
            )
        await self._written()

    async def newest_event_s(self) -> int:
        """When the newest notice we have was made, in Unix seconds; 0 without one."""
        self._check_alive()
        rows = await self._store.rows(EventRow, limit=1)
        return rows[0].created_ns // 1_000_000_000 if rows else 0

    # ── what is to be done ────────────────────────────────────────────────────────────

    async def payment_work(self) -> PaymentWork:
        """What is due now. Credit that has become free pays debts on the way."""
        self._check_alive()
        now_ns = self._now_ns()
        if collect_debts(self._desk, now_ns):
            await self._written()
        return work_due(self._desk, now_ns, week_due=self._week_due(now_ns))

    async def payment_counts(self) -> dict[str, int]:
        """Sizes, for metrics."""
        self._check_alive()
        desk = self._desk
        counts = {
            "topups_open": len(desk.topups.open()),
            "refunds_open": len(desk.refunds.open()),
            "payouts_open": len(desk.payouts.open()),
            "disputes_open": len(desk.disputes.open()),
            "events_waiting": len(desk.events.open()),
            "payees": len(desk.payees),
            "suspense_cents": _liability_cents(self._desk.ledger.find(Code.SUSPENSE)),
        }
        for row in desk.payouts.open():
            name = labelled("payouts", state=row.state)
            counts[name] = counts.get(name, 0) + 1
        return counts

    # ── reconciliation ────────────────────────────────────────────────────────────────

    async def match_lines(self, lines: Sequence[BalanceLine], book: bool) -> Matched:
        """Match balance lines with the ledger; `book` puts the others into suspense."""
        self._check_alive()
        async with self._journal:
            rows = {line.line: await self._row_of(line) for line in lines}
            ids = {name for line in lines for name in matching.posting_ids(line, rows[line.line])}
            posted = await self._posted(sorted(ids))
            now_ns = self._now_ns()
            unexplained = []
            for line in lines:
                row = rows[line.line]
                why = matching.why_unexplained(line, row, posted)
                if not why:
                    self._explained(line, row, posted, now_ns)
                    continue
                unexplained.append(matching.Unexplained(line, why))
                if book and matching.suspend(self._desk, line, posted, now_ns):
                    log.error(
                        "balance line %s (%s, %d cents) matches nothing; it is in suspense",
                        *(line.line, line.kind, line.net_cents),
                    )
            await self._written()
        return Matched(len(lines) - len(unexplained), tuple(unexplained))

    def _explained(
        self,
        line: BalanceLine,
        row: matching.OurRow | None,
        posted: matching.Posted,
        now_ns: int,
    ) -> None:
        matching.release(self._desk, line, posted, now_ns)
        late_cents = matching.late_fee_cents(line, row, posted)
        if row is not None and late_cents:
            book_fee(self._desk, row.id, late_cents, now_ns)

    async def _row_of(self, line: BalanceLine) -> matching.OurRow | None:
        """The row of ours that a balance line is about."""
        desk = self._desk
        if line.kind in matching.CHARGES:
            return await self.topup_of_intent(line.intent)
        if line.kind in (*matching.REFUNDS, *matching.REFUND_FAILURES):
            return await self._fetch(desk.refunds, line.our_id)
        if line.kind in matching.TRANSFERS:
            return await self._fetch(desk.payouts, line.our_id)
        if line.kind in matching.REVERSALS and line.intent:
            return await self.payout_of_transfer(line.intent)
        if line.kind in matching.DISPUTES:
            return await self._fetch(desk.disputes, line.source)
        return None

    async def payment_sums(self) -> PaymentSums:
        """The ledger's side, after everything that was matched."""
        self._check_alive()
        desk = self._desk
        last = self._operations.last(RECONCILED)
        return PaymentSums(
            clearing_cents=asset_cents(desk.ledger.find(Code.STRIPE_CLEARING)),
            refunds_cents=sum(
                row.amount_cents for row in desk.refunds.open() if row.state == "decided"
            ),
            payouts_cents=sum(
                row.amount_cents for row in desk.payouts.open() if row.state in ("sent", "unknown")
            ),
            suspense_cents=_liability_cents(desk.ledger.find(Code.SUSPENSE)),
            since_s=int(json.loads(last.result)["until_s"]) if last else 0,
        )

    async def reconciled(self, told: dict[str, object], until_s: int) -> None:
        """Write down that the books were compared up to then, and what came of it."""
        self._check_alive()
        now_ns = self._now_ns()
        result = json.dumps({**told, "until_s": until_s}, sort_keys=True)
        row = OperationRow(f"{RECONCILED}{now_ns}", "", result, now_ns)
        self._operations.enter(row)
        self._books.ledger.changes.operations.append(row)
        await self._written()


def _liability_cents(account: object) -> int:
    return 0 if account is None else account.posted_nano // NANO_PER_CENT  # type: ignore[attr-defined]
