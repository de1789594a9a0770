"""The errands of payments: one row, one conversation with the processor, one durable step.

Every errand may be cut off at any await and done again from the row: it asks what is so
before it acts, acts under an id that is always the same, and says to the accountant what it
heard. It keeps nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from market.accounting.state_rows import (
    DisputeRow,
    EventRow,
    PayeeRow,
    PayoutRow,
    RefundRow,
    TopUpRow,
)
from market.payments.answers import INTERRUPTED, Trouble, trouble_of
from market.payments.processor import (
    Checkout,
    PaymentProcessor,
    ProcessorError,
    ProcessorRefused,
)
from market.payments.topups import ASKED_NS_MAX

log = logging.getLogger("coster.payments")

DECLINED_LATER: Final = "checkout.session.async_payment_failed"
AVAILABLE: Final = "balance.available"


class Ask(Protocol):
    """Call a method of the accountant; while it is away, again. All of them may be repeated."""

    async def __call__(self, method: str, *args: object) -> Any: ...


class Errands:
    """What is done with each kind of row."""

    def __init__(
        self,
        ask: Ask,
        processor: PaymentProcessor,
        *,
        success_url: str,
        cancel_url: str,
        now_ns: Callable[[], int],
    ) -> None:
        self._ask = ask
        self._processor = processor
        self._success_url = success_url
        self._cancel_url = cancel_url
        self._now_ns = now_ns

    # ── top-ups ───────────────────────────────────────────────────────────────────────

    async def open_page(self, row: TopUpRow) -> TopUpRow:
        """Have the processor make the payment page; the same one however often.

        Raises ProcessorError when there is no page to give.
        """
        try:
            page = await self._processor.open_checkout(
                row.id,
                row.amount_cents,
                success_url=self._success_url,
                cancel_url=self._cancel_url,
            )
        except ProcessorRefused as error:
            await self._ask("topup_given_up", row.id, trouble_of(error).reason)
            raise
        opened: TopUpRow = await self._ask("topup_look", page)
        return opened

    async def topup(self, row: TopUpRow) -> None:
        """Look after a top-up that is not over."""
        if row.state == "open":
            await self._ask("topup_look", await self._processor.checkout(row.session))
            return
        try:
            await self.open_page(row)
        except ProcessorError as error:
            if self._now_ns() - row.created_ns < ASKED_NS_MAX:
                raise
            await self._ask("topup_given_up", row.id, trouble_of(error).reason)

    # ── refunds and payouts ───────────────────────────────────────────────────────────

    async def refund(self, row: RefundRow) -> None:
        """Carry a refund one step further."""
        processor = self._processor
        try:
            if row.state == "pending":
                await self._ask("refund_look", await processor.refund_by_id(row.refund))
                return
            if row.state == "unknown":
                found = await processor.find_refund(row.id, row.intent)
                if found is not None:
                    await self._ask("refund_look", found)
                    return
        except ProcessorError as error:
            await self._ask("refund_failed", row.id, _nothing_learnt(error), False)
            return
        row, first = await self._ask("refund_sending", row.id)
        if row.state != "unknown":
            return
        try:
            said = await processor.refund(row.id, row.intent, row.amount_cents)
        except ProcessorError as error:
            log.warning("refund %s: %s", row.id, error)
            await self._ask("refund_failed", row.id, trouble_of(error), first)
            return
        await self._ask("refund_look", said)

    async def payout(self, row: PayoutRow) -> None:
        """Carry a payout one step further: look when it may have been sent, else send it."""
        processor = self._processor
        if row.state == "sent":  # and nobody here is waiting for the answer
            row = await self._ask("payout_failed", row.id, row.tries, INTERRUPTED, False)
        if row.state == "unknown":
            try:
                found = await processor.find_transfer(row.id)
            except ProcessorError as error:
                trouble = _nothing_learnt(error)
                await self._ask("payout_failed", row.id, row.tries, trouble, False)
                return
            if found is not None:
                await self._ask("payout_look", row.id, found)
                return
        row, first = await self._ask("payout_sending", row.id)
        if row.state not in ("sent", "unknown"):
            return
        try:
            said = await processor.transfer(row.id, row.account, row.amount_cents, row.tries)
        except ProcessorError as error:
            log.warning("payout %s: %s", row.id, error)
            trouble = trouble_of(error)
            await self._ask("payout_failed", row.id, row.tries, trouble, first)
            if trouble.kind == "refused" and not trouble.passes:
                await self.payee(row.account)
            return
        await self._ask("payout_look", row.id, said)

    async def payee(self, account: str) -> PayeeRow | None:
        """Bring a payee to what the processor says of it."""
        said = await self._processor.recipient(account)
        row: PayeeRow | None = await self._ask("payee_look", said)
        return row

    # ── disputes ──────────────────────────────────────────────────────────────────────

    async def dispute(self, dispute: str) -> bool:
        """Bring a dispute to what the processor says of it; False when it is none of ours."""
        said = await self._processor.dispute(dispute)
        row: DisputeRow | None = await self._ask("dispute_look", said)
        if row is None and said.intent:
            # Its payment may not have been heard of yet.
            if not await self.pages_of(said.intent):
                return False
            row = await self._ask("dispute_look", said)
        return row is not None

    async def pages_of(self, intent: str) -> bool:
        """Look at the payment pages behind a payment; whether one of ours is among them."""
        pages: list[Checkout] = list(await self._processor.checkouts_of(intent))
        looked = [await self._ask("topup_look", page) for page in pages]
        return any(row is not None for row in looked)

    # ── notices ───────────────────────────────────────────────────────────────────────

    async def event(self, row: EventRow) -> None:
        """Act on a notice: ask the processor about its subject, whatever the notice said."""
        try:
            ours = await self._hear(row)
        except ProcessorError as error:
            await self._ask("event_troubled", row.id, trouble_of(error))
            return
        await self._ask("event_done", row.id, "" if ours else "It is about nothing of ours.")

    async def _hear(self, row: EventRow) -> bool:
        kind, subject, processor = row.kind, row.subject, self._processor
        if kind.startswith("checkout.session."):
            page = await processor.checkout(subject)
            return await self._ask("topup_look", page, kind == DECLINED_LATER) is not None
        if kind.startswith("refund."):
            refund = await processor.refund_by_id(subject)
            return await self._ask("refund_look", refund) is not None
        if kind.startswith("charge.dispute."):
            return await self.dispute(subject)
        if kind.startswith("transfer."):
            return await self._transfer(subject)
        if kind.startswith("v2.core.account"):
            return await self.payee(subject) is not None
        if kind == AVAILABLE:
            await self._ask("payouts_nudged")
            return True
        return False

    async def _transfer(self, transfer: str) -> bool:
        row: PayoutRow | None = await self._ask("payout_of_transfer", transfer)
        if row is None:
            return False  # one of ours that is not confirmed yet is being looked after
        found = await self._processor.find_transfer(row.id)
        if found is not None:
            await self._ask("payout_look", row.id, found)
        return True


def _nothing_learnt(error: ProcessorError) -> Trouble:
    """A look-up that failed says nothing about the call it was to clear up."""
    return Trouble("unknown", trouble_of(error).code, trouble_of(error).reason)
