"""What would have changed a decision: for whoever lost it, and for whoever has to understand it.

Nobody is said to have won but who wins when the decision is made again without what ruled it
out: the soft filters, the tie window and the draw have their say in that one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.errors import InvalidRequest
from market.policy.candidates import FloatArray
from market.policy.decision import Decision, all_reasons, asides_of, decide
from market.policy.filters import BY_NAME
from market.policy.picker import KNOWN_AFTER, near_ties, window_ms
from market.policy.registry import Policy, policy_named
from market.types import ProviderId

SHOWN_MAX = 8
"""Most Macs told of: who would have won, then the ones that came nearest."""

REPLAYED_MAX = 256
"""Most Macs for each of which a decision is made again; the nearest ones."""

AS_GOOD_MS = 0.5
"""Less is no difference that could be told of in milliseconds."""


@dataclass(frozen=True, slots=True)
class Change:
    """One Mac, and what it would have taken.

    `reasons` ruled it out. `would_win` says that without its one reason it is the chosen one.
    `gain_ms` is how much less its score was than the chosen Mac's, or would have been; negative
    where it is worse, 0 in a tie, None where that cannot be said.
    """

    provider: ProviderId
    reasons: tuple[str, ...]
    would_win: bool
    gain_ms: float | None
    words: str

    @property
    def reason(self) -> str | None:
        """The first of them."""
        return self.reasons[0] if self.reasons else None

    def as_json(self) -> dict[str, object]:
        return {
            "provider": self.provider,
            "reason": self.reason,
            "reasons": list(self.reasons),
            "would_win": self.would_win,
            "gain_ms": None if self.gain_ms is None else round(self.gain_ms, 3),
            "words": self.words,
        }


def changes(decision: Decision) -> list[Change]:
    """What would have made another Mac the chosen one: who would have won, then the nearest."""
    reasons, asides = all_reasons(decision), asides_of(decision)
    total, policy = decision.total_ms(), _policy(decision)
    found: list[Change] = []
    for number, at in enumerate(np.argsort(total, kind="stable")):
        index = int(at)
        change = None
        if reasons[index]:
            replayed = policy if number < REPLAYED_MAX else None
            change = _ruled_out(decision, index, reasons[index], replayed)
        elif decision.refused:
            change = _too_late(decision, index)
        elif index != decision.index:
            change = _lost(decision, index, asides[index], total, policy)
        if change is not None:
            found.append(change)
    found.sort(key=lambda change: (not change.would_win, change.gain_ms is None))
    return found[:SHOWN_MAX]


def _policy(decision: Decision) -> Policy | None:
    """The policy that decided; None for one that cannot be had by its name."""
    try:
        return policy_named(decision.policy)
    except InvalidRequest:
        return None


# ── who was ruled out ─────────────────────────────────────────────────────────────────


def _ruled_out(
    decision: Decision, index: int, reasons: tuple[str, ...], policy: Policy | None
) -> Change | None:
    """What a Mac that could not be used would have needed; None where that is no use."""
    provider = decision.candidates.name(index).provider
    remedies = dict.fromkeys(BY_NAME[reason].remedy for reason in reasons)
    needed = " and ".join(remedies)
    if not _known(decision, index):
        wins = decision.index is None and len(reasons) == 1
        words = f"It could be used if {needed}; how fast it is is not known yet."
        return Change(provider, reasons, wins, None, words)
    if decision.late(index):
        if decision.index is not None and not decision.refused:
            return None
        return Change(provider, reasons, False, None, _takes(decision, index, needed))
    if decision.index is None:
        words = f"It could be used if {needed}."
        return Change(provider, reasons, len(reasons) == 1, None, words)
    if len(reasons) == 1 and policy is not None:
        return _let_in(decision, index, reasons, policy)
    gain_ms = _gain_ms(decision, index)
    if gain_ms <= 0 and not decision.refused:
        return None
    return Change(provider, reasons, False, None, f"It could have been used if {needed}.")


def _known(decision: Decision, index: int) -> bool:
    """Whether anything is known of its speed yet."""
    rated = decision.candidates["prefill_ms"][index] > 0
    return bool(rated and np.isfinite(decision.total_ms()[index]))


def _let_in(
    decision: Decision, index: int, reasons: tuple[str, ...], policy: Policy
) -> Change | None:
    """The decision made again without the one reason that ruled this Mac out."""
    again = decide(decision.candidates, decision.ask, decision.seed, policy, let_in=index)
    provider = decision.candidates.name(index).provider
    gain_ms = None if decision.refused else _gain_ms(again, index, decision.index)
    remedy = BY_NAME[reasons[0]].remedy
    if again.index == index:
        words = f"It would have been chosen, if {remedy}."
        if gain_ms is not None and gain_ms >= AS_GOOD_MS:
            words = f"It would have been {gain_ms:.0f} ms better, if {remedy}."
        return Change(provider, reasons, True, gain_ms, words)
    if gain_ms is not None and gain_ms <= 0:
        return None
    words = f"It could have been used if {remedy}, but others would still have been preferred."
    return Change(provider, reasons, False, gain_ms, words)


def _gain_ms(decision: Decision, index: int, than: int | None = None) -> float:
    """How much less this Mac's score is than that of another, the chosen one if none is named."""
    than = decision.index if than is None else than
    assert than is not None
    total = decision.total_ms()
    return float(total[than] - total[index])


