"""The OpenAPI document, true to what is served: the hot routes are described here.

Their request schemas are written from the tables that validate the requests, so the
document cannot promise what the door refuses.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from serve_app.openapi_inference import (
    OWN_KEY_HEADER,
    REPLAYED_HEADER,
    inference_paths,
    inference_schemas,
)
from serve_app.schemas_keys import AccountBody, KeyBody, KeyPatch, RotateBody
from serve_app.schemas_payments import (
    OnboardingBody,
    PayoutAccountBody,
    QuoteBody,
    RefundBody,
    TopUpBody,
    WithdrawalBody,
)

_BODIES: dict[str, type[BaseModel]] = {
    shape.__name__: shape
    for shape in (
        AccountBody,
        KeyBody,
        KeyPatch,
        RotateBody,
        TopUpBody,
        RefundBody,
        OnboardingBody,
        PayoutAccountBody,
        QuoteBody,
        WithdrawalBody,
    )
}
_HEADERS = {
    "XRequestId": ("x-request-id", "The caller's own id when harmless, else ours"),
    "XCosterRequestId": ("x-coster-request-id", "The ledger's id, for usage and generations"),
}


def json_body(schema: str, *, required: bool) -> dict[str, Any]:
    """A handler's body for the document, when the handler reads it itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": required, "content": content}}


def operation(
    *scopes: str,
    body: str | None = None,
    required: bool = True,
    own_key: bool = False,
    replays: bool = False,
) -> dict[str, Any]:
    """What a handler that authenticates by itself adds to the document.

    One of `scopes` is needed; without any, every live key will do. `own_key`: it takes an
    Idempotency-Key; `replays`: the answer says so when that key has made it before.
    """
    extra: dict[str, Any] = {"security": [{"apiKey": []}], "x-coster-scopes": sorted(scopes)}
    if body is not None:
        extra |= json_body(body, required=required)
    if own_key:
        extra["parameters"] = [OWN_KEY_HEADER]
    if replays:
        extra["responses"] = {"201": {"headers": REPLAYED_HEADER}}
    return extra


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` tell the whole truth, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def plain_document(app: FastAPI, bodies: dict[str, type[BaseModel]]) -> None:
    """As `describe`, for an app without inference; `bodies` are read by its handlers."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _base(app, bodies)
            _say_what_errors_are(app.openapi_schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _base(app: FastAPI, bodies: dict[str, type[BaseModel]]) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name, shape in bodies.items():
        schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[name] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _document(app: FastAPI) -> dict[str, Any]:
    document = _base(app, _BODIES)
    document["components"]["schemas"].update(inference_schemas())
    document["paths"].update(inference_paths())
    _say_what_errors_are(document)
    document["components"]["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "sk-coster-..."}
    }
    return document


def _say_what_errors_are(document: dict[str, Any]) -> None:
    """Every error is the envelope, also where FastAPI would document its 422."""
    envelope = {"$ref": "#/components/schemas/ErrorEnvelope"}
    headers = {
        name: {"schema": {"type": "string"}, "description": text}
        for name, text in _HEADERS.values()
    }
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {
                "description": "Any error",
                "content": {"application/json": {"schema": envelope}},
            }
            for response in operation["responses"].values():
                response["headers"] = {**response.get("headers", {}), **headers}
