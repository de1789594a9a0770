"""The ranges of everything a request may ask of the drawing of tokens, in one place.

The gateway checks them first and writes them into its API description; an engine checks them
again, because it trusts no gateway. Both read this table, so that a value the gateway let
through is never refused late by a Mac. Bounds are inclusive unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float


TEMPERATURE = Bounds(0.0, 2.0)

TOP_P = Bounds(0.0, 1.0)
"""0 is greedy: the gateway turns it into temperature 0, an engine never sees it."""

MIN_P = Bounds(0.0, 1.0)
"""1 keeps the likeliest token alone."""

FREQUENCY_PENALTY = Bounds(-2.0, 2.0)
PRESENCE_PENALTY = Bounds(-2.0, 2.0)

REPETITION_PENALTY = Bounds(0.01, 10.0)
"""A factor on scores: 1 is off. Nearer to 0 it would turn scores into infinities."""

LOGIT_BIAS = Bounds(-100.0, 100.0)
LOGIT_BIASES_MAX = 1_024

SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1
CHOICES_MAX = 8
STOPS_MAX = 4
STOP_CHARS_MAX = 1_000
CHAT_TOP_LOGPROBS_MAX = 20
COMPLETION_TOP_LOGPROBS_MAX = 5

GREEDY_BELOW_TEMPERATURE = 1e-5
"""Below this the likeliest token is taken. A draw would give the same one, but dividing scores
by so little leaves the range of 32-bit floats."""
