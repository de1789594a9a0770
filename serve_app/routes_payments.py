"""The routes of money that comes in: top-ups, refunds, what is on hold, the processor's notices."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from market.accounting.state_rows import PayoutRow, TopUpRow
from market.errors import InvalidRequest
from market.keys import BILLING_READ, PAYOUTS
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.openapi import operation
from serve_app.rest import answer, caller, known, read_shape
from serve_app.schemas_payments import (
    HoldList,
    Received,
    Refund,
    RefundBody,
    TopUp,
    TopUpBody,
    TopUpList,
)
from serve_app.sealed import read_key
from serve_app.views_payments import holds, refund, topup

PAGE_DEFAULT = 50
PAGE_MOST = 200
PageLimit = Annotated[int, Query(ge=1, le=PAGE_MOST)]
Before = Annotated[
    str | None, Query(pattern="^[0-9]{1,19}$", description="The `next_before` of the last page")
]
SIGNATURE = b"stripe-signature"
SIGNATURE_CHARS_MOST = 4_096


def before_ns(text: str | None) -> int | None:
    """A page's beginning; what is beyond every clock is refused by its pattern."""
    return None if text is None else min(int(text), 2**63 - 1)


def next_before(rows: list[TopUpRow] | list[PayoutRow], limit: int) -> str | None:
    """Where the next page begins; None when this one was not full."""
    return str(rows[-1].created_ns) if len(rows) == limit else None


def add_payments(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    """Everything under /v1/payments but the statements."""
    _add_topups(app, desk, bodies)
    _add_refunds(app, desk, bodies)
    _add_holds(app, desk)
    _add_webhook(app, desk, bodies)


def _add_topups(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    payments = desk.ports.payments

    @app.post(
        "/v1/payments/topups",
        response_model=TopUp,
        status_code=201,
        tags=["money"],
        openapi_extra=operation(BILLING_READ, body="TopUpBody", own_key=True, replays=True),
    )
    async def create_topup(request: Request) -> Response:
        """Begin to pay in; `url` is the page where it is paid."""
        record = await caller(desk, request, BILLING_READ)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, TopUpBody)
        again = await known(desk, record, "topup", own_key)
        row = await payments.topup(record.account, body.amount_cents, own_key)
        return answer(topup(row), 201, replayed=again)

    @app.get(
        "/v1/payments/topups",
        response_model=TopUpList,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def list_topups(
        request: Request, limit: PageLimit = PAGE_DEFAULT, before: Before = None
    ) -> Response:
        """The account's top-ups, newest first."""
        record = await caller(desk, request, BILLING_READ)
        rows = list(await payments.topups(record.account, limit, before_ns(before)))
        shown = [topup(row) for row in rows]
        return answer(TopUpList(data=shown, next_before=next_before(rows, limit)))

    @app.get(
        "/v1/payments/topups/{topup_id}",
        response_model=TopUp,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def get_topup(request: Request, topup_id: str) -> Response:
        """One top-up and how far it has come."""
        record = await caller(desk, request, BILLING_READ)
        return answer(topup(await payments.topup_of(record.account, topup_id)))


def _add_refunds(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    @app.post(
        "/v1/payments/topups/{topup_id}/refund",
        response_model=Refund,
        status_code=201,
        tags=["money"],
        openapi_extra=operation(
            PAYOUTS, body="RefundBody", required=False, own_key=True, replays=True
        ),
    )
    async def create_refund(request: Request, topup_id: str) -> Response:
        """Send unspent money back to the card it came from."""
        record = await caller(desk, request, PAYOUTS)
        own_key = read_key(request.scope["headers"])
        body = await read_shape(request, bodies, RefundBody)
        again = await known(desk, record, "refund", own_key)
        row = await desk.ports.payments.refund(record.account, topup_id, body.amount_cents, own_key)
        return answer(refund(row), 201, replayed=again)


def _add_holds(app: FastAPI, desk: Desk) -> None:
    @app.get(
        "/v1/payments/holds",
        response_model=HoldList,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def list_holds(request: Request) -> Response:
        """What running requests hold, and why."""
        record = await caller(desk, request, BILLING_READ)
        return answer(holds(await desk.ports.accountant.holds(record.account)))


def _add_webhook(app: FastAPI, desk: Desk, bodies: Bodies) -> None:
    payload = {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}
    header = {
        "name": "Stripe-Signature",
        "in": "header",
        "required": True,
        "schema": {"type": "string", "maxLength": SIGNATURE_CHARS_MOST},
    }

    @app.post(
        "/v1/payments/webhook",
        response_model=Received,
        tags=["money"],
        openapi_extra={"requestBody": payload, "parameters": [header]},
    )
    async def webhook(request: Request) -> Response:
        """A notice of the payment processor, known by its signature; duplicates do no harm."""
        raw = await bodies.read(
            dict(request.scope["headers"]), request.receive, desk.limits.webhook_bytes
        )
        try:
            await desk.ports.payments.webhook(raw, _signature(request))
        except InvalidRequest:
            desk.door.forger(request.scope)
            raise
        return answer(Received())


def _signature(request: Request) -> str:
    headers: list[tuple[bytes, bytes]] = request.scope["headers"]
    found = [value for name, value in headers if name == SIGNATURE]
    if len(found) != 1 or not found[0].isascii() or len(found[0]) > SIGNATURE_CHARS_MOST:
        raise InvalidRequest(
            "Stripe-Signature must be given once, in ASCII; only the payment processor sends "
            "webhooks.",
            "Stripe-Signature",
            "invalid_signature",
        )
    return found[0].decode("ascii")
