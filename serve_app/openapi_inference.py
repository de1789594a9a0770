"""The two inference routes for the OpenAPI document: bodies, answers, events, headers."""

from __future__ import annotations

from typing import Any

from serve_app.parameters import ADVISORY, REFUSED, REQUIRED, USED, Kind
from serve_app.wishes import ROUTE_HEADER, SESSION

OWN_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "A key of your own: asking again with it does nothing twice",
}
REPLAYED_HEADER = {
    "x-coster-replayed": {
        "schema": {"type": "string"},
        "description": "`true`: made before under this Idempotency-Key; nothing was done again",
    }
}
_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_NULLABLE_STRING = {"type": ["string", "null"]}
_PATHS: dict[Kind, tuple[str, str, str]] = {
    "chat": ("/v1/chat/completions", "ChatCompletion", "A chat completion, streamed or whole."),
    "completion": ("/v1/completions", "Completion", "A text completion, streamed or whole."),
}
_REQUEST_HEADERS = {
    "x-request-id": "Echoed when it is at most 128 of A-Z a-z 0-9 . _ -",
    "x-coster-heartbeat": "`off`: no comment lines while a stream waits",
}
_ANSWER_HEADERS = {
    "x-coster-provider": "The public id of the Mac that serves the answer",
    "x-coster-max-tokens": "The longest answer the hold covers, when the request has no limit",
    "x-coster-ignored-params": "Parameters that were not used, separated by commas",
    "x-coster-replayed": "`true`: the answer that was kept under this Idempotency-Key",
    "x-ratelimit-limit-requests": "Requests per minute",
    "x-ratelimit-remaining-requests": "Requests left",
    "x-ratelimit-reset-requests": "Until all are left again, such as 1s or 6m0s",
    "x-ratelimit-limit-tokens": "Tokens per day",
    "x-ratelimit-remaining-tokens": "Tokens left",
    "x-ratelimit-reset-tokens": "Until all are left again",
}
_ERRORS = {
    "400": "The request must be changed; the message names the field",
    "401": "Missing, malformed, unknown or revoked key",
    "402": "Not enough money, or more than max_cost_usd; the message says which limit",
    "403": "The key lacks the scope inference",
    "404": "No such model",
    "409": "The Idempotency-Key was used with another body, or its request still runs",
    "413": "The body is larger than 16 MiB",
    "429": "The caller's own rate limit; see Retry-After",
    "503": "No Mac can serve this now; see Retry-After",
}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def own_route_header() -> dict[str, Any]:
    """The header by which own machines are wanted, as a parameter of a route."""
    return {
        "name": ROUTE_HEADER,
        "in": "header",
        "schema": {"enum": ["self", "prefer"]},
        "description": "The same as provider.own",
    }


def inference_paths() -> dict[str, Any]:
    """The path items of both routes."""
    return {path: {"post": _operation(kind)} for kind, (path, _, _) in _PATHS.items()}


def _operation(kind: Kind) -> dict[str, Any]:
    _, name, summary = _PATHS[kind]
    headers = {
        header: {"schema": _STRING, "description": text} for header, text in _ANSWER_HEADERS.items()
    }
    envelope = {"application/json": {"schema": _ref("ErrorEnvelope")}}
    responses: dict[str, Any] = {
        "200": {
            "description": "The answer; with stream: true as server-sent events, each `data:` "
            "line a chunk, the last one [DONE]; lines starting with a colon are heartbeats. An "
            "answer that breaks off ends with a chunk with `error` and finish_reason error.",
            "headers": headers,
            "content": {
                "application/json": {"schema": _ref(name)},
                "text/event-stream": {"schema": _ref(f"{name}Chunk")},
            },
        }
    }
    for status, text in _ERRORS.items():
        responses[status] = {"description": text, "content": envelope}
    return {
        "tags": ["inference"],
        "summary": summary,
        "operationId": f"create_{kind}",
        "security": [{"apiKey": []}],
        "x-coster-scopes": ["inference"],
        "parameters": [
            OWN_KEY_HEADER,
            own_route_header(),
            *(
                {"name": header, "in": "header", "schema": _STRING, "description": text}
                for header, text in _REQUEST_HEADERS.items()
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(f"{name}Body")}},
        },
        "responses": responses,
    }


