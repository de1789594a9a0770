"""The routes of quotes: what a request would get, and how good such predictions have been."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from market.keys import INFERENCE
from market.types import RequestId
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.gate import Gate
from serve_app.openapi import operation
from serve_app.openapi_inference import own_route_header
from serve_app.parameters import ignored_header
from serve_app.preparing import Preparing
from serve_app.quotes import Quotes
from serve_app.rest import answer
from serve_app.schemas_quote import CalibrationList, InferenceQuote, ModelCalibration
from serve_app.wishes import ROUTE_HEADER

NOBODY = RequestId("quote")
"""Stands for the id of a request that is not made."""


def add_quotes(app: FastAPI, desk: Desk, bodies: Bodies, preparing: Preparing) -> None:
    """Both routes."""
    quotes, limits = Quotes(desk, preparing), desk.limits
    gate = Gate(limits.quotes_per_minute, limits.quotes_burst, "quotes", "too_many_quotes")

    @app.post(
        "/v1/quote",
        response_model=InferenceQuote,
        tags=["inference"],
        openapi_extra={
            **operation(INFERENCE, body="QuoteRequest"),
            "parameters": [own_route_header()],
        },
    )
    async def quote(request: Request) -> Response:
        """What a chat completion (or a completion, with `prompt`) would get and cost.

        Takes the same body and makes nothing of it: no hold, no charge, no place in a queue.
        """
        _, key = await desk.identify(request.scope, (INFERENCE,))
        gate.pass_through(key.account, desk.ports.clock.monotonic_s())
        headers = dict(request.scope["headers"])
        body = await bodies.read(headers, request.receive)
        told = await quotes.quote(body, headers.get(ROUTE_HEADER.encode()), key, NOBODY)
        response = answer(told.quote)
        if told.ignored:
            response.headers["x-coster-ignored-params"] = ignored_header(told.ignored)
        return response

    @app.get("/v1/quote/calibration", response_model=CalibrationList, tags=["inference"])
    async def calibration() -> Response:
        """How predictions on public Macs compare with what happened. No key is needed."""
        known = desk.ports.router.calibration()
        return answer(
            CalibrationList(
                data=[
                    ModelCalibration.model_validate({"model": model, **known[model]})
                    for model in sorted(known)
                ]
            )
        )
