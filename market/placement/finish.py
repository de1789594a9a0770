"""What a search leaves to be done: no change that serves nothing, and no Mac that has nothing.

A search within a gap of the optimum may move models about for a gain that is within that gap, or
for none. And a Mac without a model earns nothing and is of no use when demand comes, so each gets
one, even where nobody asks for any yet.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from market.placement.problem import BoolArray, Problem

Value = Callable[[BoolArray], float]

REVERTED_MAX = 64
"""Changes that are questioned in one plan; a plan of a large fleet's first minutes has more, and
all of those fill empty Macs."""


def without_idle_changes(problem: Problem, copies: BoolArray, value: Value) -> BoolArray:
    """Take back each change, cheapest first, that the placement is worth as much without."""
    best, worth = copies.copy(), value(copies)
    gone = np.argwhere(problem.here & ~copies)
    new = np.argwhere(copies & ~problem.here & ~problem.must)
    for row, column in [*new, *gone][:REVERTED_MAX]:
        trial = best.copy()
        trial[row, column] = not trial[row, column]
        if (trial[row] @ problem.need) > problem.room[row]:
            continue
        worth_then = value(trial)
        if worth_then >= worth:
            best, worth = trial, worth_then
    return best


def with_empty_macs_filled(problem: Problem, copies: BoolArray) -> BoolArray:
    """Give each Mac without a model the one that has the fewest copies for what is asked of it."""
    filled = copies.copy()
    best = np.maximum(problem.rate.max(axis=0, initial=0.0), 1e-9)
    weight = problem.wanted / best + 1e-9
    for row in np.flatnonzero(~filled.any(axis=1)):
        new = (filled & ~problem.here).sum(axis=0)
        fits = problem.may[row] & (problem.need <= problem.room[row]) & (new < problem.most_new)
        if not fits.any():
            continue
        merit = np.where(fits, weight / (filled.sum(axis=0) + 1), -1.0)
        suits = problem.rate[row] / best
        column = max(range(len(merit)), key=lambda at: (merit[at], suits[at], -at))
        filled[row, column] = True
    return filled
