"""Terms of the score, all in predicted milliseconds; lower is better and they add up.

One currency keeps weights from drifting. Adding a term touches two places: its function and its
line in `SCORERS`. A hot Mac that holds a prompt's prefix loses by itself once waiting there takes
longer than reading the prompt elsewhere: affinity has no weight of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from market.policy.ask import Ask
from market.policy.candidates import BoolArray, Candidates, FloatArray, locked
from market.policy.predictor import HANDOVER_MS, Prediction, predict

MS_PER_NANO = 0.5e-3
"""What a caller without a wish gives for speed: a millisecond for two micro-USD."""

START_WEIGHT = 2.0
"""How much waiting for the first token counts beside the time until the last one."""

RESTART_MS = 2_000.0
"""Until a dead Mac is noticed: what losing one costs beside reading the prompt again."""

FAIRNESS_SHARE = 0.1
FAIRNESS_FULL_S = 600.0
"""A Mac that has had nothing for ten minutes counts as a tenth faster than it is."""


@dataclass(frozen=True)
class View:
    """What a scorer sees: the Macs, the request, and which of them may be chosen. All arrays are
    read-only, also those of `predicted`: `scores = view.predicted.ttft_ms + mine` makes a new one.
    """

    candidates: Candidates
    ask: Ask
    eligible: BoolArray
    seed: int

    @cached_property
    def predicted(self) -> Prediction:
        """Times and costs, computed when first asked for."""
        return predict(self.candidates, self.ask)

    def narrowed(self, eligible: BoolArray) -> View:
        """The same with fewer Macs eligible; what was computed is kept."""
        fewer = View(self.candidates, self.ask, locked(eligible), self.seed)
        fewer.__dict__.update({k: v for k, v in self.__dict__.items() if k == "predicted"})
        return fewer


Scorer = Callable[[View], FloatArray]


def _prefill(view: View) -> FloatArray:
    """Until the prompt is read, behind the prompts that were granted before it."""
    predicted = view.predicted
    return START_WEIGHT * (HANDOVER_MS + predicted.wait_ms + predicted.prefill_ms)


def _decode(view: View) -> FloatArray:
    """Until the expected answer is written, beside what already runs there."""
    return view.predicted.decode_ms


def _others(view: View) -> FloatArray:
    """How much longer those who already run there will take, whatever their model: while this
    prompt is read they wait, and then each of their steps is longer. They count as much as the
    one who asks; of what they are expected to say half is left on average.
    """
    candidates, predicted = view.candidates, view.predicted
    waiting = candidates["in_flight"] * predicted.prefill_ms
    return waiting + 0.5 * candidates["expected_all"] * predicted.slower_ms


def _risk(view: View) -> FloatArray:
    """Chance that the Mac fails or goes away meanwhile, times what starting again costs."""
    predicted, candidates = view.predicted, view.candidates
    lost = 1.0 - np.exp(-candidates["hazard_per_ms"] * predicted.total_ms)
    again_ms = RESTART_MS + predicted.ttft_ms
    return (lost + candidates["fail_rate"]) * again_ms


def _price(view: View) -> FloatArray:
    """What the answer is expected to cost, at what a millisecond is worth."""
    return MS_PER_NANO * view.predicted.cost_nano


def _fairness(view: View) -> FloatArray:
    """The tenth of the time that a Mac is spared that has long had nothing to do."""
    idle_s = view.ask.now_s - view.candidates["last_grant_s"]
    busy = np.maximum(1.0 - idle_s / FAIRNESS_FULL_S, 0.0)
    return FAIRNESS_SHARE * np.minimum(busy, 1.0) * view.predicted.total_ms


SCORERS: Mapping[str, Scorer] = {
    "prefill": _prefill,
    "decode": _decode,
    "others": _others,
    "risk": _risk,
    "price": _price,
    "fairness": _fairness,
}
