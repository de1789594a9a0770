"""From the records of payments, holds and earnings to the shapes of the API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from market.accounting.earned import EarningsStatement
from market.accounting.rows import RequestRow
from market.accounting.state_rows import PayeeRow, PayoutRow, RefundRow, TopUpRow
from market.money import NANO_PER_USD, format_usd_exact
from serve_app.money_views import WithdrawalQuoteView
from serve_app.schemas_payments import (
    EarningsAnswer,
    HoldEntry,
    HoldList,
    Onboarding,
    Payment,
    Payout,
    PayoutAccount,
    Quote,
    Refund,
    TopUp,
)
from serve_app.views import stamp_ns

NANO_PER_CENT = 10_000_000


def _sum(cents: int, name: str = "amount") -> dict[str, Any]:
    return {f"{name}_cents": cents, **_nano(cents * NANO_PER_CENT, name)}


def _nano(nano: int, name: str) -> dict[str, Any]:
    return {f"{name}_nano_usd": str(nano), f"{name}_usd": nano / NANO_PER_USD}


def _micro(nano: int, name: str) -> dict[str, Any]:
    return {**_nano(nano, name), f"{name}_micro_usd": nano // 1000}


def _times(row: TopUpRow | RefundRow | PayoutRow) -> dict[str, Any]:
    return {"created_at": stamp_ns(row.created_ns), "changed_at": stamp_ns(row.changed_ns)}


def topup(row: TopUpRow) -> TopUp:
    """A top-up; its address only while it can be paid there."""
    return TopUp.model_validate(
        {
            "id": row.id,
            "status": row.state,
            **_sum(row.amount_cents),
            "url": row.url or None if row.state == "open" else None,
            "refunded_cents": row.refunded_cents,
            "disputed_cents": row.disputed_cents,
            "reason": row.reason or None,
            **_times(row),
        }
    )


def refund(row: RefundRow) -> Refund:
    """A refund."""
    return Refund.model_validate(
        {
            "id": row.id,
            "topup": row.topup,
            "status": row.state,
            **_sum(row.amount_cents),
            "reason": row.reason or None,
            **_times(row),
        }
    )


def payout(row: PayoutRow) -> Payout:
    """A payout."""
    return Payout.model_validate(
        {
            "id": row.id,
            "status": row.state,
            "weekly": row.week > 0,
            **_sum(row.amount_cents),
            **_nano(row.fee_nano, "fee"),
            "transfer": row.transfer or None,
            "reason": row.reason or None,
            **_times(row),
        }
    )


def _payee(row: PayeeRow | None) -> dict[str, Any]:
    if row is None:
        return {"status": "none", "country": None, "weekly": False, "requirements": []}
    return {
        "status": row.state,
        "country": row.country,
        "weekly": bool(row.weekly),
        "requirements": [word for word in row.requirements.replace(",", " ").split() if word],
    }


def payout_account(row: PayeeRow | None) -> PayoutAccount:
    """How an account is paid; without a row it is not set up."""
    return PayoutAccount.model_validate(_payee(row))


def onboarding(row: PayeeRow, url: str) -> Onboarding:
    """The same with the form's address."""
    return Onboarding.model_validate({**_payee(row), "url": url})


def quote(asked: WithdrawalQuoteView) -> Quote:
    """A quote for a withdrawal."""
    return Quote.model_validate(
        {
            **_sum(asked.amount_cents),
            **_nano(asked.fee_nano, "fee"),
            **_sum(asked.receives_cents, "receives"),
            **_nano(asked.withdrawable_nano, "withdrawable"),
            **_nano(asked.maturing_nano, "maturing"),
            "minimum_cents": asked.minimum_cents,
            "arrives": asked.arrives,
        }
    )


def holds(rows: Sequence[RequestRow]) -> HoldList:
    """Every hold with its reason."""
    return HoldList.model_validate(
        {
            **_nano(sum(row.held_nano for row in rows), "held"),
            "data": [_hold(row) for row in rows],
        }
    )


def _hold(row: RequestRow) -> HoldEntry:
    longest = row.max_tokens * row.n
    return HoldEntry.model_validate(
        {
            "request_id": row.request_id,
            "model": row.model,
            "key_id": row.key_id,
            **_micro(row.held_nano, "held"),
            "prompt_tokens": row.prompt_tokens,
            "max_completion_tokens": longest,
            "worst_case_tokens": row.prompt_tokens + longest,
            "delivered_tokens": row.completion_tokens,
            "since": stamp_ns(row.created_ns),
            "why": (
                f"{row.request_id} is running: {row.prompt_tokens} prompt tokens at "
                f"{row.price_in_nano} and at most {longest} answer tokens at "
                f"{row.price_out_nano} nano-USD come to {format_usd_exact(row.held_nano)}. When "
                "it ends, what it cost is charged and the rest is free again."
            ),
        }
    )


def earnings(found: EarningsStatement) -> EarningsAnswer:
    """What Macs have earned; micro-USD is the floor of the nano sum."""
    balance, earned = found.balance, found.earned
    return EarningsAnswer.model_validate(
        {
            **_micro(balance.withdrawable_nano + balance.maturing_nano, "balance"),
            **_nano(balance.withdrawable_nano, "withdrawable"),
            **_nano(balance.maturing_nano, "maturing"),
            **_micro(earned.total_nano, "total_earned"),
            "jobs_served": earned.jobs,
            "recent": [_payment(row) for row in earned.recent],
        }
    )


def _payment(row: RequestRow) -> Payment:
    return Payment.model_validate(
        {
            "request_id": row.request_id,
            "model": row.model,
            "machine": row.machine,
            **_micro(row.provider_nano, "amount"),
            "timestamp": stamp_ns(row.finished_ns),
        }
    )
