"""Terms of the score, all in predicted milliseconds; lower is better and they add up.

One currency keeps weights from drifting. Adding a term touches two places: its function
and its line in `SCORERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from market.policy.ask import Ask
from market.policy.fleet import Candidates, FloatArray
from market.policy.predictor import HANDOVER_MS, Prediction

Scorer = Callable[[Candidates, Ask, Prediction], FloatArray]


def _prefill(_candidates: Candidates, _ask: Ask, predicted: Prediction) -> FloatArray:
    """Until the prompt is read."""
    return HANDOVER_MS + predicted.prefill_ms


def _decode(_candidates: Candidates, _ask: Ask, predicted: Prediction) -> FloatArray:
    """Until the expected completion is written, beside what already runs there."""
    return predicted.decode_ms


def _risk(candidates: Candidates, _ask: Ask, predicted: Prediction) -> FloatArray:
    """Chance that the Mac fails, times the time that would be lost by starting again."""
    return candidates.fail_rate * predicted.total_ms


SCORERS: dict[str, Scorer] = {
    "prefill": _prefill,
    "decode": _decode,
    "risk": _risk,
}
