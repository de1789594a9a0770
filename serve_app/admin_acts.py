"""The operator's acts over HTTP: accounts, prices, machines, the report, reconciliation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from market.errors import InvalidRequest
from serve_app.admin_bodies import (
    AccountChangeBody,
    GoodwillBody,
    LinkBody,
    PriceBody,
    RetentionBody,
    UnlinkBody,
    nano_of,
)
from serve_app.admin_ports import OperatorPort
from serve_app.asgi import Bodies
from serve_app.openapi import json_body
from serve_app.rest import read_shape

BODIES: Final[dict[str, type[BaseModel]]] = {
    shape.__name__: shape
    for shape in (AccountChangeBody, GoodwillBody, LinkBody, PriceBody, RetentionBody, UnlinkBody)
}
IDEMPOTENCY_CHARS_MAX: Final = 255


def json_answer(value: Mapping[str, Any]) -> Response:
    """An answer of a port as JSON."""
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    content = orjson.dumps(value, default=str, option=options)
    return Response(content, media_type="application/json")


def add_accounts(app: FastAPI, port: OperatorPort, bodies: Bodies) -> None:
    """What an operator may do to one account."""

    @app.get("/admin/accounts/{account}", tags=["accounts"])
    async def account_of(account: str) -> Response:
        """Who it is, what it has and may do, its keys."""
        return json_answer(await port.account(account))

    @app.post(
        "/admin/accounts/{account}",
        tags=["accounts"],
        openapi_extra=json_body("AccountChangeBody", required=True),
    )
    async def change_account(request: Request, account: str) -> Response:
        """Change tier, fee, limits or name, or freeze; only what the body names."""
        body = await read_shape(request, bodies, AccountChangeBody)
        fields = body.changes()
        if not fields:
            raise InvalidRequest(
                "Name at least one of name, tier, fee_bps, requests_per_min, tokens_per_day and "
                "frozen.",
                None,
                "missing_field",
            )
        return json_answer(await port.change_account(account, fields, body.actor, body.reason))

    @app.post(
        "/admin/accounts/{account}/goodwill",
        tags=["accounts"],
        openapi_extra=json_body("GoodwillBody", required=True),
    )
    async def goodwill(request: Request, account: str) -> Response:
        """Give promo credit; with an Idempotency-Key a repetition gives it once."""
        body = await read_shape(request, bodies, GoodwillBody)
        done = await port.goodwill(
            account,
            int(body.amount_nano_usd),
            body.actor,
            body.reason,
            body.second_approver,
            _idempotency(request),
        )
        return json_answer(done)

    @app.post(
        "/admin/machines/{machine}/link",
        tags=["machines"],
        openapi_extra=json_body("LinkBody", required=True),
    )
    async def link(request: Request, machine: str) -> Response:
        """Let a machine earn for this account; what it has earned before moves there too."""
        body = await read_shape(request, bodies, LinkBody)
        return json_answer(await port.link_machine(machine, body.account, body.actor))

    @app.post(
        "/admin/machines/{machine}/unlink",
        tags=["machines"],
        openapi_extra=json_body("UnlinkBody", required=False),
    )
    async def unlink(request: Request, machine: str) -> Response:
        """Let a machine earn into its own unclaimed account again."""
        body = await read_shape(request, bodies, UnlinkBody)
        return json_answer(await port.unlink_machine(machine, body.actor))


def add_prices(app: FastAPI, port: OperatorPort, bodies: Bodies) -> None:
    """What models cost."""

    @app.get("/admin/prices", tags=["prices"])
    async def prices() -> Response:
        """The price of every model on offer, in USD per million tokens."""
        return json_answer(await port.prices())

    @app.get("/admin/prices/{model:path}", tags=["prices"])
    async def price(model: str) -> Response:
        """One model's price and every price it has had."""
        return json_answer(await port.price(model))

    @app.post(
        "/admin/prices/{model:path}",
        tags=["prices"],
        openapi_extra=json_body("PriceBody", required=True),
    )
    async def set_price(request: Request, model: str) -> Response:
        """A new price from now on; running requests pay what was frozen in their holds."""
        body = await read_shape(request, bodies, PriceBody)
        in_nano, out_nano = nano_of("input", body.input), nano_of("output", body.output)
        cached_nano = in_nano if body.cached is None else nano_of("cached", body.cached)
        nano = (in_nano, cached_nano, out_nano)
        return json_answer(await port.set_price(model, nano, body.actor, body.reason))


def add_books(app: FastAPI, port: OperatorPort, bodies: Bodies) -> None:
    """The books as a whole."""

    @app.get("/admin/report", tags=["ledger"])
    async def report() -> Response:
        """Revenue, costs, what is owned and owed, and where the settings lose money."""
        return json_answer(await port.report())

    @app.get("/admin/alerts", tags=["ledger"])
    async def alerts() -> Response:
        """What to look at now; `ok` when there is nothing."""
        return json_answer(await port.alerts())

    @app.post("/admin/reconcile", tags=["ledger"])
    async def reconcile() -> Response:
        """Match the processor's lines with the ledger's transfers; `ok` says how it stands."""
        return json_answer(await port.reconcile())

    @app.post("/admin/payouts/run", tags=["ledger"])
    async def run_payouts() -> Response:
        """Make the weekly payouts that are due; each is made once, however often this is asked."""
        return json_answer(await port.run_payouts())

    @app.post(
        "/admin/ledger/retention",
        tags=["ledger"],
        openapi_extra=json_body("RetentionBody", required=True),
    )
    async def retention(request: Request) -> Response:
        """Forget old notices of the processor; the journal is never touched."""
        body = await read_shape(request, bodies, RetentionBody)
        return json_answer(await port.forget_events(body.events_days))


def _idempotency(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= IDEMPOTENCY_CHARS_MAX and key.isprintable()):
        raise InvalidRequest(
            f"An Idempotency-Key has from 1 to {IDEMPOTENCY_CHARS_MAX} printable characters.",
            "Idempotency-Key",
        )
    return key
