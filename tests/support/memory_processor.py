"""A payment processor without a wire: the port, its promises, and what people do at its pages.

For suites that go through thousands of histories. The fake Stripe, over real HTTP, is what
the rest is tested against.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from market.errors import InvalidRequest
from market.payments.processor import (
    BalanceLine,
    Checkout,
    Dispute,
    ProcessorBalance,
    ProcessorEvent,
    ProcessorRefused,
    Recipient,
    Refund,
    Transfer,
)

T = TypeVar("T")
KEY_S = 86_400
FEE_CENTS = 100
DISPUTE_FEE_CENTS = 1500


@dataclass
class MemoryProcessor:
    """Everything that Stripe would remember. `now_s` is its clock."""

    now_s: Callable[[], int]
    checkouts: dict[str, Checkout] = field(default_factory=dict)
    refunds: dict[str, Refund] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    recipients: dict[str, Recipient] = field(default_factory=dict)
    disputes: dict[str, Dispute] = field(default_factory=dict)
    lines: list[BalanceLine] = field(default_factory=list)
    events: list[ProcessorEvent] = field(default_factory=list)
    kept: dict[str, tuple[int, Any]] = field(default_factory=dict)
    refunds_wait: bool = False
    pending_cents: int = 0
    endowed_cents: int = 0

    # ── the port ──────────────────────────────────────────────────────────────────────

    async def open_checkout(
        self, topup_id: str, amount_cents: int, *, success_url: str, cancel_url: str
    ) -> Checkout:
        session = f"cs_{topup_id}"
        return self.checkouts.setdefault(
            session, Checkout(session, "https://pay", topup_id, "open", False, amount_cents, "usd")
        )

    async def checkout(self, session: str) -> Checkout:
        return self._get(self.checkouts, session)

    async def checkouts_of(self, intent: str) -> Sequence[Checkout]:
        return [page for page in self.checkouts.values() if page.intent == intent]

    async def open_recipient(self, owner_ref: str, country: str) -> Recipient:
        account = f"acct_{owner_ref}"
        return self.recipients.setdefault(account, Recipient(account, country, False, ("name",)))

    async def recipient(self, account: str) -> Recipient:
        return self._get(self.recipients, account)

    async def onboarding_url(self, account: str, *, return_url: str, refresh_url: str) -> str:
        return f"https://onboard/{account}"

    async def transfer(
        self, payout_id: str, account: str, amount_cents: int, attempt: int = 0
    ) -> Transfer:
        key = f"payout:{payout_id}:{attempt}"
        kept = self._kept(key)
        if kept is not None:
            return self.transfers[kept]
        if not self._get(self.recipients, account).active:
            raise self._keep(key, ProcessorRefused("not active", None, "account_invalid"))
        if amount_cents > self.balance_cents - self.pending_cents:
            raise self._keep(key, ProcessorRefused("too little", None, "balance_insufficient"))
        made = Transfer(f"tr_{len(self.transfers)}", payout_id, account, amount_cents)
        self.transfers[made.transfer] = made
        self._keep(key, made.transfer)
        self._line("transfer", made.transfer, payout_id, "", -amount_cents)
        self._tell("transfer.created", made.transfer)
        return made

    async def find_transfer(self, payout_id: str) -> Transfer | None:
        found = [made for made in self.transfers.values() if made.payout_id == payout_id]
        assert len(found) < 2
        return found[0] if found else None

    async def refund(self, refund_id: str, intent: str, amount_cents: int) -> Refund:
        key = f"refund:{refund_id}"
        kept = self._kept(key)
        if kept is not None:
            return self.refunds[kept]
        if any(d.intent == intent and d.status == "open" for d in self.disputes.values()):
            raise self._keep(key, ProcessorRefused("disputed", None, "charge_disputed"))
        status = "pending" if self.refunds_wait else "succeeded"
        made = Refund(f"re_{len(self.refunds)}", refund_id, intent, amount_cents, status)  # type: ignore[arg-type]
        self.refunds[made.refund] = made
        self._keep(key, made.refund)
        self._line("refund", made.refund, refund_id, intent, -amount_cents)
        self._tell("refund.created", made.refund)
        return made

    async def find_refund(self, refund_id: str, intent: str) -> Refund | None:
        found = [made for made in self.refunds.values() if made.refund_id == refund_id]
        assert len(found) < 2
        return found[0] if found else None

    async def refund_by_id(self, refund: str) -> Refund:
        return self._get(self.refunds, refund)

    async def dispute(self, dispute: str) -> Dispute:
        return self._get(self.disputes, dispute)

    async def disputes_since(self, created_s: int) -> Sequence[Dispute]:
        return list(self.disputes.values())

    async def balance(self) -> ProcessorBalance:
        return ProcessorBalance(self.balance_cents - self.pending_cents, self.pending_cents)

    async def lines_since(self, created_s: int) -> Sequence[BalanceLine]:
        return [line for line in self.lines if line.created_s >= created_s]

    async def events_since(self, created_s: int) -> Sequence[ProcessorEvent]:
        return [event for event in self.events if event.created_s >= created_s]

    def read_event(self, payload: bytes, signature: str) -> ProcessorEvent:
        if signature != "signed":
            raise InvalidRequest("Not signed.", None, "webhook_signature")
        return ProcessorEvent(*json.loads(payload))

    async def close(self) -> None:
        return

    # ── what people do ────────────────────────────────────────────────────────────────

    @property
    def balance_cents(self) -> int:
        return self.endowed_cents + sum(line.net_cents for line in self.lines)

    def endow(self, cents: int) -> None:
        """Money that was there before, with a line of its own that has been matched."""
        self.endowed_cents += cents

    def pay(self, topup_id: str, amount_cents: int | None = None) -> str:
        """Somebody pays, perhaps another sum; the payment's id."""
        page = self.checkouts[f"cs_{topup_id}"]
        intent = f"pi_{topup_id}"
        cents = page.amount_cents if amount_cents is None else amount_cents
        self.checkouts[page.session] = replace(
            page,
            status="complete",
            paid=True,
            intent=intent,
            fee_cents=FEE_CENTS,
            amount_cents=cents,
        )
        self._line("charge", f"ch_{topup_id}", topup_id, intent, cents, FEE_CENTS)
        self._tell("checkout.session.completed", page.session)
        return intent

    def expire(self, topup_id: str) -> None:
        page = self.checkouts[f"cs_{topup_id}"]
        self.checkouts[page.session] = replace(page, status="expired")
        self._tell("checkout.session.expired", page.session)

    def activate(self, account: str, *, active: bool = True) -> None:
        missing = () if active else ("document",)
        self.recipients[account] = replace(
            self.recipients[account], active=active, requirements=missing
        )
        self._tell("v2.core.account[requirements].updated", account)

    def open_dispute(self, intent: str, cents: int) -> str:
        name = f"dp_{len(self.disputes)}"
        self.disputes[name] = Dispute(name, intent, cents, cents, DISPUTE_FEE_CENTS, "open")
        self._line("adjustment", name, "", intent, -cents, DISPUTE_FEE_CENTS)
        self._tell("charge.dispute.created", name)
        self._tell("charge.dispute.funds_withdrawn", name)
        return name

    def reinstate(self, dispute: str, cents: int) -> None:
        """Some or all of it comes back."""
        known = self.disputes[dispute]
        self.disputes[dispute] = replace(known, withdrawn_cents=known.withdrawn_cents - cents)
        self._line("adjustment", dispute, "", known.intent, cents)
        self._tell("charge.dispute.funds_reinstated", dispute)

    def close_dispute(self, dispute: str, *, won: bool) -> None:
        known = self.disputes[dispute]
        self.disputes[dispute] = replace(known, status="won" if won else "lost")
        self._tell("charge.dispute.closed", dispute)
        if won and known.withdrawn_cents:
            self.reinstate(dispute, known.withdrawn_cents)

    def fail_refund(self, refund: str) -> None:
        known = self.refunds[refund]
        self.refunds[refund] = replace(known, status="failed")
        self._line("refund_failure", refund, known.refund_id, known.intent, known.amount_cents)
        self._tell("refund.failed", refund)

    def settle_refund(self, refund: str) -> None:
        self.refunds[refund] = replace(self.refunds[refund], status="succeeded")
        self._tell("refund.updated", refund)

    def reverse(self, transfer: str, cents: int) -> None:
        known = self.transfers[transfer]
        back = known.reversed_cents + cents
        self.transfers[transfer] = replace(known, reversed_cents=back)
        self._line("transfer_refund", f"trr_{len(self.lines)}", "", transfer, cents)
        self._tell("transfer.reversed", transfer)

    def stray(self, cents: int, kind: str = "adjustment") -> str:
        """Money that moves for a reason nobody told us."""
        return self._line(kind, "xx_1", "", "", cents)

    # ── helpers ───────────────────────────────────────────────────────────────────────

    def _keep(self, key: str, answer: T) -> T:
        self.kept[key] = (self.now_s(), answer)
        return answer

    def _kept(self, key: str) -> str | None:
        """What this key was answered; forgotten after a day, as at Stripe."""
        since_s, answer = self.kept.get(key, (0, None))
        if self.now_s() - since_s >= KEY_S:
            return None
        if isinstance(answer, ProcessorRefused):
            raise answer
        assert answer is None or isinstance(answer, str)
        return answer

    def _get(self, table: dict[str, Any], name: str) -> Any:
        if name not in table:
            raise ProcessorRefused(f"There is no {name}.", None, "resource_missing")
        return table[name]

    def _line(
        self, kind: str, source: str, our_id: str, intent: str, cents: int, fee: int = 0
    ) -> str:
        name = f"txn_{len(self.lines)}"
        self.lines.append(
            BalanceLine(name, kind, source, our_id, intent, cents, fee, cents - fee, self.now_s())
        )
        return name

    def _tell(self, kind: str, subject: str) -> None:
        name = f"evt_{len(self.events)}"
        self.events.append(ProcessorEvent(name, kind, subject, self.now_s()))
