"""Payments in memory: rows that move from state to state when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from market.accounting.state_rows import PayeeRow, PayoutRow, RefundRow, TopUpRow
from market.errors import Conflict, InvalidRequest, NotFound
from market.types import AccountId

START_NS = 1_800_000_000_000_000_000


@dataclass
class WithdrawalQuote:
    """What `WithdrawalQuoteView` shows."""

    amount_cents: int
    fee_nano: int
    receives_cents: int
    withdrawable_nano: int = 12_345_678_901
    maturing_nano: int = 5
    minimum_cents: int = 100
    arrives: str = "In a while."


class Payments:
    """A `PaymentsPort`: remembers calls by their caller's key, as the real one does."""

    FEE_NANO = 250_000_000
    SIGNATURE = "t=1,v1=good"

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.payees: dict[AccountId, PayeeRow] = {}
        self.notices: list[bytes] = []
        self.calls: list[tuple[str, AccountId, str | None]] = []
        self._kept: dict[tuple[str, AccountId, str], tuple[Any, str]] = {}

    async def known(self, account: AccountId, act: str, idempotency: str) -> bool:
        return (act, account, idempotency) in self._kept

    async def topup(
        self, account: AccountId, amount_cents: int, idempotency: str | None
    ) -> TopUpRow:
        at_ns = self._tick()
        row = TopUpRow(
            f"tu_{len(self.rows)}", account, amount_cents, "open", "cs_1", "https://pay.test/1",
            "", 0, 0, "", "", at_ns, at_ns,
        )  # fmt: skip
        return self._once("topup", account, idempotency, (amount_cents,), row)

    async def topups(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[TopUpRow]:
        return self._page(TopUpRow, account, limit, before_ns)

    async def topup_of(self, account: AccountId, topup_id: str) -> TopUpRow:
        return self._mine(TopUpRow, account, topup_id)

    async def refund(
        self, account: AccountId, topup_id: str, amount_cents: int | None, idempotency: str | None
    ) -> RefundRow:
        topup = self._mine(TopUpRow, account, topup_id)
        at_ns = self._tick()
        row = RefundRow(
            f"rf_{len(self.rows)}", account, topup.id, "pi_1", amount_cents or topup.amount_cents,
            "decided", "", 0, 0, "", "", at_ns, at_ns,
        )  # fmt: skip
        return self._once("refund", account, idempotency, (topup_id, amount_cents), row)

    async def onboard(
        self, account: AccountId, country: str, idempotency: str | None
    ) -> tuple[PayeeRow, str]:
        self.calls.append(("onboard", account, idempotency))
        row = PayeeRow(account, country, "acct_x", "pending", "external_account", 1, 1, 1)
        return self.payees.setdefault(account, row), "https://form.test/1"

    async def payee(self, account: AccountId) -> PayeeRow | None:
        return self.payees.get(account)

    async def set_weekly(self, account: AccountId, on: bool) -> PayeeRow:
        if account not in self.payees:
            raise NotFound("Payouts are not set up.", None, "no_payee")
        self.payees[account] = self.payees[account]._replace(weekly=int(on))
        return self.payees[account]

    async def quote_withdrawal(
        self, account: AccountId, amount_cents: int | None
    ) -> WithdrawalQuote:
        cents = amount_cents or 1_234
        return WithdrawalQuote(cents, self.FEE_NANO, max(0, cents - 25))

    async def withdraw(
        self,
        account: AccountId,
        amount_cents: int | None,
        expected_fee_nano: int | None,
        idempotency: str | None,
    ) -> PayoutRow:
        if expected_fee_nano not in (None, self.FEE_NANO):
            raise Conflict("The fee is another one.", None, "fee_changed", None, False)
        at_ns = self._tick()
        row = PayoutRow(
            f"po_{len(self.rows)}", account, 0, (amount_cents or 1_234) - 25, self.FEE_NANO,
            "acct_x", "decided", "", 0, 0, "", "", at_ns, at_ns,
        )  # fmt: skip
        return self._once("withdraw", account, idempotency, (amount_cents,), row)

    async def payouts(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[PayoutRow]:
        return self._page(PayoutRow, account, limit, before_ns)

    async def payout_of(self, account: AccountId, payout_id: str) -> PayoutRow:
        return self._mine(PayoutRow, account, payout_id)

    async def webhook(self, payload: bytes, signature: str) -> None:
        if signature != self.SIGNATURE:
            raise InvalidRequest("Not signed by the processor.", None, "invalid_signature")
        self.notices.append(payload)

    def _tick(self) -> int:
        return START_NS + len(self.rows)

    def _once(self, kind: str, account: AccountId, own: str | None, contents: Any, row: Any) -> Any:
        self.calls.append((kind, account, own))
        if own is not None:
            before = self._kept.get((kind, account, own))
            if before is not None and before[0] != contents:
                raise Conflict("Other contents.", None, "idempotency_key_reused", None, False)
            if before is not None:
                return self.rows[before[1]]
            self._kept[kind, account, own] = (contents, row.id)
        self.rows[row.id] = row
        return row

    def _mine(self, kind: type, account: AccountId, wanted: str) -> Any:
        row = self.rows.get(wanted)
        if not isinstance(row, kind) or row.owner != account:
            raise NotFound("There is no such id.", None, "not_found")
        return row

    def _page(self, kind: type, account: AccountId, limit: int, before_ns: int | None) -> list[Any]:
        rows = [
            row
            for row in reversed(self.rows.values())
            if isinstance(row, kind)
            and row.owner == account
            and (before_ns is None or row.created_ns < before_ns)
        ]
        return rows[:limit]
