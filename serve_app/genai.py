"""Our metrics under the names of OpenTelemetry's conventions for generative AI.

All of these conventions are in development and have moved before, so their names, labels and
values are written here and nowhere else. Nothing is measured twice: our histograms have the
bounds that the conventions ask for, and appear a second time under the other name. Dots become
underscores and seconds a suffix, as Prometheus' own rules for OpenTelemetry say.

Read from semantic-conventions-genai, `docs/gen-ai/gen-ai-metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from market.metrics import Family, family_of, labelled, parts_of
from serve_app import metric_names as ours

OPERATIONS: Final = {"chat": "chat", "completion": "text_completion"}
"""The conventions' operations, by our routes."""

PROVIDER: Final = "coster"
"""Whose flavour of the conventions it is. Macs are never told apart here."""


@dataclass(frozen=True, slots=True)
class _Also:
    """One of our histograms, its other name, and how its labels are called there."""

    family: Family
    name: str
    text: str
    labels: Mapping[str, str]


_ABOUT: Final = {"route": "gen_ai_operation_name", "model": "gen_ai_request_model"}
_ALSO: Final = (
    _Also(
        ours.TTFT,
        "gen_ai_server_time_to_first_token_seconds",
        "Time to generate the first token of successful responses.",
        _ABOUT,
    ),
    _Also(
        ours.TOKEN_SECONDS,
        "gen_ai_server_time_per_output_token_seconds",
        "Time per output token after the first token of successful responses.",
        _ABOUT,
    ),
    _Also(
        ours.REQUEST_SECONDS,
        "gen_ai_server_request_duration_seconds",
        "Server request duration, to the last output token.",
        {**_ABOUT, "error": "error_type"},
    ),
    _Also(
        ours.REQUEST_TOKENS,
        "gen_ai_client_token_usage",
        "Number of input and output tokens used.",
        {**_ABOUT, "type": "gen_ai_token_type"},
    ),
)
_BY_NAME: Final = {also.family.name: also for also in _ALSO}

FAMILIES: Final = tuple(
    Family(
        also.name,
        "histogram",
        also.text,
        ("gen_ai_provider_name", *(also.labels[label] for label in also.family.labels)),
        also.family.bounds,
    )
    for also in _ALSO
)


def also_known_as(values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The samples that the conventions have a name for, under that name."""
    known = {also.family.name: also.family for also in _ALSO}
    for key, value in values.items():
        name, labels = parts_of(key)
        family = family_of(name, known)
        if family is not None:
            also = _BY_NAME[family.name]
            yield _renamed(also, name.removeprefix(family.name), labels), value


def _renamed(also: _Also, part: str, labels: Mapping[str, str]) -> str:
    told = {"gen_ai_provider_name": PROVIDER}
    for label, value in labels.items():
        if label == "error" and not value:
            continue  # an operation that ended well has no error type
        told[also.labels.get(label, label)] = OPERATIONS.get(value, value)
    return labelled(also.name + part, **told)
