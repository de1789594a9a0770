"""One routing decision: filter → predict → score → pick, and what is kept of it.

The live router and the simulator call the same `decide`. It is a pure function: equal
candidates, request, policy and seed give an equal decision, so that a stored one can be
replayed. A term that fails or returns nonsense is left out and named; it never stops a request.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from market.policy.ask import Ask
from market.policy.candidates import BoolArray, Candidates, FloatArray, locked
from market.policy.filters import (
    FILTERS,
    LASTING,
    ROOM,
    WISHES,
    idle_groups,
    reasons_in_words,
    slots_needed,
)
from market.policy.picker import near_ties
from market.policy.predictor import Prediction, high_factor, predict
from market.policy.registry import COSTER, Policy
from market.policy.scorers import View
from market.policy.soft import narrow, set_aside
from market.types import MachineId, ProviderId

TOP_KEPT = 8
"""Scored Macs kept with each decision; all of them can be had from `materialise`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one Mac looked like to one request. `reason` is None for an eligible Mac.

    `aside` names the soft filter that preferred others, if one did.
    """

    machine: MachineId
    provider: ProviderId
    reason: str | None
    total_ms: float | None = None
    terms_ms: tuple[tuple[str, float], ...] = ()
    aside: str | None = None


@dataclass(frozen=True, eq=False)
class Decision:
    """The outcome for one request. `counts` says how many Macs each reason ruled out.

    `narrowed` are the soft filters that counted, `faults` the terms that were left out. One that
    was `refused` although a Mac was free has the best Mac's `index` and nobody `chosen`.
    """

    ask: Ask
    candidates: Candidates
    policy: str
    seed: int
    index: int | None
    eligible: BoolArray
    counts: dict[str, int]
    terms: dict[str, FloatArray]
    narrowed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    view: View | None = None
    refused: bool = False

    @property
    def fleet_version(self) -> int:
        return self.candidates.version

    @property
    def chosen(self) -> MachineId | None:
        """The Mac that was given the request."""
        if self.index is None or self.refused:
            return None
        return self.candidates.name(self.index).machine

    def late(self, index: int) -> bool:
        """Whether this Mac is not expected to have finished by the caller's deadline."""
        by_s = self.ask.finish_by_s
        return by_s is not None and float(self.predicted.total_ms[index]) > by_s * 1e3

    @property
    def hopeless(self) -> bool:
        """No Mac that has the model could take it even if all that runs now ended."""
        return self.index is None and all(reason in LASTING for reason in self.counts)

    @property
    def unwanted(self) -> bool:
        """Macs could serve this, but the caller's own wishes rule every one of them out."""
        return self.hopeless and any(reason in WISHES for reason in self.counts)

    @cached_property
    def predicted(self) -> Prediction:
        return self.view.predicted if self.view is not None else predict(self.candidates, self.ask)

    @property
    def slots(self) -> int:
        """Slots to reserve on the chosen Mac."""
        if self.index is None:
            return 0
        slots = max(int(self.candidates["slots"][self.index]), 1)
        return min(self.ask.n, slots)

    def high_factor(self) -> float:
        """How much worse than predicted the chosen Mac may be, nine times in ten."""
        return high_factor(self.candidates, self.index) if self.index is not None else 1.0

    def high_total_ms(self) -> float:
        """What the whole answer on the chosen Mac takes at most, nine times in ten."""
        if self.index is None:
            return 0.0
        predicted, at = self.predicted, self.index
        tokens = max(self.ask.high_tokens, self.ask.expected_tokens, 1.0)
        most_ms = predicted.ttft_ms[at] + predicted.step_ms[at] * (tokens - 1.0)
        return float(most_ms) * self.high_factor()

    def total_ms(self) -> FloatArray:
        # Only for the eligible ones are a plugin's numbers known to add up to one.
        with np.errstate(over="ignore", invalid="ignore"):
            return sum_of(self.terms, len(self.candidates))

    def in_words(self) -> str:
        """How the fleet stood: `0 of 3 Macs can take this now: 2 draining, 1 starting`."""
        macs = len(self.candidates)
        able = macs - sum(self.counts.values())
        why = reasons_in_words(self.counts)
        noun = "Mac" if macs == 1 else "Macs"
        said = f"{able} of {macs} {noun} can take this now" + (f": {why}" if why else "")
        others = self.candidates.elsewhere
        return said + (f"; {others} more without the model" if others else "")

    def nearest_to_free(self) -> MachineId | None:
        """Of the Macs that lack only room, the one that needs to free the fewest slots."""
        candidates, ask = self.candidates, self.ask
        able = np.ones(len(candidates), dtype=np.bool_)
        for rule in FILTERS:
            passes = None if rule.name in ROOM else rule.passes(candidates, ask)
            if passes is not None:
                able &= passes
        indices = np.flatnonzero(able)
        if len(indices) == 0:
            return None
        lacking = candidates["in_flight"] + slots_needed(candidates, ask) - candidates["slots"]
        return candidates.name(int(indices[lacking[indices].argmin()])).machine


