"""The operator's listener: metrics and orders, behind a key of its own.

It is a separate app so that it can listen where consumers cannot reach it. Every route,
`/metrics` included, needs the admin key; there is nothing here for anyone without it.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from market.errors import MarketError, Unauthenticated
from serve_app.admin_acts import BODIES, add_accounts, add_books, add_prices, json_answer
from serve_app.admin_bodies import VerifyBody
from serve_app.admin_ports import OperationsPort
from serve_app.admin_steering import STEERING_BODIES, add_steering
from serve_app.asgi import Bodies
from serve_app.auth import bearer
from serve_app.exposition import TEXT_FORMAT, exposition
from serve_app.limits import Limits
from serve_app.openapi import json_body, plain_document
from serve_app.ports import AdminPort
from serve_app.rest import error_response, new_app, read_shape


def create_admin_app(port: OperationsPort, admin_key: str, limits: Limits | None = None) -> FastAPI:
    """The admin app. `admin_key` is compared in constant time and never logged."""
    app = new_app("coster admin", "1", "The operator's view of one market.")
    bodies = Bodies(limits or Limits())
    expected = admin_key.encode()

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        header = request.headers.get("authorization")
        try:
            given = bearer(None if header is None else header.encode("latin-1"))
            if not hmac.compare_digest(given.encode(), expected):
                raise Unauthenticated("The admin key is not valid.", None, "invalid_admin_key")
        except MarketError as error:
            return error_response(error)
        return await call_next(request)

    _add_reads(app, port)
    _add_orders(app, port, bodies)
    add_accounts(app, port, bodies)
    add_prices(app, port, bodies)
    add_books(app, port, bodies)
    add_steering(app, port, bodies)
    plain_document(app, {"VerifyBody": VerifyBody, **BODIES, **STEERING_BODIES})
    return app


def _add_reads(app: FastAPI, port: AdminPort) -> None:
    @app.get("/metrics", tags=["operations"])
    async def metrics() -> Response:
        """Every metric of the market, in Prometheus' text format."""
        return Response(exposition(await port.metrics()), media_type=TEXT_FORMAT)

    @app.get("/admin/status", tags=["operations"])
    async def status() -> Response:
        """Every actor with its process, node and state."""
        return json_answer(await port.status())


def _add_orders(app: FastAPI, port: AdminPort, bodies: Bodies) -> None:
    @app.post(
        "/admin/ledger/verify",
        tags=["ledger"],
        openapi_extra=json_body("VerifyBody", required=False),
    )
    async def verify(request: Request) -> Response:
        """Audit the ledger read-only; 200 either way, `ok` says how it stands."""
        body = await read_shape(request, bodies, VerifyBody)
        return json_answer(await port.verify(full=body.full))
