"""What a model's requests have been like: how much they write and how long they take.

Running means per model, used where a request must be judged before it has run: its
expected output, its cost in the fair queue, and when to come back.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.types import ModelId

NEWEST_WEIGHT = 0.05
"""Weight of the newest request: about the last 40 count."""

FIRST_TOKENS = 128.0
FIRST_SERVICE_S = 2.0
"""Guesses before the first request of a model has ended."""


@dataclass(slots=True)
class _Means:
    tokens: float = FIRST_TOKENS
    service_s: float = FIRST_SERVICE_S


class ServiceRates:
    """Means per model; a model never seen has the first guesses."""

    def __init__(self) -> None:
        self._means: dict[ModelId, _Means] = {}

    def expected_tokens(self, model: ModelId, max_tokens: int) -> float:
        """Completion tokens to expect of one choice."""
        means = self._means.get(model)
        return min(means.tokens if means is not None else FIRST_TOKENS, float(max_tokens))

    def service_s(self, model: ModelId) -> float:
        """How long a slot is held."""
        means = self._means.get(model)
        return means.service_s if means is not None else FIRST_SERVICE_S

    def learn(self, model: ModelId, tokens: float, service_s: float) -> None:
        """One choice of a request ended well."""
        means = self._means.setdefault(model, _Means())
        means.tokens += NEWEST_WEIGHT * (tokens - means.tokens)
        means.service_s += NEWEST_WEIGHT * (service_s - means.service_s)
