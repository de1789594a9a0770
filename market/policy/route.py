"""One routing decision: filter → predict → score → pick, and what is kept of it.

The live router and the simulator call the same `decide`. It is a pure function: equal
candidates, request and seed give an equal decision, so that a stored one can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.policy.ask import Ask
from market.policy.filters import FILTERS, LASTING, reasons_in_words, slots_needed
from market.policy.fleet import BoolArray, Candidates, FloatArray
from market.policy.picker import pick
from market.policy.predictor import Prediction, predict
from market.policy.scorers import SCORERS
from market.types import MachineId

TOP_KEPT = 8
"""Scored Macs kept with each decision; all of them can be had from `materialise`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one Mac looked like to one request. `reason` is None for an eligible Mac."""

    machine: MachineId
    reason: str | None
    total_ms: float | None = None
    terms_ms: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The outcome for one request. `counts` says how many Macs each reason ruled out.

    `hopeless`: no Mac could take it even if everything that runs now ended.
    """

    ask: Ask
    candidates: Candidates
    chosen: MachineId | None
    slots: int
    predicted_ttft_ms: float
    counts: dict[str, int]
    hopeless: bool
    top: tuple[Verdict, ...]

    @property
    def fleet_version(self) -> int:
        return self.candidates.version

    def in_words(self) -> str:
        """How the fleet stood: `0 of 3 Macs can take this now: 2 draining, 1 starting`."""
        macs = len(self.candidates)
        able = macs - sum(self.counts.values())
        why = reasons_in_words(self.counts)
        noun = "Mac" if macs == 1 else "Macs"
        return f"{able} of {macs} {noun} can take this now" + (f": {why}" if why else "")

    def nearest_to_free(self) -> MachineId | None:
        """Of the Macs that lack only free slots, the one that needs to free the fewest."""
        candidates, ask = self.candidates, self.ask
        able = np.ones(len(candidates), dtype=np.bool_)
        for rule in FILTERS:
            if rule.name != "no_slot":
                able &= rule.passes(candidates, ask)
        indices = np.flatnonzero(able)
        if len(indices) == 0:
            return None
        lacking = candidates.in_flight + slots_needed(candidates, ask) - candidates.slots
        machine: MachineId = candidates.machine[indices[lacking[indices].argmin()]]
        return machine


def decide(candidates: Candidates, ask: Ask, seed: int) -> Decision:
    """Choose a Mac for this request, or say how many were ruled out by what."""
    eligible, counts = _filter(candidates, ask)
    if not eligible.any():
        hopeless = all(reason in LASTING for reason in counts)
        return Decision(ask, candidates, None, 0, 0.0, counts, hopeless, ())
    predicted = predict(candidates, ask)
    terms = _terms(candidates, ask, predicted)
    total_ms = np.where(eligible, sum(terms.values()), np.inf)
    name = f"{ask.request_id}:{ask.attempt}"
    index = pick(candidates, total_ms, eligible, seed=seed, name=name)
    assert index is not None, "an eligible Mac exists"
    return Decision(
        ask=ask,
        candidates=candidates,
        chosen=candidates.machine[index],
        slots=int(slots_needed(candidates, ask)[index]),
        predicted_ttft_ms=float(predicted.ttft_ms[index]),
        counts=counts,
        hopeless=False,
        top=_top(candidates, total_ms, terms, index),
    )


def materialise(decision: Decision) -> list[Verdict]:
    """Every candidate's verdict and terms, computed again from what the decision saw."""
    candidates, ask = decision.candidates, decision.ask
    terms = _terms(candidates, ask, predict(candidates, ask))
    reasons: list[str | None] = [None] * len(candidates)
    for rule in FILTERS:
        for index in np.flatnonzero(~rule.passes(candidates, ask)):
            if reasons[index] is None:
                reasons[index] = rule.name
    return [
        Verdict(candidates.machine[i], reason)
        if reason is not None
        else _verdict(candidates, terms, i)
        for i, reason in enumerate(reasons)
    ]


def _filter(candidates: Candidates, ask: Ask) -> tuple[BoolArray, dict[str, int]]:
    eligible = np.ones(len(candidates), dtype=np.bool_)
    counts: dict[str, int] = {}
    left = len(candidates)
    for rule in FILTERS:
        if left == 0:
            break
        eligible &= rule.passes(candidates, ask)
        now_left = int(np.count_nonzero(eligible))
        if now_left != left:
            counts[rule.name] = left - now_left
            left = now_left
    return eligible, counts


def _terms(candidates: Candidates, ask: Ask, predicted: Prediction) -> dict[str, FloatArray]:
    return {name: scorer(candidates, ask, predicted) for name, scorer in SCORERS.items()}


def _verdict(candidates: Candidates, terms: dict[str, FloatArray], index: int) -> Verdict:
    parts = tuple((name, float(values[index])) for name, values in terms.items())
    return Verdict(candidates.machine[index], None, sum(ms for _, ms in parts), parts)


def _top(
    candidates: Candidates, total_ms: FloatArray, terms: dict[str, FloatArray], chosen: int
) -> tuple[Verdict, ...]:
    """The best eligible Macs, best first; the chosen one is always among them."""
    count = min(TOP_KEPT, int(np.count_nonzero(np.isfinite(total_ms))))
    best = np.argpartition(total_ms, count - 1)[:count]
    order = [int(i) for i in best[np.argsort(total_ms[best], kind="stable")]]
    if chosen not in order:
        order[-1] = chosen
    return tuple(_verdict(candidates, terms, i) for i in order)
