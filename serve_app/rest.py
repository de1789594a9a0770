"""What every FastAPI app of the door has in common: the envelope for whatever goes wrong.

FastAPI's own handlers quote the input, answer 422 and 405, and fail on what its encoder
cannot write; ours do none of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from market.errors import Internal, InvalidRequest, MarketError, NotFound
from market.messages import KeyRecord
from market.payments.desk import PaymentAct
from serve_app.asgi import Bodies
from serve_app.desk import Desk
from serve_app.envelope import error_body, error_headers
from serve_app.json_body import decode_object
from serve_app.schemas import ErrorEnvelope

Body = TypeVar("Body", bound=BaseModel)

FIELD_CHARS = 64  # of an unknown field's name, shown back
_CODES = {
    "extra_forbidden": "unknown_field",
    "missing": "missing_field",
    "string_too_short": "empty",
    "too_short": "empty",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "int_parsing_size": "out_of_range",
}


def new_app(title: str, version: str, description: str) -> FastAPI:
    """A FastAPI app without pages, telemetry or redirects, answering in the envelope."""
    app = FastAPI(
        title=title,
        version=version,
        description=description,
        docs_url=None,  # FastAPI's pages load scripts from the network
        redoc_url=None,
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,  # they would carry exception messages, which may quote a prompt
            "operation_spans": False,
            "auto_configure": False,
        },
        responses={"default": {"model": ErrorEnvelope, "description": "Any error"}},
    )
    app.add_exception_handler(MarketError, _market_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    return app


async def _market_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, MarketError)
    return error_response(error)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(first_problem(error.errors()))


async def _internal_error(_: Request, __: Exception) -> Response:
    """The envelope; the exception itself goes on to the app's boundary, which records it."""
    return error_response(Internal("An internal error; it has been recorded."))


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown route and a wrong method are the same to the caller: not found."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        shown = f"{request.method} {request.scope['path']}"[:200]  # the URL may be no text
        return error_response(
            NotFound(f"There is no {shown!r}; see /openapi.json.", None, "unknown_route")
        )
    return error_response(InvalidRequest("The request cannot be read.", None, "invalid_request"))


def error_response(error: MarketError) -> Response:
    """The envelope with its status and retry headers."""
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.status, headers, "application/json")


def first_problem(problems: Any) -> InvalidRequest:
    """The first validation problem, by field and rule, without the value."""
    first = problems[0]
    code = _code(first["type"])
    field = _field(first["loc"])
    if code == "unknown_field":
        shown = "a field" if field is None else f"the field {field!r}"
        return InvalidRequest(
            f"The body has {shown}, which is not known here; leave it out.", field, code
        )
    return InvalidRequest(f"{field or 'The request'}: {first['msg']}.", field, code)


def _field(where: Sequence[str | int]) -> str | None:
    """A place as `scopes[0]`; None when a name in it is not a plain word of the caller's."""
    field = ""
    for at, part in enumerate(where):
        if at == 0 and part in ("body", "query", "path"):
            continue
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.isascii() and part.isidentifier() and len(part) <= FIELD_CHARS:
            field += f".{part}" if field else part
        else:
            return None
    return field or None


def _code(rule: str) -> str:
    """The validator's rule in the words that the inference routes use."""
    if rule in _CODES:
        return _CODES[rule]
    return (
        "invalid_type" if rule.endswith(("_type", "_parsing", "_from_float")) else "invalid_value"
    )


async def caller(desk: Desk, request: Request, *scopes: str) -> KeyRecord:
    """Whose key it is; one of `scopes` is needed, or any live key without them."""
    _, record = await desk.identify(request.scope, scopes)
    return record


def refuse_unknown(request: Request) -> None:
    """InvalidRequest for a query parameter that the route does not have: a filter that is not
    heeded would answer another question than the one asked.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(
                f"There is no parameter {name[:40]!r} here; there are {', '.join(sorted(known))}.",
                name[:40],
                "unknown_parameter",
            )


async def read_shape(request: Request, bodies: Bodies, shape: type[Body]) -> Body:
    """The request's JSON body as `shape`; an absent body is an empty object."""
    raw = await bodies.read(dict(request.scope["headers"]), request.receive)
    try:
        return shape.model_validate(decode_object(raw or b"{}"), strict=True)
    except ValidationError as error:
        raise first_problem(error.errors(include_input=False)) from None


async def known(desk: Desk, record: KeyRecord, act: PaymentAct, own_key: str | None) -> bool:
    """Whether this account did this under its own key before. Asked before it is done again."""
    return own_key is not None and await desk.ports.payments.known(record.account, act, own_key)


def answer(value: BaseModel | list[Any], status: int = 200, *, replayed: bool = False) -> Response:
    """A shape as JSON; `replayed` says that the caller's own key has made it before."""
    content = (
        [entry.model_dump() for entry in value] if isinstance(value, list) else value.model_dump()
    )
    headers = {"x-coster-replayed": "true"} if replayed else None
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
