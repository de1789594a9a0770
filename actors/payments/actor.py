"""Payments as the market offers them: what callers may ask for, on top of the loop.

A plain class over three collaborators: the accountant (durable steps), the processor
(Stripe or its stand-in) and a clock. A caller's wish is durable before the processor hears of
it; what takes longer than a caller waits is seen through by the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any, Final, TypeVar

from actors.calls import ActorCall
from actors.payments.loop import PaymentLoop, PaymentPlaces
from actors.payments.setup import payments_off
from market.accounting.state_rows import PayeeRow, PayoutRow, RefundRow, TopUpRow
from market.errors import InvalidRequest, MarketError, Unavailable
from market.payments.desk import PaymentAct
from market.payments.metric_families import PAYMENTS
from market.payments.processor import PaymentProcessor, ProcessorError, ProcessorRefused
from market.payments.quotes import WithdrawalQuote
from market.types import AccountId

log = logging.getLogger("coster.payments")

INLINE_S_MAX: Final = 8.0
"""A caller waits this long for the processor; the worker goes on without them."""

T = TypeVar("T")


class Payments(PaymentLoop):
    """The market's payments. All methods run on one asyncio loop."""

    def __init__(
        self,
        accountant: ActorCall,
        processor: PaymentProcessor,
        places: PaymentPlaces,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        kind: str = "stripe",
    ) -> None:
        super().__init__(accountant, processor, places, wall_ns=wall_ns, kind=kind)

    async def start(self) -> None:
        """Begin to see payments through, if there is anybody to see them through with."""
        if self._kind != "off":
            await super().start()

    async def _ready(self) -> None:
        if self._kind == "off":
            raise payments_off()
        await super()._ready()

    async def known(self, account: AccountId, act: PaymentAct, idempotency: str) -> bool:
        """Whether this account did this under this key before."""
        met: bool = await self._ask("payment_known", account, act, idempotency)
        return met

    # ── money in ──────────────────────────────────────────────────────────────────────

    async def topup(
        self, account: AccountId, amount_cents: int, idempotency: str | None = None
    ) -> TopUpRow:
        """A payment page for this sum; again with the same key is the same, as it is by then."""
        await self._ready()
        row: TopUpRow = await self._ask("ask_topup", account, amount_cents, _key(idempotency))
        if row.state != "asked":
            return row
        return await _soon(self._errands.open_page(row))

    async def topups(
        self, account: AccountId, limit: int = 100, before_ns: int | None = None
    ) -> list[TopUpRow]:
        """The account's top-ups, newest first."""
        rows: list[TopUpRow] = await self._ask("topups", account, limit, before_ns)
        return rows

    async def topup_of(self, account: AccountId, topup_id: str) -> TopUpRow:
        """One top-up; someone else's is NotFound."""
        row: TopUpRow = await self._ask("topup_of", account, topup_id)
        return row

    async def refund(
        self,
        account: AccountId,
        topup_id: str,
        amount_cents: int | None = None,
        idempotency: str | None = None,
    ) -> RefundRow:
        """Give unspent credit back to the payer; None is as much as can go back."""
        await self._ready()
        row: RefundRow = await self._ask(
            "decide_refund", account, topup_id, amount_cents, _key(idempotency)
        )
        self._news.set()
        return row

    # ── money out ─────────────────────────────────────────────────────────────────────

    async def onboard(
        self, account: AccountId, country: str, idempotency: str | None = None
    ) -> tuple[PayeeRow, str]:
        """The account's payee and a form, good for one visit within minutes."""
        await self._ready()
        if not (len(country) == 2 and country.isascii() and country.isalpha()):
            raise InvalidRequest("country must be two letters, such as US.", "country")
        country = country.upper()
        row: PayeeRow | None = await self._ask("may_onboard", account, country)
        if row is None:
            reference = sha256(f"{account}\x1f{country}".encode()).hexdigest()[:32]
            said = await _soon(self._processor.open_recipient(reference, country))
            row = await self._ask("payee_opened", account, said)
            assert row is not None
        url = await _soon(
            self._processor.onboarding_url(
                row.account, return_url=self._places.payouts, refresh_url=self._places.payouts
            )
        )
        self._not_before_s.pop(f"payee {account}", None)
        return row, url

    async def payee(self, account: AccountId) -> PayeeRow | None:
        """How the account is paid, as the processor says now if it is not ready yet."""
        row: PayeeRow | None = await self._ask("payee", account)
        if row is not None and row.state != "active":
            try:
                row = await _soon(self._errands.payee(row.account)) or row
            except MarketError as error:
                log.info("a payee is shown as last known: %s", error)
        return row

    async def set_weekly(self, account: AccountId, on: bool) -> PayeeRow:
        """Whether the account is paid every week or only on demand."""
        row: PayeeRow = await self._ask("set_weekly", account, on)
        return row

    async def quote_withdrawal(
        self, account: AccountId, amount_cents: int | None = None
    ) -> WithdrawalQuote:
        """What a withdrawal would bring now."""
        quote: WithdrawalQuote = await self._ask("quote_payout", account, amount_cents)
        return quote

    async def withdraw(
        self,
        account: AccountId,
        amount_cents: int | None = None,
        expected_fee_nano: int | None = None,
        idempotency: str | None = None,
    ) -> PayoutRow:
        """Pay earnings out; 409 `fee_changed` when the fee is not the expected one."""
        await self._ready()
        await self.payee(account)
        row: PayoutRow = await self._ask(
            "decide_payout", account, amount_cents, expected_fee_nano, _key(idempotency)
        )
        self._news.set()
        return row

    async def payouts(
        self, account: AccountId, limit: int = 100, before_ns: int | None = None
    ) -> list[PayoutRow]:
        """The account's payouts, newest first."""
        rows: list[PayoutRow] = await self._ask("payouts", account, limit, before_ns)
        return rows

    async def payout_of(self, account: AccountId, payout_id: str) -> PayoutRow:
        """One payout; someone else's is NotFound."""
        row: PayoutRow = await self._ask("payout_of", account, payout_id)
        return row

    async def run_weekly(self) -> dict[str, Any]:
        """The week's payouts, if they have not been decided yet; what was decided."""
        await self._ready()
        return await super().run_weekly()

    # ── the processor's side ──────────────────────────────────────────────────────────

    async def webhook(self, payload: bytes, signature: str) -> None:
        """Take in a notice: verified and durable when this returns, acted on afterwards.

        Raises InvalidRequest for whatever the processor did not sign just now.
        """
        event = self._processor.read_event(payload, signature)
        self._counts["webhooks"] += 1
        await self._ask("record_events", [event])
        self._news.set()

    async def reconcile(self) -> dict[str, Any]:
        """Compare the books with the processor's: `ok`, and what does not match."""
        await self._ready()
        try:
            return await super().reconcile()
        except ProcessorError as error:
            raise Unavailable(
                f"The books could not be compared: {error.message}", None, error.code, 60.0, True
            ) from error

    # ── how it is ─────────────────────────────────────────────────────────────────────

    async def describe(self) -> dict[str, object]:
        """Who this is, for `status`."""
        return {
            "pid": os.getpid(),
            "role": "payments",
            "state": "running",
            "processor": self._kind,
            "busy": len(self._busy),
            "reconciled": self.last_reconcile.get("ok"),
        }

    async def metrics(self) -> dict[str, float]:
        """By Prometheus' names: `…_total` counts since the start, the others are present sizes."""
        sizes: dict[str, int] = await self._ask("payment_counts")
        sizes["difference_cents"] = self.last_reconcile.get("difference_cents", 0)
        return {
            **{f"{PAYMENTS}_{name}_total": float(n) for name, n in self._counts.items()},
            **{f"{PAYMENTS}_{name}": float(size) for name, size in sizes.items()},
        }


def _key(idempotency: str | None) -> str:
    """The caller's key, or one of our own that makes this call new."""
    return idempotency if idempotency is not None else secrets.token_hex(16)


async def _soon(answer: Coroutine[Any, Any, T]) -> T:
    """The processor's answer within INLINE_S_MAX, its errors in the words of our callers."""
    try:
        async with asyncio.timeout(INLINE_S_MAX):
            return await answer
    except ProcessorError as error:
        raise _for_callers(error) from error
    except TimeoutError as error:
        raise Unavailable(
            "The payment processor is slow just now. Ask again with the same Idempotency-Key.",
            None,
            "processor_slow",
            5.0,
            True,
        ) from error


def _for_callers(error: ProcessorError) -> MarketError:
    if isinstance(error, ProcessorRefused):
        return InvalidRequest(error.message, error.param, error.code or "processor_refused")
    return Unavailable(
        "The payment processor cannot be reached just now; no money has moved. Ask again with "
        "the same Idempotency-Key.",
        None,
        "processor_unavailable",
        error.retry_after_s or 5.0,
        True,
    )