def _takes(decision: Decision, index: int, needed: str) -> str:
    total_s = float(decision.predicted.total_ms[index]) / 1e3
    return (
        f"It could be used if {needed}, but would take {total_s:.1f} s, longer than the deadline "
        f"of {decision.ask.finish_by_s:g} s."
    )


# ── who could be used ─────────────────────────────────────────────────────────────────


def _too_late(decision: Decision, index: int) -> Change:
    """An eligible Mac of a request that was refused because none would be in time."""
    total_s = float(decision.predicted.total_ms[index]) / 1e3
    words = f"It would take {total_s:.1f} s; the deadline is {decision.ask.finish_by_s:g} s."
    return Change(decision.candidates.name(index).provider, (), False, None, words)


def _lost(
    decision: Decision, index: int, aside: str | None, total: FloatArray, policy: Policy | None
) -> Change:
    """Why an eligible Mac was not the chosen one."""
    assert decision.index is not None
    gain_ms = _gain_ms(decision, index)
    if aside is not None:
        words = f"It was set aside: others meet {aside}."
    elif _tied(decision, index, total, policy):
        gain_ms = 0.0
        words = "It was as good to within the tie window; load and a draw decided."
    elif gain_ms > 0:
        little = decision.candidates["seen"][decision.index] < KNOWN_AFTER
        why = "a Mac of which little is known was tried" if little else "the policy chose another"
        words = f"It was {gain_ms:.0f} ms better; {why}."
    else:
        words = _by_what(decision, index, -gain_ms)
    return Change(decision.candidates.name(index).provider, (), False, gain_ms, words)


def _tied(decision: Decision, index: int, total: FloatArray, policy: Policy | None) -> bool:
    """Whether this Mac and the chosen one both counted as equal to the best."""
    assert decision.index is not None
    assert decision.view is not None
    best_ms = float(total[decision.view.eligible].min())
    near = policy is not None and policy.pick is near_ties
    most_ms = best_ms + (window_ms(decision.view, best_ms) if near else 0.0)
    return bool(total[index] <= most_ms and total[decision.index] <= most_ms)


def _by_what(decision: Decision, index: int, lost_ms: float) -> str:
    """By how much it lost, and by which term most of it."""
    differences = {
        name: float(values[index] - values[decision.index])
        for name, values in decision.terms.items()
    }
    worst = max(differences, key=lambda name: differences[name])
    return f"It lost by {lost_ms:.0f} ms, most of it by {worst} ({differences[worst]:+.0f} ms)."


def regret_ms(decision: Decision) -> float:
    """How much worse the chosen Mac's own score was than the best one's: exploring, and ties."""
    if decision.index is None:
        return 0.0
    total = np.where(decision.eligible, decision.total_ms(), np.inf)
    return float(total[decision.index] - total.min())
