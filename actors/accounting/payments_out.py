"""The accountant's part in money going out: who can be paid, payouts, the weekly run."""

from __future__ import annotations

import json

from actors.accounting.payments_core import ID_PREFIX, PaymentCore, check_same, contents_hash
from market.accounting.acts import payee_act
from market.accounting.rows import OperationRow
from market.accounting.state_rows import PayeeRow, PayoutRow
from market.errors import Conflict
from market.payments import payouts
from market.payments.answers import Trouble
from market.payments.processor import Recipient, Transfer
from market.payments.quotes import WithdrawalQuote
from market.types import AccountId


class PaymentsOut(PaymentCore):
    """Payees and payouts."""

    # ── payees ────────────────────────────────────────────────────────────────────────

    async def payee(self, account: AccountId) -> PayeeRow | None:
        """How an account is paid; None when that was never set up. Raises NotFound."""
        self._check_alive()
        self._desk.owner(account)
        return self._desk.payees.get(account)

    async def may_onboard(self, account: AccountId, country: str) -> PayeeRow | None:
        """The payee there is already; raises Forbidden or Conflict when there may be none."""
        self._check_alive()
        self._desk.active_owner(account, "setting up payouts")
        row = self._desk.payees.get(account)
        if row is not None and row.country != country:
            raise Conflict(
                f"Payouts of this account are set up for {row.country}; the country of a payout "
                "account cannot be changed. Write to the operator.",
                "country",
                "country_fixed",
                None,
                False,
            )
        return row

    async def payee_opened(self, account: AccountId, said: Recipient) -> PayeeRow:
        """The processor has an account for this payee; the first one stays."""
        self._check_alive()
        if account not in self._desk.payees:
            now_ns = self._now_ns()
            row = PayeeRow(
                owner=account,
                country=said.country,
                account=said.account,
                state=_state(said),
                requirements=_requirements(said),
                weekly=int(self._desk.terms.weekly_payouts),
                created_ns=now_ns,
                changed_ns=now_ns,
            )
            self._desk.put(row)
            self._desk.ledger.changes.operations.append(payee_act(row))
        await self._written()
        return self._desk.payees[account]

    async def payee_look(self, said: Recipient) -> PayeeRow | None:
        """What the processor says of a payee now; None when it is none of ours."""
        self._check_alive()
        for row in self._desk.payees.values():
            if row.account == said.account:
                now = row._replace(state=_state(said), requirements=_requirements(said))
                if now != row:
                    self._desk.put(now._replace(changed_ns=self._now_ns()))
                await self._written()
                return self._desk.payees[row.owner]
        return None

    async def set_weekly(self, account: AccountId, on: bool) -> PayeeRow:
        """Whether this account takes part in the weekly run; raises Conflict before set-up."""
        self._check_alive()
        self._desk.owner(account)
        row = self._desk.payees.get(account)
        if row is None:
            payouts.check_payee(row)
            raise AssertionError
        if row.weekly != int(on):
            row = row._replace(weekly=int(on), changed_ns=self._now_ns())
            self._desk.put(row)
        await self._written()
        return row

    # ── payouts ───────────────────────────────────────────────────────────────────────

    async def quote_payout(self, account: AccountId, amount_cents: int | None) -> WithdrawalQuote:
        """What a withdrawal would bring now."""
        self._check_alive()
        return payouts.quote(self._desk, account, amount_cents)

    async def decide_payout(
        self,
        account: AccountId,
        amount_cents: int | None,
        expected_fee_nano: int | None,
        key: str,
    ) -> PayoutRow:
        """Take the earnings and note that they are paid out; the same key is the same payout."""
        self._check_alive()
        desk = self._desk
        payout_id = self._derived_id(ID_PREFIX["withdraw"], account, key)
        hashed = contents_hash(key, amount_cents, expected_fee_nano)
        known = await self._fetch(desk.payouts, payout_id)
        if known is not None:
            check_same(known, hashed)
            await self._written()
            return known
        row = payouts.decide(
            desk,
            payout_id,
            account,
            amount_cents,
            expected_fee_nano=expected_fee_nano,
            minimum_cents=desk.terms.withdraw_min_cents,
            idempotency=hashed,
            now_ns=self._now_ns(),
        )
        await self._written()
        return row

    async def payout_sending(self, payout_id: str) -> tuple[PayoutRow, bool]:
        """Before the processor is asked: the row, and whether this attempt is new."""
        self._check_alive()
        row = await self._fetch(self._desk.payouts, payout_id)
        assert row is not None
        answer = payouts.sending(self._desk, row, self._now_ns())
        await self._written()
        return answer

    async def payout_look(self, payout_id: str, said: Transfer) -> PayoutRow | None:
        """What the processor says of a payout's transfer now; None when it is none of ours."""
        self._check_alive()
        desk = self._desk
        row = await self._fetch(desk.payouts, payout_id)
        if row is None:
            return None
        if said.reversed_cents:
            async with self._journal:
                posted = await self._posted([payouts.reversal_id(payout_id)])
                row = desk.payouts.get(payout_id)
                assert row is not None
                row = payouts.look(desk, row, said, sum(posted.values()), self._now_ns())
                await self._written()
            return row
        row = payouts.look(desk, row, said, 0, self._now_ns())
        await self._written()
        return row

    async def payout_failed(
        self,
        payout_id: str,
        attempt: int,
        trouble: Trouble,
        first: bool,
    ) -> PayoutRow:
        """A call went wrong; `first`: no earlier one of this attempt may have taken effect."""
        self._check_alive()
        row = await self._fetch(self._desk.payouts, payout_id)
        assert row is not None
        row = payouts.failed(self._desk, row, attempt, trouble, first=first, now_ns=self._now_ns())
        await self._written()
        return row

    async def payouts_nudged(self) -> None:
        """The processor has money available: what waited for it is due now."""
        self._check_alive()
        payouts.nudge(self._desk, self._now_ns())
        await self._written()

    async def payouts(
        self, account: AccountId, limit: int, before_ns: int | None = None
    ) -> list[PayoutRow]:
        """An account's payouts, newest first."""
        return await self._listed(self._desk.payouts, account, limit, before_ns)

    async def payout_of(self, account: AccountId, payout_id: str) -> PayoutRow:
        """One payout; raises NotFound."""
        self._check_alive()
        return await self._own(self._desk.payouts, account, payout_id, "payout")

    async def payout_of_transfer(self, transfer: str) -> PayoutRow | None:
        """The payout that a transfer of the processor's was made for."""
        self._check_alive()
        for row in await self._store.rows(PayoutRow, transfer=transfer, limit=1):
            return await self._fetch(self._desk.payouts, row.id)
        return None

    # ── the weekly run ────────────────────────────────────────────────────────────────

    async def run_weekly(self) -> dict[str, object]:
        """Decide the payouts of the present week, all of them or none, once.

        The week begins on Monday 00:00 UTC by the ledger's clock, which never goes back. A
        market that was down on Monday runs it when it is back, for the latest Monday only.
        The answer says whether this call decided them or an earlier one, and when.
        """
        self._check_alive()
        now_ns = self._now_ns()
        monday = payouts.monday_of(now_ns)
        done = self._operations.find(_weekly_key(monday))
        already = done is not None
        if done is None:
            rows, passed = payouts.weekly(self._desk, monday, now_ns)
            told = {
                "monday": monday,
                "payouts": len(rows),
                "amount_cents": sum(row.amount_cents for row in rows),
                "passed": passed,
            }
            done = OperationRow(_weekly_key(monday), "", json.dumps(told, sort_keys=True), now_ns)
            self._operations.enter(done)
            self._books.ledger.changes.operations.append(done)
        await self._written()
        return payouts.week_told(json.loads(done.result), monday, done.ts_ns, already=already)

    def _week_due(self, now_ns: int) -> bool:
        monday = payouts.monday_of(now_ns)
        return (
            self._desk.terms.weekly_payouts and self._operations.find(_weekly_key(monday)) is None
        )


def _weekly_key(monday: int) -> str:
    return f"weekly:{monday}"


def _state(said: Recipient) -> str:
    if said.active:
        return "active"
    return "restricted" if said.requirements else "pending"


def _requirements(said: Recipient) -> str:
    return ", ".join(said.requirements)[:1000]