def decide(
    candidates: Candidates,
    ask: Ask,
    seed: int,
    policy: Policy = COSTER,
    *,
    let_in: int | None = None,
) -> Decision:
    """Choose a Mac for this request, or say how many were ruled out by what.

    The Mac at `let_in` is not ruled out whatever it is like: what would have been, had it been fit.
    """
    eligible, counts = _filter(candidates, ask, let_in)
    if not eligible.any():
        return Decision(ask, candidates, policy.name, seed, None, eligible, counts, {})
    # A plugin sees them and must not be able to let a Mac in that a hard filter keeps out, nor
    # to change the predictions by which it is measured.
    candidates.lock()
    view = View(candidates, ask, locked(eligible), seed)
    narrowed: tuple[str, ...] = ()
    if policy.soft:
        view, narrowed = narrow(view)
    terms, total, faults = _score(view, policy)
    try:
        index = operator.index(policy.pick(view, total.copy()))
    except Exception as error:  # noqa: BLE001 - as for a term
        faults, index = (*faults, f"pick raised {type(error).__name__}"), near_ties(view, total)
    if not (0 <= index < len(eligible) and eligible[index]):
        faults, index = (*faults, "pick chose nobody who may"), near_ties(view, total)
    return Decision(
        ask, candidates, policy.name, seed, index, eligible, counts, terms, narrowed, faults, view
    )


def _filter(
    candidates: Candidates, ask: Ask, let_in: int | None
) -> tuple[BoolArray, dict[str, int]]:
    eligible = np.ones(len(candidates), dtype=np.bool_)
    counts: dict[str, int] = {}
    left = len(candidates)
    idle = idle_groups(candidates, ask)
    for rule in FILTERS:
        if left == 0:
            break
        if rule.group in idle:
            continue
        passes = rule.passes(candidates, ask)
        if passes is None:
            continue
        eligible &= passes
        if let_in is not None:
            eligible[let_in] = True
        now_left = int(np.count_nonzero(eligible))
        if now_left != left:
            counts[rule.name] = left - now_left
            left = now_left
    return eligible, counts


def _score(view: View, policy: Policy) -> tuple[dict[str, FloatArray], FloatArray, tuple[str, ...]]:
    """The terms that are numbers for every eligible Mac, their sum, what was wrong with others."""
    terms: dict[str, FloatArray] = {}
    faults: list[str] = []
    for name, scorer in policy.scorers.items():
        try:
            values = np.asarray(scorer(view))
        except Exception as error:  # noqa: BLE001 - a plugin's fault is named, and never ours
            faults.append(f"{name} raised {type(error).__name__}")
            continue
        if values.shape != view.eligible.shape:
            faults.append(f"{name} gave {values.shape} scores for {view.eligible.shape} Macs")
        elif values.dtype.kind not in "biuf":
            faults.append(f"{name} gave scores that are no numbers")
        else:
            terms[name] = values.astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum_of(terms, len(view.eligible))
        while not np.isfinite(total[view.eligible]).all():
            worst = max(terms, key=lambda name: _size(terms[name][view.eligible]))
            faults.append(f"{worst} gave scores that are no numbers, or too large to add up")
            del terms[worst]
            total = sum_of(terms, len(view.eligible))
    return terms, total, tuple(faults)


def _size(values: FloatArray) -> float:
    """The largest of them; infinite where one is no number."""
    return float(np.abs(values).max()) if np.isfinite(values).all() else np.inf


def sum_of(terms: dict[str, FloatArray], count: int) -> FloatArray:
    """The terms added up; zeros when there are none."""
    total: FloatArray = sum(terms.values(), np.zeros(count))
    return total


def materialise(decision: Decision) -> list[Verdict]:
    """Every candidate's verdict and terms, from what the decision saw."""
    reasons = reasons_of(decision)
    asides = asides_of(decision)
    return [
        Verdict(who.machine, who.provider, reason)
        if reason is not None
        else _verdict(decision, at, asides[at])
        for at, (who, reason) in enumerate(zip(decision.candidates.who(), reasons, strict=True))
    ]


def reasons_of(decision: Decision) -> list[str | None]:
    """Per candidate the first filter that rules it out."""
    return [reasons[0] if reasons else None for reasons in all_reasons(decision)]


def all_reasons(decision: Decision) -> list[tuple[str, ...]]:
    """Per candidate every filter that rules it out, in their order."""
    reasons: list[tuple[str, ...]] = [()] * len(decision.candidates)
    for rule in FILTERS:
        passes = rule.passes(decision.candidates, decision.ask)
        if passes is None:
            continue
        for index in np.flatnonzero(~passes):
            reasons[index] += (rule.name,)
    return reasons


def asides_of(decision: Decision) -> list[str | None]:
    """Per candidate the soft filter that preferred others, if one did."""
    if not decision.narrowed:
        return [None] * len(decision.candidates)
    return set_aside(View(decision.candidates, decision.ask, decision.eligible, decision.seed))


def _verdict(decision: Decision, index: int, aside: str | None = None) -> Verdict:
    who = decision.candidates.name(index)
    parts = tuple((name, float(values[index])) for name, values in decision.terms.items())
    return Verdict(who.machine, who.provider, None, sum(ms for _, ms in parts), parts, aside)


def best(decision: Decision) -> tuple[Verdict, ...]:
    """The best eligible Macs, best first; the chosen one is always among them."""
    if decision.index is None:
        return ()
    total = np.where(decision.eligible, decision.total_ms(), np.inf)
    count = min(TOP_KEPT, int(np.count_nonzero(decision.eligible)))
    nearest = np.argpartition(total, count - 1)[:count]
    order = [int(i) for i in nearest[np.argsort(total[nearest], kind="stable")]]
    if decision.index not in order:
        order[-1] = decision.index
    return tuple(_verdict(decision, i) for i in order)
