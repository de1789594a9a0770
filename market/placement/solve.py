"""Answering a placement problem, never worse than the search that needs no solver.

The exact search comes first: while HiGHS works it lets other threads run, which a search in
Python does not. The simple one steps in where scipy is missing or time ran out.
"""

from __future__ import annotations

import numpy as np

from market.placement.exact import available, relaxed_bound, share_exactly, solve_exactly
from market.placement.finish import without_idle_changes
from market.placement.flow import share_out
from market.placement.greedy import search
from market.placement.problem import BoolArray, FloatArray, Problem, Solution

GAP_MIN = 1e-5
"""No search is asked for more: HiGHS' own tolerances are only ten times finer."""

SAME = 1e-9
"""Share of a value within which two are equal."""


def solve(problem: Problem, gap: float, limit_s: float) -> Solution:
    """The best placement found, with its bound.

    `gap` is the share of the served work by which it may miss the optimum, `limit_s` how long
    the exact search may take. Equal problems give equal answers unless that limit ends it.
    """
    if not (problem.may & ~problem.must).any():
        return _unchanged(problem)
    if not available():
        return solve_simply(problem, "scipy is not installed")
    found = solve_exactly(problem, _gap(problem, gap), limit_s)
    bound = found.bound if found.bound is not None else relaxed_bound(problem)
    if bound is None:
        return solve_simply(problem, f"the solver gave up: {found.note}")
    exact = _checked(problem, found.copies, found.served)
    if exact is None or exact[2] < bound - gap * abs(bound):
        copies, served = search(problem)
        value = problem.value(copies, served)
        if exact is None or value > exact[2]:
            greedy = Solution(
                copies, served, value, max(bound, value), "greedy", "exact", found.note
            )
            return _calmed(problem, greedy)
    copies, served, value = exact
    best = Solution(copies, served, value, max(bound, value), "exact", "exact", found.note)
    return _calmed(problem, best)


def _unchanged(problem: Problem) -> Solution:
    """The only placement that there is, which so is the best."""
    served = _shared(problem, problem.must)
    value = problem.value(problem.must, served)
    return Solution(problem.must, served, value, value, "unchanged", "exact")


def solve_simply(problem: Problem, note: str = "") -> Solution:
    """The search alone, against a bound that needs no solver."""
    copies, served = search(problem)
    calm = without_idle_changes(problem, copies, lambda trial: _worth(problem, trial))
    served = _shared(problem, calm)
    value = problem.value(calm, served)
    bound = max(simple_bound(problem), value)
    return Solution(calm, served, value, bound, "greedy", "simple", note)


def simple_bound(problem: Problem) -> float:
    """No placement is worth more: each Mac does its most valuable work all the time, or all
    demand is met, whichever is less, and every copy is kept for nothing.
    """
    could = np.where(problem.may, problem.rate, 0.0)
    of_macs = problem.ceiling * (could * problem.gain).max(axis=1, initial=0.0).sum()
    reached = np.minimum(problem.wanted, problem.ceiling * could.sum(axis=0))
    of_demand = (reached * problem.gain.max(axis=0, initial=0.0)).sum()
    return float(min(of_macs, of_demand) + _ready_worth(problem))


def _ready_worth(problem: Problem) -> float:
    """What having copies ready is worth at most, whatever they serve."""
    return float(problem.least @ problem.kept) + problem.occupied * len(problem.machines)


def _gap(problem: Problem, gap: float) -> float:
    """The gap with respect to the whole value, of which work is only a part."""
    ready = _ready_worth(problem)
    served = simple_bound(problem) - ready
    return max(gap * served / (served + ready), GAP_MIN) if served > 0 else GAP_MIN


def _checked(
    problem: Problem, copies: BoolArray | None, served: FloatArray | None
) -> tuple[BoolArray, FloatArray, float] | None:
    """What the solver found and its value; None if it breaks a rule by more than rounding."""
    if copies is None or served is None or any(problem.broken(copies, served)):
        return None
    return copies, served, problem.value(copies, served)


def _calmed(problem: Problem, solution: Solution) -> Solution:
    """The same without changes that serve nothing, if it is really worth as much."""
    calm = without_idle_changes(problem, solution.copies, lambda trial: _worth(problem, trial))
    served = share_exactly(problem, calm)
    if served is None:
        return solution
    value = problem.value(calm, served)
    if value < solution.value - SAME * abs(solution.value):
        return solution
    bound = max(solution.bound, value)
    return Solution(calm, served, value, bound, solution.how, solution.proof, solution.note)


def _worth(problem: Problem, copies: BoolArray) -> float:
    return problem.value(copies, _shared(problem, copies))


def _shared(problem: Problem, copies: BoolArray) -> FloatArray:
    return share_out(problem.rate, problem.gain, problem.wanted, copies, problem.ceiling)
