"""Checks of one JSON value each: take the field's name and value, return what we use.

Each raises InvalidRequest naming the field, the rule and the kind of what was given, and
never the value itself: it may be a prompt. Each check also describes itself as a JSON
schema, so that the OpenAPI document says exactly what is enforced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from market import sampling_bounds as bounds
from market.errors import InvalidRequest
from serve_app.json_body import json_type

MAX_EXACT_INT = 2**53


@dataclass(frozen=True, slots=True)
class Check:
    """A rule and its JSON schema."""

    apply: Callable[[str, Any], Any]
    schema: Mapping[str, Any]


def wrong(field: str, rule: str, value: Any, code: str = "invalid_type") -> InvalidRequest:
    """The error of a value of the wrong type: its field, the rule and what kind it was."""
    return InvalidRequest(f"{field} must be {rule}, not {json_type(value)}.", field, code)


def integer(low: int, high: int) -> Check:
    """An integer in [low, high]; 5.0 is not one, as a 30-digit number is not."""

    def apply(field: str, value: Any) -> int:
        if type(value) is not int:
            rule = f"an integer from {low} to {high}"
            if type(value) is float:
                raise InvalidRequest(f"{field} must be {rule}.", field, "invalid_type")
            raise wrong(field, rule, value)
        if not low <= value <= high:
            raise InvalidRequest(
                f"{field} must be from {low} to {high}, not {value}.", field, "out_of_range"
            )
        return value

    return Check(apply, {"type": "integer", "minimum": low, "maximum": high})


def number(limits: bounds.Bounds) -> Check:
    """A number inside bounds that the engines share."""
    low, high = limits.low, limits.high

    def apply(field: str, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise wrong(field, f"a number from {low:g} to {high:g}", value)
        if not low <= value <= high:
            raise InvalidRequest(
                f"{field} must be at least {low:g} and at most {high:g}.", field, "out_of_range"
            )
        return float(value)

    return Check(apply, {"type": "number", "minimum": low, "maximum": high})


def boolean() -> Check:
    """True or false; 0 and 1 are numbers."""

    def apply(field: str, value: Any) -> bool:
        if type(value) is not bool:
            raise wrong(field, "true or false", value)
        return value

    return Check(apply, {"type": "boolean"})


def string(max_chars: int, *, empty: bool = False) -> Check:
    """A string of at most `max_chars` characters."""

    def apply(field: str, value: Any) -> str:
        if type(value) is not str:
            raise wrong(field, "a string", value)
        if not value and not empty:
            raise InvalidRequest(f"{field} must not be empty.", field, "empty")
        if len(value) > max_chars:
            raise InvalidRequest(
                f"{field} has {len(value)} characters; at most {max_chars} are taken.",
                field,
                "too_long",
            )
        return value

    return Check(apply, {"type": "string", "minLength": 0 if empty else 1, "maxLength": max_chars})


def stop() -> Check:
    """One stop string or up to four, none empty. An empty list is no stop."""
    one = string(bounds.STOP_CHARS_MAX)

    def apply(field: str, value: Any) -> tuple[str, ...]:
        if type(value) is str:
            return (one.apply(field, value),)
        if type(value) is not list:
            raise wrong(field, "a string or an array of strings", value)
        if len(value) > bounds.STOPS_MAX:
            raise InvalidRequest(
                f"{field} has {len(value)} entries; at most {bounds.STOPS_MAX} are taken.",
                field,
                "too_long",
            )
        return tuple(one.apply(f"{field}[{at}]", entry) for at, entry in enumerate(value))

    listed = {"type": "array", "items": one.schema, "maxItems": bounds.STOPS_MAX}
    return Check(apply, {"anyOf": [one.schema, listed]})


def logit_bias() -> Check:
    """{"token id": bias in -100..100}."""
    bias = number(bounds.LOGIT_BIAS)

    def apply(field: str, value: Any) -> tuple[tuple[int, float], ...]:
        if type(value) is not dict:
            raise wrong(field, "an object of token ids and numbers", value)
        if len(value) > bounds.LOGIT_BIASES_MAX:
            raise InvalidRequest(
                f"{field} has {len(value)} entries; at most {bounds.LOGIT_BIASES_MAX} are taken.",
                field,
                "too_long",
            )
        pairs: dict[int, float] = {}
        for key, entry in value.items():
            if not (key.isascii() and key.isdigit() and len(key) <= 9):
                raise InvalidRequest(
                    f"{field} must have token ids as keys; one key is not a number.",
                    field,
                    "invalid_type",
                )
            pairs[int(key)] = bias.apply(f"{field}.{int(key)}", entry)
        return tuple(pairs.items())

    return Check(
        apply,
        {
            "type": "object",
            "additionalProperties": bias.schema,
            "maxProperties": bounds.LOGIT_BIASES_MAX,
        },
    )


def stream_options() -> Check:
    """{"include_usage": bool}; `include_obfuscation` is tolerated."""
    flag = boolean()

    def apply(field: str, value: Any) -> bool:
        if type(value) is not dict:
            raise wrong(field, "an object", value)
        given = value.get("include_usage")
        return given is not None and bool(flag.apply(f"{field}.include_usage", given))

    properties = {"include_usage": flag.schema, "include_obfuscation": flag.schema}
    return Check(apply, {"type": "object", "properties": properties})


def one_of(*names: str) -> Check:
    """One of these words."""
    rule = f"one of {', '.join(names)}"

    def apply(field: str, value: Any) -> str:
        if type(value) is not str:
            raise wrong(field, rule, value)
        if value not in names:
            raise InvalidRequest(f"{field} must be {rule}.", field, "invalid_value")
        return value

    return Check(apply, {"enum": list(names)})


def above_zero(most: float, unit: str) -> Check:
    """A number above 0, up to `most` of its unit."""
    rule = f"a number of {unit} above 0 and at most {most:g}"

    def apply(field: str, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise wrong(field, rule, value)
        if not 0 < value <= most:
            raise InvalidRequest(f"{field} must be {rule}.", field, "out_of_range")
        return float(value)

    return Check(apply, {"type": "number", "exclusiveMinimum": 0, "maximum": most})


def array_of(entry: Check, most: int) -> Check:
    """An array of at most `most` such values; one that is given twice counts once."""

    def apply(field: str, value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise wrong(field, "an array", value)
        if len(value) > most:
            raise InvalidRequest(
                f"{field} has {len(value)} entries; at most {most} are taken.", field, "too_long"
            )
        found = [entry.apply(f"{field}[{at}]", one) for at, one in enumerate(value)]
        return tuple(dict.fromkeys(found))

    return Check(apply, {"type": "array", "items": entry.schema, "maxItems": most})


_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")


def dollars(most: int) -> Check:
    """USD from 0 to `most`, as a number or a decimal string; exact, never through a float."""
    rule = f"USD from 0 to {most}, as a number or a decimal string"

    def apply(field: str, value: Any) -> Decimal:
        if type(value) is str:
            if not _DECIMAL.fullmatch(value):
                raise InvalidRequest(f"{field} must be {rule}.", field, "invalid_value")
            amount = Decimal(value)
        elif type(value) is float or type(value) is int:
            amount = Decimal(repr(value))  # the shortest digits that mean this number
        else:
            raise wrong(field, rule, value)
        if not 0 <= amount <= most:
            raise InvalidRequest(f"{field} must be {rule}.", field, "out_of_range")
        return amount

    number = {"type": "number", "minimum": 0, "maximum": most}
    return Check(apply, {"anyOf": [number, {"type": "string", "pattern": f"^{_DECIMAL.pattern}$"}]})
