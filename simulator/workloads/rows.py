"""A request on its way to be an `Arrival`: everything but its number, which it gets in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from market.catalogue import ModelCard
from market.policy.preferences import Preferences
from market.types import ModelId, RequestClass
from simulator.workloads.laws import FloatArray, IntArray
from simulator.workloads.spec import MAX_TOKENS_DEFAULT, TokenLimit

Row = tuple[
    float,  # at_s
    str,  # consumer
    ModelId,
    int,  # prompt_tokens
    int,  # output_tokens
    int,  # max_tokens
    RequestClass,
    str,  # session
    tuple[int, ...],  # prefix
    tuple[int, ...],  # leaves
    float | None,  # deadline_s
    Preferences,
    str,  # kind
]
"""The fields of `Arrival` after its number, in their order. A plain tuple: it is made a million
times.
"""

Notes = Counter[str]
"""What was done to requests that did not fit or make sense, and how often. Nothing is dropped
without a word here.
"""

CUT = "lengths cut to what the model takes"


class Fit:
    """Lengths that a request may have: the model's context holds prompt and limit together."""

    def __init__(self, cards: Sequence[ModelCard], limit: TokenLimit, notes: Notes) -> None:
        self._cards = cards
        self._context = np.array([card.context_tokens for card in cards])
        self._most = np.array([card.max_output_tokens for card in cards])
        self._limit = limit
        self._notes = notes

    def all(
        self, prompts: FloatArray, outputs: FloatArray, models: IntArray
    ) -> tuple[list[int], list[int], list[int]]:
        """Prompt, answer and limit of each, in whole tokens. What is cut is counted."""
        wished_prompt = np.maximum(np.rint(prompts), 1.0).astype(np.int64)
        wished_output = np.maximum(np.rint(outputs), 1.0).astype(np.int64)
        context, most = self._context[models], self._most[models]
        if isinstance(self._limit, int):
            most = np.minimum(most, self._limit)
        output = np.minimum(np.minimum(wished_output, most), np.maximum(context // 2, 1))
        prompt = np.minimum(wished_prompt, context - output)
        cut = int(np.count_nonzero((output < wished_output) | (prompt < wished_prompt)))
        if cut:
            self._notes[CUT] += cut
        if self._limit == "exact":
            limit = output
        elif self._limit == "usual":
            usual = np.minimum(most, MAX_TOKENS_DEFAULT)
            limit = np.minimum(np.where(output <= usual, usual, most), context - prompt)
        else:
            limit = np.minimum(most, context - prompt)
        return prompt.tolist(), output.tolist(), limit.tolist()

    def one(self, prompt: float, output: float, model: int) -> tuple[int, int, int]:
        """The same for a single request, without arrays."""
        wished_prompt, wished_output = max(round(prompt), 1), max(round(output), 1)
        context, most = self._cards[model].context_tokens, self._cards[model].max_output_tokens
        if isinstance(self._limit, int):
            most = min(most, self._limit)
        said = min(wished_output, most, max(context // 2, 1))
        asked = min(wished_prompt, context - said)
        if said < wished_output or asked < wished_prompt:
            self._notes[CUT] += 1
        if self._limit == "exact":
            return asked, said, said
        if self._limit == "usual" and said <= MAX_TOKENS_DEFAULT:
            most = min(most, MAX_TOKENS_DEFAULT)
        return asked, said, min(most, context - asked)

    def holds(self, prompt: int, output: float, model: int) -> bool:
        """Whether a prompt and its answer go into the model's context uncut."""
        return prompt + max(round(output), 1) <= self._cards[model].context_tokens
