"""Bodies and queries as nested values: v1's bracketed forms and v2's JSON, within bounds."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from actors.fake_stripe.faults import Json, Refusal

FIELDS_MAX = 1000
DEPTH_MAX = 8


def read_form(text: str) -> Json:
    """`a[b][0]=x` as `{"a": {"b": ["x"]}}`. Raises Refusal for what cannot be nested."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:
        raise Refusal("The form cannot be read: it is not UTF-8 or has too many fields.") from None
    root: Json = {}
    for name, value in pairs:
        _put(root, name, value)
    return {name: _lists(value) for name, value in root.items()}


def read_json(body: bytes) -> Json:
    """A JSON object. Raises Refusal for anything else, NaN and lone surrogates included."""
    if not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise Refusal("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal("The body must be a JSON object.", code="invalid_json")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _put(root: Json, name: str, value: str) -> None:
    head, *rest = name.split("[")
    parts = [head, *(part.removesuffix("]") for part in rest)]
    if len(parts) > DEPTH_MAX or not head or any(not part.endswith("]") for part in rest):
        raise Refusal("A parameter's name cannot be read.")
    here = root
    for part in parts[:-1]:
        below = here.setdefault(part or str(len(here)), {})
        if not isinstance(below, dict):
            raise Refusal("A parameter is both a value and a hash.", param=head)
        here = below
    last = parts[-1] or str(len(here))
    if isinstance(here.get(last), dict):
        raise Refusal("A parameter is both a value and a hash.", param=head)
    here[last] = value


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isascii() and name.isdigit() and len(name) < 6 for name in value):
        return [_lists(value[name]) for name in sorted(value, key=int)]
    return {name: _lists(below) for name, below in value.items()}
