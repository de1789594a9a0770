"""The gateway's side of payments: every call may be repeated while the actor is away.

A call without an idempotency key gets one here, so that repeating it is the same call.
Implements `serve_app.ports.PaymentsPort` by having the same methods.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from actors.calls import PAYMENTS, ActorCall, call_until
from market.accounting.state_rows import PayeeRow, PayoutRow, RefundRow, TopUpRow
from market.payments.desk import PaymentAct
from market.payments.quotes import WithdrawalQuote
from market.types import AccountId

PAYMENTS_S_MAX: Final = 15.0
"""A caller waits this long for a payments actor that restarts."""


class PaymentsClient:
    """The payments actor."""

    def __init__(self, call: ActorCall) -> None:
        self._call = call

    async def known(self, account: AccountId, act: PaymentAct, idempotency: str) -> bool:
        met: bool = await self._until("known", account, act, idempotency)
        return met

    async def topup(
        self, account: AccountId, amount_cents: int, idempotency: str | None
    ) -> TopUpRow:
        row: TopUpRow = await self._until("topup", account, amount_cents, _key(idempotency))
        return row

    async def topups(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[TopUpRow]:
        rows: Sequence[TopUpRow] = await self._until("topups", account, limit, before_ns)
        return rows

    async def topup_of(self, account: AccountId, topup_id: str) -> TopUpRow:
        row: TopUpRow = await self._until("topup_of", account, topup_id)
        return row

    async def refund(
        self,
        account: AccountId,
        topup_id: str,
        amount_cents: int | None,
        idempotency: str | None,
    ) -> RefundRow:
        row: RefundRow = await self._until(
            "refund", account, topup_id, amount_cents, _key(idempotency)
        )
        return row

    async def onboard(
        self, account: AccountId, country: str, idempotency: str | None
    ) -> tuple[PayeeRow, str]:
        answer: tuple[PayeeRow, str] = await self._until(
            "onboard", account, country, _key(idempotency)
        )
        return answer

    async def payee(self, account: AccountId) -> PayeeRow | None:
        row: PayeeRow | None = await self._until("payee", account)
        return row

    async def set_weekly(self, account: AccountId, on: bool) -> PayeeRow:
        row: PayeeRow = await self._until("set_weekly", account, on)
        return row

    async def quote_withdrawal(
        self, account: AccountId, amount_cents: int | None
    ) -> WithdrawalQuote:
        quote: WithdrawalQuote = await self._until("quote_withdrawal", account, amount_cents)
        return quote

    async def withdraw(
        self,
        account: AccountId,
        amount_cents: int | None,
        expected_fee_nano: int | None,
        idempotency: str | None,
    ) -> PayoutRow:
        row: PayoutRow = await self._until(
            "withdraw", account, amount_cents, expected_fee_nano, _key(idempotency)
        )
        return row

    async def payouts(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[PayoutRow]:
        rows: Sequence[PayoutRow] = await self._until("payouts", account, limit, before_ns)
        return rows

    async def payout_of(self, account: AccountId, payout_id: str) -> PayoutRow:
        row: PayoutRow = await self._until("payout_of", account, payout_id)
        return row

    async def webhook(self, payload: bytes, signature: str) -> None:
        await self._until("webhook", payload, signature)

    async def run_weekly(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = await self._until("run_weekly")
        return told

    async def reconcile(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = await self._until("reconcile")
        return told

    async def _until(self, method: str, *args: object) -> Any:
        return await call_until(self._call, PAYMENTS_S_MAX, method, *args, who=PAYMENTS)


def _key(idempotency: str | None) -> str:
    return secrets.token_hex(16) if idempotency is None else idempotency
