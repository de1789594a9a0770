"""The routes of money that goes out: how an account is paid, withdrawals, what was paid out."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from market.keys import BILLING_READ, PAYOUTS
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.openapi import operation
from serve_app.rest import answer, caller, known, read_shape
from serve_app.routes_payments import PAGE_DEFAULT, Before, PageLimit, before_ns, next_before
from serve_app.schemas_payments import (
    Onboarding,
    OnboardingBody,
    Payout,
    PayoutAccount,
    PayoutAccountBody,
    PayoutList,
    Quote,
    QuoteBody,
    WithdrawalBody,
)
from serve_app.sealed import read_key
from serve_app.views_payments import onboarding, payout, payout_account, quote

READERS = (PAYOUTS, BILLING_READ)


def add_payouts(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    """Everything under /v1/payouts."""
    _add_account(app, desk, bodies)
    _add_withdrawals(app, desk, bodies)
    _add_lists(app, desk)


def _add_account(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    payments = desk.ports.payments

    @app.post(
        "/v1/payouts/onboarding",
        response_model=Onboarding,
        status_code=201,
        tags=["payouts"],
        openapi_extra=operation(PAYOUTS, body="OnboardingBody", own_key=True),
    )
    async def onboard(request: Request) -> Response:
        """Set up how the account is paid; `url` is a form for its owner."""
        record = await caller(desk, request, PAYOUTS)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, OnboardingBody)
        row, url = await payments.onboard(record.account, body.country, own_key)
        return answer(onboarding(row, url), 201)

    @app.get(
        "/v1/payouts/account",
        response_model=PayoutAccount,
        tags=["payouts"],
        openapi_extra=operation(*READERS),
    )
    async def get_account(request: Request) -> Response:
        """Whether the account can be paid, and what is missing."""
        record = await caller(desk, request, *READERS)
        return answer(payout_account(await payments.payee(record.account)))

    @app.patch(
        "/v1/payouts/account",
        response_model=PayoutAccount,
        tags=["payouts"],
        openapi_extra=operation(PAYOUTS, body="PayoutAccountBody"),
    )
    async def change_account(request: Request) -> Response:
        """Take part in the payouts of each Monday, or not."""
        record = await caller(desk, request, PAYOUTS)
        body = await read_shape(request, bodies, PayoutAccountBody)
        return answer(payout_account(await payments.set_weekly(record.account, body.weekly)))


def _add_withdrawals(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    payments = desk.ports.payments

    @app.post(
        "/v1/payouts/quote",
        response_model=Quote,
        tags=["payouts"],
        openapi_extra=operation(*READERS, body="QuoteBody", required=False),
    )
    async def quote_withdrawal(request: Request) -> Response:
        """What a withdrawal would cost and bring. Nothing is moved."""
        record = await caller(desk, request, *READERS)
        body = await read_shape(request, bodies, QuoteBody)
        return answer(quote(await payments.quote_withdrawal(record.account, body.amount_cents)))

    @app.post(
        "/v1/payouts/withdrawals",
        response_model=Payout,
        status_code=201,
        tags=["payouts"],
        openapi_extra=operation(
            PAYOUTS, body="WithdrawalBody", required=False, own_key=True, replays=True
        ),
    )
    async def withdraw(request: Request) -> Response:
        """Send earnings to their owner; all that can be without `amount_cents`."""
        record = await caller(desk, request, PAYOUTS)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, WithdrawalBody)
        fee = body.expected_fee_nano_usd
        again = await known(desk, record, "withdraw", own_key)
        row = await payments.withdraw(
            record.account, body.amount_cents, None if fee is None else int(fee), own_key
        )
        return answer(payout(row), 201, replayed=again)


def _add_lists(app: FastAPI, desk: Desk) -> None:
    payments = desk.ports.payments

    @app.get(
        "/v1/payouts/withdrawals",
        response_model=PayoutList,
        tags=["payouts"],
        openapi_extra=operation(*READERS),
    )
    async def list_payouts(
        request: Request, limit: PageLimit = PAGE_DEFAULT, before: Before = None
    ) -> Response:
        """The account's payouts, newest first, the weekly ones among them."""
        record = await caller(desk, request, *READERS)
        rows = list(await payments.payouts(record.account, limit, before_ns(before)))
        shown = [payout(row) for row in rows]
        return answer(PayoutList(data=shown, next_before=next_before(rows, limit)))

    @app.get(
        "/v1/payouts/withdrawals/{payout_id}",
        response_model=Payout,
        tags=["payouts"],
        openapi_extra=operation(*READERS),
    )
    async def get_payout(request: Request, payout_id: str) -> Response:
        """One payout and how far it has come."""
        record = await caller(desk, request, *READERS)
        return answer(payout(await payments.payout_of(record.account, payout_id)))
