"""The routing policies by name. One is used at a time; all run behind the same filters.

A policy of one's own is one function from what a decision sees (`View`) to a score per Mac,
lower is better: `custom("mine", function)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from market.errors import InvalidRequest
from market.policy import baselines
from market.policy.picker import Picker, lowest, near_ties
from market.policy.scorers import SCORERS, Scorer


@dataclass(frozen=True, slots=True)
class Policy:
    """Terms that add up to a score, and how to choose by it. `about` is a line for lists,
    `soft` whether the soft filters narrow the Macs before it is asked.
    """

    name: str
    about: str
    scorers: Mapping[str, Scorer]
    pick: Picker = lowest
    soft: bool = True


def custom(name: str, score: Scorer, about: str = "a policy of your own") -> Policy:
    """A policy of one function. Raises InvalidRequest for what is none."""
    if not callable(score):
        raise InvalidRequest(
            f"The policy {str(name)[:60]} needs a function from a View to a score per Mac, not "
            f"{type(score).__name__}.",
            "policy",
        )
    return Policy(name, about, {name: score})


def without(term: str) -> Policy:
    """Ours without one of its terms, to see what the term is worth."""
    if term not in SCORERS:
        raise InvalidRequest(f"There is no term {term!r}; there are {', '.join(SCORERS)}.")
    left = {name: scorer for name, scorer in SCORERS.items() if name != term}
    return Policy(f"coster-{term}", f"ours without {term}", left, near_ties)


def _baseline(name: str, about: str, score: Scorer) -> Policy:
    return Policy(name, about, {name: score})


COSTER = Policy("coster", "predicted milliseconds, all terms", SCORERS, near_ties)
POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        COSTER,
        _baseline("random", "any Mac that may", baselines.at_random),
        _baseline("round_robin", "each in turn", baselines.round_robin),
        _baseline("power_of_two", "two at random, the less loaded", baselines.power_of_two),
        _baseline("least_request", "fewest requests", baselines.least_request),
        _baseline("least_weighted", "fewest for its capacity", baselines.least_weighted),
        _baseline("session_hash", "a conversation stays on its Mac", baselines.session_hash),
        _baseline("sglang", "SGLang's cache-aware router", baselines.sglang_cache_aware),
        _baseline("llm_d", "llm-d's weights: prefix 3, queue 2, cache 2", baselines.llm_d),
        _baseline("openrouter", "drawn by price to the minus two", baselines.openrouter_price),
        _baseline("darkbloom", "Darkbloom's published cost", baselines.darkbloom_cost),
        _baseline("always_busiest", "wrong on purpose: the most loaded", baselines.always_busiest),
    )
}


ORACLE = "oracle"


def oracle(lengths: Mapping[str, int]) -> Policy:
    """Ours with the true lengths, for the lab alone."""
    terms = {"oracle": baselines.best_known(lengths)}  # type: ignore[arg-type]
    return Policy(ORACLE, "ours with the true lengths", terms, near_ties)


def policy_named(name: str) -> Policy:
    """A policy by name; `coster-TERM` is ours without that term. Raises InvalidRequest."""
    if name.startswith("coster-"):
        return without(name.removeprefix("coster-"))
    policy = POLICIES.get(name)
    if policy is None:
        raise InvalidRequest(
            f"There is no policy {name[:60]!r}; there are {', '.join(POLICIES)}.", "policy"
        )
    return policy
