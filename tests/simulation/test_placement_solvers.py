"""The two searches on one problem: neither breaks a rule, none is worth more than its bound."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.placement import solve as solving
from market.placement.exact import relaxed_bound, share_exactly, solve_exactly
from market.placement.flow import share_out
from market.placement.greedy import search
from market.placement.problem import Problem, Solution
from market.placement.solve import simple_bound, solve, solve_simply
from market.types import MachineId, ModelId

GAP, LIMIT_S = 0.01, 5.0
ROUNDING = 1e-6


def problem_of(seed: int, macs: int, models: int, load: float = 1.0) -> Problem:
    """A problem with a past: copies here and there, some bound to stay, few swaps left."""
    random = np.random.default_rng(seed)
    shape = (macs, models)
    speed = random.choice([30.0, 100.0, 300.0, 1000.0], size=(macs, 1))
    rate = speed * random.lognormal(0.0, 0.3, size=(1, models)) * random.uniform(0.8, 1.2, shape)
    room = random.choice([10e9, 30e9, 60e9, 150e9], size=macs)
    need = random.uniform(3e9, 40e9, size=models)
    fits = need[None, :] <= room[:, None]
    here = np.zeros(shape, dtype=bool)
    for row in range(macs):
        for model in random.permutation(models)[: random.integers(0, 3)]:
            if here[row] @ need + need[model] <= room[row]:
                here[row, model] = True
    must = here & (random.random(shape) < 0.3)
    may = here | (fits & (random.random(shape) < 0.8))
    weights = random.exponential(size=models)
    unit = float(np.median(rate))
    return Problem(
        machines=tuple(MachineId(f"mac_{row:03}") for row in range(macs)),
        models=tuple(ModelId(f"model_{column:02}") for column in range(models)),
        room=room,
        need=need,
        rate=rate,
        gain=random.uniform(0.95, 1.0, shape),
        wanted=load * weights / weights.sum() * rate.mean(axis=1).sum(),
        least=np.minimum(1, may.sum(axis=0)),
        kept=np.full(models, 0.1 * unit),
        most_new=random.integers(0, macs + 1, size=models),
        load_cost=np.full(shape, 0.002 * unit),
        unload_cost=np.full(shape, 0.001 * unit),
        here=here,
        may=may,
        must=must,
        unloads=random.integers(0, 3, size=macs),
        unloads_max=max(1, macs // 4),
        start=here,
        occupied=0.02 * unit,
    )


PROBLEMS = st.builds(
    problem_of, st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 6), st.floats(0.1, 3.0)
)


def keeps_the_rules(problem: Problem, solution: Solution) -> bool:
    return list(problem.broken(solution.copies, solution.served)) == []


@settings(max_examples=60, deadline=None)
@given(PROBLEMS)
def test_searches_keep_the_rules_and_stay_below_their_bounds(problem: Problem) -> None:
    """Simple ≤ exact ≤ linear bound ≤ counted bound, and neither breaks a rule."""
    simple, exact = solve_simply(problem), solve(problem, GAP, LIMIT_S)
    relaxed = relaxed_bound(problem)
    assert relaxed is not None
    slack = ROUNDING * max(abs(relaxed), 1.0)

    assert keeps_the_rules(problem, simple)
    assert keeps_the_rules(problem, exact)
    assert simple.value >= problem.value(problem.start, np.zeros(problem.here.shape)) - slack
    assert exact.value >= simple.value - GAP * abs(exact.bound) - slack
    assert exact.value <= exact.bound + slack <= relaxed + 2 * slack
    assert relaxed <= simple_bound(problem) + slack
    assert simple.value <= simple.bound + slack


@settings(max_examples=25, deadline=None)
@given(PROBLEMS)
def test_the_exact_search_comes_as_close_as_it_was_asked_to(problem: Problem) -> None:
    """What is proven is proven: value within the gap of a bound that holds."""
    found = solve(problem, GAP, LIMIT_S)

    assert found.proof == "exact"
    assert found.value >= found.bound - 2 * GAP * abs(found.bound) - ROUNDING


@settings(max_examples=60, deadline=None)
@given(PROBLEMS)
def test_what_the_solver_itself_answers_keeps_the_rules(problem: Problem) -> None:
    """The program says all the rules: its answers need no second look, though they get one."""
    found = solve_exactly(problem, GAP, LIMIT_S)
    assert found.copies is not None

    assert list(problem.broken(found.copies, found.served)) == []


@settings(max_examples=25, deadline=None)
@given(PROBLEMS, st.randoms(use_true_random=False))
def test_the_order_of_macs_does_not_change_what_a_plan_is_worth(
    problem: Problem, random: object
) -> None:
    """Macs permuted, the value is the same within the gap."""
    order = list(range(len(problem.machines)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = np.array(order)
    by_mac = ("room", "rate", "gain", "load_cost", "unload_cost", "here", "may", "must")
    names = (*by_mac, "unloads", "start")
    permuted = replace(
        problem,
        machines=tuple(problem.machines[row] for row in rows),
        **{name: getattr(problem, name)[rows] for name in names},
    )
    first, second = solve(problem, GAP, LIMIT_S), solve(permuted, GAP, LIMIT_S)

    assert second.value == pytest.approx(first.value, rel=2 * GAP, abs=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_equal_problems_get_equal_answers(seed: int) -> None:
    """Solved twice, also in another thread, the same copies come out."""
    problem = problem_of(seed, 12, 6)
    answers: list[Solution] = []
    threads = [
        threading.Thread(target=lambda: answers.append(solve(problem, GAP, LIMIT_S)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.append(solve(problem_of(seed, 12, 6), GAP, LIMIT_S))

    assert all(np.array_equal(answers[0].copies, other.copies) for other in answers)
    simple = [solve_simply(problem_of(seed, 12, 6)).copies for _ in range(2)]
    assert np.array_equal(*simple)


@settings(max_examples=40, deadline=None)
@given(PROBLEMS)
def test_the_quick_sharing_out_keeps_the_rules_and_is_near_the_best(problem: Problem) -> None:
    """Never more than a Mac can, never more than is asked, and at least 0.85 of the optimum."""
    copies, _ = search(problem)
    quick = share_out(problem.rate, problem.gain, problem.wanted, copies, problem.ceiling)
    best = share_exactly(problem, copies)
    assert best is not None

    assert list(problem.broken(copies, quick)) == []
    assert list(problem.broken(copies, best)) == []
    assert (problem.gain * quick).sum() >= 0.85 * (problem.gain * best).sum() - ROUNDING


@pytest.mark.parametrize("seed", range(6))
def test_the_simple_search_is_near_the_bound(seed: int) -> None:
    """On open problems of ten Macs it reaches nine tenths of the linear bound."""
    problem = problem_of(seed, 10, 8, 1.5)
    none = np.zeros(problem.here.shape, dtype=bool)
    fits = problem.need[None, :] <= problem.room[:, None]
    free = replace(problem, here=none, must=none, start=none, may=fits, most_new=problem.least * 10)
    bound = relaxed_bound(free)
    assert bound is not None

    assert solve_simply(free).value >= 0.9 * bound


def test_without_scipy_the_simple_search_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A market without the solver still plans, and says what with."""
    monkeypatch.setattr(solving, "available", lambda: False)
    solution = solve(problem_of(3, 8, 5), GAP, LIMIT_S)

    assert (solution.how, solution.proof) == ("greedy", "simple")
    assert solution.note == "scipy is not installed"


