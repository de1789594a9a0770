"""The accountant's part in money coming in: top-ups, refunds, disputes.

Each answer is durable when it is given, and each call may be repeated.
"""

from __future__ import annotations

from typing import Final

from actors.accounting.payments_core import ID_PREFIX, PaymentCore, check_same, contents_hash
from market.accounting.state_rows import DisputeRow, RefundRow, TopUpRow
from market.errors import NotFound
from market.payments import disputes, refunds, topups
from market.payments.answers import Trouble
from market.payments.processor import Checkout, Dispute, Refund
from market.types import AccountId

DAY_ROWS_MAX: Final = 10_000


class PaymentsIn(PaymentCore):
    """Top-ups and what may become of them later."""

    # ── top-ups ───────────────────────────────────────────────────────────────────────

    async def ask_topup(self, account: AccountId, amount_cents: int, key: str) -> TopUpRow:
        """Write down that an account wants to pay in; again with the same key is the same one.

        Raises NotFound, Forbidden, InvalidRequest, RateLimited or Conflict.
        """
        self._check_alive()
        desk = self._desk
        topup_id, hashed = (
            self._derived_id(ID_PREFIX["topup"], account, key),
            contents_hash(key, amount_cents),
        )
        earlier = await self._store.rows(TopUpRow, owner=account, limit=DAY_ROWS_MAX)
        await self._fetch(desk.topups, topup_id)
        known = desk.topups.get(topup_id)
        if known is not None:
            check_same(known, hashed)
            await self._written()
            return known
        now_ns = self._now_ns()
        owner = desk.active_owner(account, "a top-up")
        rows = {row.id: row for row in earlier} | {
            row.id: row for row in desk.topups if row.owner == account
        }
        today_cents = topups.today_cents(list(rows.values()), now_ns)
        topups.check_ask(desk, owner, amount_cents, today_cents, now_ns)
        row = topups.ask(desk, topup_id, account, amount_cents, hashed, now_ns)
        await self._written()
        return row

    async def topup_look(self, page: Checkout, declined: bool = False) -> TopUpRow | None:
        """What the processor says of a payment page now; None when it is none of ours."""
        self._check_alive()
        row = await self._fetch(self._desk.topups, page.topup_id)
        if row is None:
            return None
        row = topups.look(self._desk, row, page, self._now_ns(), declined=declined)
        await self._written()
        return row

    async def topup_given_up(self, topup_id: str, reason: str) -> TopUpRow:
        """No payment page can be had for it; raises NotFound."""
        self._check_alive()
        row = await self._fetch(self._desk.topups, topup_id)
        if row is None:
            raise NotFound(f"There is no topup {topup_id[:60]!r}.", "id", "topup_not_found")
        row = topups.give_up(self._desk, row, reason, self._now_ns())
        await self._written()
        return row

    async def topups(
        self, account: AccountId, limit: int, before_ns: int | None = None
    ) -> list[TopUpRow]:
        """An account's top-ups, newest first."""
        return await self._listed(self._desk.topups, account, limit, before_ns)

    async def topup_of(self, account: AccountId, topup_id: str) -> TopUpRow:
        """One top-up; raises NotFound."""
        self._check_alive()
        return await self._own(self._desk.topups, account, topup_id, "topup")

    async def topup_of_intent(self, intent: str) -> TopUpRow | None:
        """The top-up that a payment was booked for."""
        self._check_alive()
        await self._fetch_intent(intent)
        return self._desk.topup_of_intent(intent)

    async def _fetch_intent(self, intent: str) -> None:
        if intent and self._desk.topup_of_intent(intent) is None:
            for row in await self._store.rows(TopUpRow, intent=intent):
                self._desk.topups.remember(row)

    # ── refunds ───────────────────────────────────────────────────────────────────────

    async def decide_refund(
        self, account: AccountId, topup_id: str, amount_cents: int | None, key: str
    ) -> RefundRow:
        """Take the credit and note that it goes back; again with the same key is the same one."""
        self._check_alive()
        desk = self._desk
        refund_id = self._derived_id(ID_PREFIX["refund"], account, key)
        hashed = contents_hash(key, topup_id, amount_cents)
        await self._fetch(desk.refunds, refund_id)
        topup = await self._own(desk.topups, account, topup_id, "topup")
        row = desk.refunds.get(refund_id)
        if row is None:
            row = refunds.decide(desk, refund_id, topup, amount_cents, hashed, self._now_ns())
        else:
            check_same(row, hashed)
        await self._written()
        return row

    async def refund_sending(self, refund_id: str) -> tuple[RefundRow, bool]:
        """Before the processor is asked: the row, and whether nobody was asked before."""
        self._check_alive()
        row = await self._fetch(self._desk.refunds, refund_id)
        assert row is not None
        answer = refunds.sending(self._desk, row, self._now_ns())
        await self._written()
        return answer

    async def refund_look(self, said: Refund) -> RefundRow | None:
        """What the processor says of a refund now; None when it is none of ours."""
        self._check_alive()
        both = await self._refund_and_topup(said.refund_id)
        if both is None or said.amount_cents != both[0].amount_cents:
            return None
        row = refunds.look(self._desk, *both, said, self._now_ns())
        await self._written()
        return row

    async def refund_failed(self, refund_id: str, trouble: Trouble, first: bool) -> RefundRow:
        """A call to the processor went wrong; `first`: no earlier one may have taken effect."""
        self._check_alive()
        both = await self._refund_and_topup(refund_id)
        assert both is not None
        row = refunds.failed(self._desk, *both, trouble, first=first, now_ns=self._now_ns())
        await self._written()
        return row

    async def _refund_and_topup(self, refund_id: str) -> tuple[RefundRow, TopUpRow] | None:
        desk = self._desk
        row = await self._fetch(desk.refunds, refund_id)
        if row is None:
            return None
        await self._fetch(desk.topups, row.topup)
        now, topup = desk.refunds.get(refund_id), desk.topups.get(row.topup)
        assert now is not None
        assert topup is not None
        return now, topup

    # ── disputes ──────────────────────────────────────────────────────────────────────

    async def dispute_look(self, said: Dispute) -> DisputeRow | None:
        """What the processor says of a dispute now; None without a paid top-up of ours."""
        self._check_alive()
        desk = self._desk
        await self._fetch(desk.disputes, said.dispute)
        await self._fetch_intent(said.intent)
        topup = desk.topup_of_intent(said.intent) if said.intent else None
        if topup is None or topup.state != "paid":
            return None
        row = disputes.look(desk, topup, desk.disputes.get(said.dispute), said, self._now_ns())
        await self._written()
        return row
