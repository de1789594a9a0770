"""What would have changed a decision: for whoever lost it, and for whoever has to understand it.

Every term was computed for every Mac, those that were ruled out too, so what would have happened
without a filter is known and not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.policy.decision import Decision, reasons_of
from market.policy.filters import BY_NAME
from market.types import ProviderId

SHOWN_MAX = 8
"""Most Macs told of; the ones that came nearest."""

AS_GOOD_MS = 0.5
"""Less is no difference that could be told of in milliseconds."""


@dataclass(frozen=True, slots=True)
class Change:
    """One Mac, and what it would have taken. `gain_ms` is how much less the score would have
    been than the chosen Mac's; negative when it would still have lost.
    """

    provider: ProviderId
    reason: str | None
    would_win: bool
    gain_ms: float | None
    words: str

    def as_json(self) -> dict[str, object]:
        return {
            "provider": self.provider,
            "reason": self.reason,
            "would_win": self.would_win,
            "gain_ms": None if self.gain_ms is None else round(self.gain_ms, 3),
            "words": self.words,
        }


def changes(decision: Decision) -> list[Change]:
    """What would have made another Mac the chosen one, nearest first."""
    if decision.index is None:
        return _openings(decision)
    reasons, who = reasons_of(decision), decision.candidates.who()
    total = decision.total_ms()
    chosen_ms = float(total[decision.index])
    found = []
    for at in np.argsort(total, kind="stable"):
        index = int(at)
        if index == decision.index:
            continue
        gain_ms = chosen_ms - float(total[index])
        reason = reasons[index]
        if reason is not None and gain_ms > 0:
            words = f"It would have been {gain_ms:.0f} ms better, if {BY_NAME[reason].remedy}."
            found.append(Change(who[index].provider, reason, True, gain_ms, words))
        elif reason is None:
            words = _lost_by(decision, index, -gain_ms)
            found.append(Change(who[index].provider, None, False, gain_ms, words))
    return found[:SHOWN_MAX]


def _lost_by(decision: Decision, index: int, lost_ms: float) -> str:
    """By how much an eligible Mac lost, and by which term most of it."""
    assert decision.index is not None
    if lost_ms < AS_GOOD_MS:
        return "It was as good to within the tie window; load and a draw decided."
    differences = {
        name: float(values[index] - values[decision.index])
        for name, values in decision.terms.items()
    }
    worst = max(differences, key=lambda name: differences[name])
    return f"It lost by {lost_ms:.0f} ms, most of it by {worst} ({differences[worst]:+.0f} ms)."


def _openings(decision: Decision) -> list[Change]:
    """Nobody could take it: what each Mac would have needed."""
    reasons, who = reasons_of(decision), decision.candidates.who()
    return [
        Change(name.provider, reason, True, None, f"It could be used if {BY_NAME[reason].remedy}.")
        for name, reason in zip(who, reasons, strict=True)
        if reason is not None
    ][:SHOWN_MAX]


def regret_ms(decision: Decision) -> float:
    """How much worse the chosen Mac's own score was than the best one's: exploring, and ties."""
    if decision.index is None:
        return 0.0
    total = np.where(decision.eligible, decision.total_ms(), np.inf)
    return float(total[decision.index] - total.min())