def test_out_of_time_the_simple_search_answers() -> None:
    """With no time at all there is still a plan, against a bound that holds."""
    problem = problem_of(5, 40, 15, 1.5)
    hurried, patient = solve(problem, GAP, 1e-4), solve(problem, GAP, LIMIT_S)

    assert keeps_the_rules(problem, hurried)
    assert hurried.value <= patient.bound + ROUNDING
    assert hurried.value >= solve_simply(problem).value - ROUNDING * patient.bound


def test_nothing_is_moved_for_nothing() -> None:
    """Where nobody asks for anything, what is loaded stays loaded and nothing comes."""
    problem = problem_of(7, 10, 5)
    copies = problem.here.copy()
    asked_nothing = replace(
        problem,
        wanted=np.zeros(5),
        least=np.zeros(5, dtype=np.int64),
        occupied=0.0,
        must=np.zeros_like(copies),
    )
    for solution in (solve(asked_nothing, GAP, LIMIT_S), solve_simply(asked_nothing)):
        assert np.array_equal(solution.copies, copies)


def test_a_solvers_answer_that_breaks_a_rule_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its tolerance we do not trust it: the simple search answers instead."""
    problem = problem_of(9, 8, 5)
    real = solve_exactly

    def wrong(*args: object) -> object:
        found = real(*args)  # type: ignore[arg-type]
        return replace(found, copies=np.ones_like(problem.here))

    monkeypatch.setattr(solving, "solve_exactly", wrong)
    solution = solve(problem, GAP, LIMIT_S)

    assert solution.how == "greedy"
    assert keeps_the_rules(problem, solution)
