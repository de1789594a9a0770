"""The numbers that who calls the lab from Python gives: checked before a folder is claimed."""

from __future__ import annotations

import math
import operator
from typing import Any

from market.errors import InvalidRequest


def whole(name: str, value: Any, low: int, high: int) -> int:
    """The whole number, numpy's among them, as one of Python's. Raises InvalidRequest naming it.

    True is none, and neither is 1.0: what is written down must be what was given.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise InvalidRequest(
            f"{name} is {_shown(value)}; it must be a whole number from {low} to {high}.", name
        )
    return number


def share(name: str, value: Any) -> float:
    """A share above nothing and at most all. Raises InvalidRequest naming it."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and 0 < value <= 1)
    ):
        raise InvalidRequest(
            f"{name} is {_shown(value)}; it must be a share above 0 and at most 1, such as 0.05.",
            name,
        )
    return float(value)


def _shown(value: object) -> str:
    return f"{value!r}"[:40]
