"""How many requests may be tried twice at once: a budget in tokens, never a habit.

A second try beside a slow one helps its own request and costs everyone else. It is given only
while nobody waits for the model, on a Mac that is idle enough, and within a small share of all
tokens granted lately.
"""

from __future__ import annotations

from market.policy.decision import Decision

HEDGE_SHARE = 0.03
"""Of all tokens granted that may be granted a second time."""

FORGET_TOKENS = 10_000_000.0
"""The budget looks back over about this many tokens."""

HEDGE_MS_MIN = 500.0
"""Nothing that comes sooner is worth a second try."""

FIRST_TOKENS = 2_000.0
"""Credit to begin with, so that the first slow request may be hedged too."""


class Hedges:
    """Tokens granted, and of them those granted a second time."""

    def __init__(self) -> None:
        self._granted = FIRST_TOKENS / HEDGE_SHARE
        self._hedged = 0.0

    def granted(self, tokens: float) -> None:
        """A first try was granted."""
        self._granted += tokens
        if self._granted > FORGET_TOKENS:
            self._granted /= 2
            self._hedged /= 2

    def after_ms(self, decision: Decision) -> float:
        """Later than 95 of 100 first tokens are expected to come."""
        assert decision.index is not None
        ttft_ms = float(decision.predicted.ttft_ms[decision.index])
        # Laplace's 95th percentile is ln 10 times the mean absolute error, the 90th ln 5 times.
        return max(ttft_ms * float(decision.high_factor() ** 1.4307), HEDGE_MS_MIN)

    def allow(self, tokens: float) -> bool:
        """Whether a second try of this size is within the budget; if so it is spent."""
        if self._hedged + tokens > HEDGE_SHARE * self._granted:
            return False
        self._hedged += tokens
        return True
