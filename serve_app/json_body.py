"""Reading a hostile JSON body: exact about what is wrong, silent about what it says.

Python's own decoder takes NaN and lone surrogates, which break the answer's encoder later;
here they are refused with their position. Messages never quote the body.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from market.errors import InvalidRequest

MAX_DEPTH_LEVELS = 254  # what the encoder can write back; far beyond any real request


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; InvalidRequest with line and column for anything else."""
    if not body:
        raise InvalidRequest("The body is empty; send a JSON object.", None, "invalid_json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}.",
            None,
            "invalid_json",
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"The body must be a JSON object, not {json_type(value)}.", None, "invalid_json"
        )
    _refuse_lost_keys(body, value)
    return value


def json_type(value: Any) -> str:
    """The JSON name of a value's type, for messages that must not quote the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _refuse_lost_keys(body: bytes, value: dict[str, Any]) -> None:
    """Refuse duplicate keys, of which the decoder keeps only the last.

    Writing the value back and counting quotes costs a microsecond and tells whether a key
    may have been lost; only then is the body decoded the slow way.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:
        raise InvalidRequest(
            f"The body is nested deeper than {MAX_DEPTH_LEVELS} levels.", None, "invalid_json"
        ) from None
    if written.count(b'"') == body.count(b'"'):
        return
    json.loads(body, object_pairs_hook=_object_without_duplicates)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = name if name.isidentifier() and len(name) <= 64 else "a key"
                raise InvalidRequest(
                    f"The body gives {shown!r} twice in one object; give it once.",
                    shown if shown == name else None,
                    "duplicate_key",
                )
            seen.add(name)
    return found
