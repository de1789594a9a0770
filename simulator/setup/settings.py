"""Settings as they are typed: `workload.0.rho=0.7`, and with commas the values of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from market.errors import InvalidRequest

_OPEN, _CLOSE = "[{(", "]})"


def settings_of(texts: Sequence[str]) -> dict[str, str]:
    """One value per key. Raises InvalidRequest for what has no `=`, or is said twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidRequest(
                f"--set {text[:80]!r} is no setting; write it like workload.0.rho=0.7.", "set"
            )
        if key.strip() in found:
            raise InvalidRequest(f"--set {key.strip()[:80]} is given twice.", "set")
        found[key.strip()] = value.strip()
    return found


def swept_of(texts: Sequence[str]) -> tuple[dict[str, str], Mapping[str, Sequence[str]]]:
    """Settings with one value, and those with several, which are what is swept."""
    fixed: dict[str, str] = {}
    over: dict[str, Sequence[str]] = {}
    for key, text in settings_of(texts).items():
        values = _split(text)
        if len(values) == 1:
            fixed[key] = text
        elif len(set(values)) < len(values) or "" in values:
            raise InvalidRequest(f"--set {key[:80]}: a value is empty or there twice.", "set")
        else:
            over[key] = values
    if not over:
        raise InvalidRequest(
            "A sweep needs a setting with several values, such as --set workload.0.rho=0.5,0.7.",
            "set",
        )
    return fixed, over


def _split(text: str) -> list[str]:
    """At commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += sign
    return [part.strip() for part in parts]
