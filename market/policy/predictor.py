"""How long a request would take on each Mac, in milliseconds.

From tables per chip, model and quantisation, scaled by what the Mac measures about itself and
corrected by what earlier requests really took. A Mac's models share its GPU: a step of one waits
for a step of each other that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from market.policy.ask import Ask
from market.policy.candidates import Candidates, FloatArray
from market.policy.columns import STEP_COLUMNS
from market.policy.filters import asked_prices
from market.policy.rates import KNOTS

HANDOVER_MS = 2.0
"""From the decision to the engine's first step: one hop and the tokenised prompt."""

PREFILL_CHUNK_TOKENS = 512.0
"""Between two chunks of a prompt everyone who is being answered gets a token."""

_KNOTS = np.array(KNOTS, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Prediction:
    """One value per candidate. `step_ms` is a decode step with this request in the batch,
    `slower_ms` what it adds to each step of those already there, `alone_ms` reading the prompt
    with nobody there. None of the arrays can be written: policies see them, and are measured by
    them.
    """

    wait_ms: FloatArray
    alone_ms: FloatArray
    prefill_ms: FloatArray
    step_ms: FloatArray
    slower_ms: FloatArray
    decode_ms: FloatArray
    cost_nano: FloatArray

    def __post_init__(self) -> None:
        for array in (
            *(self.wait_ms, self.alone_ms, self.prefill_ms, self.step_ms),
            *(self.slower_ms, self.decode_ms, self.cost_nano),
        ):
            array.setflags(write=False)

    @cached_property
    def ttft_ms(self) -> FloatArray:
        ttft_ms: FloatArray = HANDOVER_MS + self.wait_ms + self.prefill_ms + self.step_ms
        ttft_ms.setflags(write=False)
        return ttft_ms

    @cached_property
    def total_ms(self) -> FloatArray:
        total_ms: FloatArray = HANDOVER_MS + self.wait_ms + self.prefill_ms + self.decode_ms
        total_ms.setflags(write=False)
        return total_ms


def table_step_ms(candidates: Candidates, batch: FloatArray) -> FloatArray:
    """The tabled step at these batch sizes, one per candidate; between knots interpolated."""
    at = np.clip(np.searchsorted(_KNOTS, batch, side="right") - 1, 0, len(KNOTS) - 2)
    table = np.stack([candidates[name] for name in STEP_COLUMNS])
    here = np.arange(len(candidates))
    low, high = table[at, here], table[at + 1, here]
    steps: FloatArray = low + (high - low) * (batch - _KNOTS[at]) / (_KNOTS[at + 1] - _KNOTS[at])
    return steps


def predict(candidates: Candidates, ask: Ask) -> Prediction:
    """Read the prompt, then say the expected tokens beside what already runs."""
    step = candidates["step_next_ms"]
    if ask.n > 1:
        step = table_step_ms(candidates, candidates["running"] + ask.n)
    expected = max(ask.expected_tokens, 1.0)
    context = candidates["context_sum"] + ask.n * (ask.read_tokens + expected / 2)
    factor = candidates["scale_step"] * candidates["bias_step"]
    own_ms = (step + candidates["kv_ms"] * context) * factor
    busy_ms, before_ms = candidates["busy_ms"], candidates["own_ms"]
    step_ms = own_ms + (busy_ms - before_ms)

    unread = np.maximum(ask.read_tokens - candidates.cached, 1.0)
    alone_ms = np.maximum(unread * candidates["prefill_ms"], candidates["step_1_ms"])
    alone_ms = alone_ms * candidates["scale_prefill"] * candidates["bias_prefill"]
    prefill_ms = alone_ms + busy_ms * (unread / PREFILL_CHUNK_TOKENS)
    wait_ms = np.maximum(candidates["prefill_until_s"] - ask.now_s, 0.0) * 1e3
    cost = asked_prices(candidates, ask.price_in_nano) * ask.prompt_tokens
    cost = cost + asked_prices(candidates, ask.price_out_nano) * (expected * ask.n)
    return Prediction(
        wait_ms, alone_ms, prefill_ms, step_ms, own_ms - before_ms, step_ms * expected, cost
    )


def alone_total_ms(candidates: Candidates, predicted: Prediction, ask: Ask) -> FloatArray:
    """The whole answer where nothing else runs: no load can make it quicker."""
    step_ms = candidates["step_1_ms"] * candidates["scale_step"] * candidates["bias_step"]
    total_ms: FloatArray = (
        HANDOVER_MS + predicted.alone_ms + step_ms * max(ask.expected_tokens, 1.0)
    )
    return total_ms


def high_factor(candidates: Candidates, index: int) -> float:
    """By how much to multiply a prediction for this Mac to be right nine times in ten.

    The error of the logarithm is taken as Laplace's, whose 90th percentile is ln 5 times its
    mean absolute error.
    """
    return float(np.exp(1.609 * candidates["spread"][index]))
