"""How long a request would take on each Mac, in milliseconds.

Measured rates first; where a Mac has not been measured yet, the roofline: a decode step
reads all weights once, so it takes weight bytes divided by memory bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.policy.ask import Ask
from market.policy.fleet import BATCH_SLOPE, Candidates, FloatArray

ROOFLINE_EFFICIENCY = 0.6
"""Share of the nominal memory bandwidth that decoding reaches on Apple silicon."""

PREFILL_PER_DECODE = 12.0
"""Prefill tokens/s per decode tokens/s of a lone sequence, where prefill is unmeasured."""

MAX_PREFILL_TPS = 20_000.0
MIN_STEP_MS = 0.05
"""No decode step is faster: keeps a tiny model's roofline from predicting zero."""

HANDOVER_MS = 2.0
"""From the decision to the engine's first step: one hop and the tokenised prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One value per candidate. `step_ms` is a decode step with this request in the batch."""

    prefill_ms: FloatArray
    step_ms: FloatArray
    decode_ms: FloatArray

    @property
    def ttft_ms(self) -> FloatArray:
        return HANDOVER_MS + self.prefill_ms + self.step_ms

    @property
    def total_ms(self) -> FloatArray:
        return HANDOVER_MS + self.prefill_ms + self.decode_ms


def predict(candidates: Candidates, ask: Ask) -> Prediction:
    """Prefill the prompt, then decode the expected tokens beside what already runs."""
    bytes_per_ms = np.maximum(candidates.bandwidth_gbs, 1.0) * 1e6 * ROOFLINE_EFFICIENCY
    roofline_ms = np.maximum(candidates.weight_bytes / bytes_per_ms, MIN_STEP_MS)
    solo_ms = np.where(candidates.solo_step_ms > 0, candidates.solo_step_ms, roofline_ms)
    guessed_tps = np.minimum(PREFILL_PER_DECODE * 1000.0 / solo_ms, MAX_PREFILL_TPS)
    prefill_tps = np.where(candidates.prefill_tps > 0, candidates.prefill_tps, guessed_tps)
    others = candidates.in_flight + (ask.n - 1)
    step_ms = solo_ms * (1.0 + BATCH_SLOPE * others)
    decode_ms = step_ms * max(ask.expected_tokens, 1.0)
    return Prediction(1000.0 * ask.prompt_tokens / prefill_tps, step_ms, decode_ms)