def _body(kind: Kind) -> dict[str, Any]:
    properties: dict[str, Any] = {name: dict(rule.schema) for name, rule in USED[kind].items()}
    for name, harmless in REFUSED[kind].items():
        allowed = [*harmless, None]
        properties[name] = {"enum": allowed, "description": "Not supported yet."}
    for name in ADVISORY[kind]:
        properties[name] = {"description": "Advisory: ignored, and named in a header."}
    for name in SESSION:
        properties[name] = {"description": "A conversation that may stay on one Mac."}
    always = [name for name in REQUIRED[kind] if name != "model"]
    return {
        **_object(always, **properties),
        "anyOf": [{"required": ["model"]}, {"required": ["models"]}],
        "description": "Fields not listed are ignored and named in a header.",
    }


def inference_schemas() -> dict[str, Any]:
    """The components the two routes refer to."""
    part = _object(["type", "text"], type={"const": "text"}, text=_STRING)
    content = {"anyOf": [_STRING, {**_array(part), "minItems": 1}]}
    roles = {"enum": ["system", "developer", "user", "assistant"]}
    schemas = {
        "ChatMessage": _object(["role", "content"], role=roles, content=content),
        "Usage": _usage(),
        "ChatCompletionBody": _body("chat"),
        "CompletionBody": _body("completion"),
        "QuoteRequest": {"anyOf": [_ref("ChatCompletionBody"), _ref("CompletionBody")]},
    }
    message = _object(
        ["role", "content"], role={"const": "assistant"}, content=_STRING, refusal={"type": "null"}
    )
    delta = _object([], role={"const": "assistant"}, content=_STRING)
    schemas.update(_answers("ChatCompletion", "chat.completion", {"message": message}))
    schemas.update(_chunks("ChatCompletion", "chat.completion.chunk", {"delta": delta}))
    schemas.update(_answers("Completion", "text_completion", {"text": _STRING}))
    schemas.update(_chunks("Completion", "text_completion", {"text": _STRING}))
    return schemas


def _choice(inside: dict[str, Any], reasons: list[str | None]) -> dict[str, Any]:
    return _object(
        ["index", *inside, "logprobs", "finish_reason"],
        index=_INTEGER,
        **inside,
        logprobs={"type": ["object", "null"]},
        finish_reason={"enum": reasons},
    )


def _common(kind: str) -> dict[str, Any]:
    return {
        "id": _STRING,
        "object": {"const": kind},
        "created": _INTEGER,
        "model": _STRING,
        "system_fingerprint": _NULLABLE_STRING,
    }


_TIER = {"enum": ["default", "flex"], "description": "Only where the request names one"}


def _answers(name: str, kind: str, inside: dict[str, Any]) -> dict[str, Any]:
    choices = _array(_choice(inside, ["stop", "length"]))
    properties = {**_common(kind), "choices": choices, "usage": _ref("Usage")}
    return {name: _object(list(properties), **properties, service_tier=_TIER)}


def _chunks(name: str, kind: str, inside: dict[str, Any]) -> dict[str, Any]:
    choices = _array(_choice(inside, ["stop", "length", "error", None]))
    required = {**_common(kind), "choices": choices}
    usage = {"anyOf": [_ref("Usage"), {"type": "null"}]}
    error = {"$ref": "#/components/schemas/ErrorDetail"}
    more = {"usage": usage, "error": error, "service_tier": _TIER}
    return {f"{name}Chunk": _object(list(required), **required, **more)}


def _usage() -> dict[str, Any]:
    properties = {
        "prompt_tokens": _INTEGER,
        "completion_tokens": _INTEGER,
        "total_tokens": _INTEGER,
        "prompt_tokens_details": _object(["cached_tokens"], cached_tokens=_INTEGER),
        "completion_tokens_details": _object(["reasoning_tokens"], reasoning_tokens=_INTEGER),
        "cost_nano_usd": {"type": "string", "pattern": "^[0-9]+$"},
        "cost_micro_usd": _INTEGER,
        "cost_usd": {"type": "number"},
        "provider": _STRING,
        "attempts": _INTEGER,
    }
    return _object(list(properties), **properties)
