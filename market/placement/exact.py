"""The placement as a small integer program, solved by HiGHS: scipy's only doorway.

Importing scipy takes a second, so it happens in the first call. HiGHS lets go of the interpreter
while it searches (measured, docs/decisions/0013-placement.md), so that a thread is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from market.placement.problem import BoolArray, FloatArray, IntArray, Problem

NODES_MAX = 20_000
"""Nodes of the search tree: a bound that does not depend on the machine's speed."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best placement that the search came to, if any, and its upper bound."""

    copies: BoolArray | None
    served: FloatArray | None
    bound: float | None
    note: str


def available() -> bool:
    """Whether scipy can be imported; the first call takes its second."""
    try:
        import scipy.optimize
    except ImportError:
        return False
    return hasattr(scipy.optimize, "milp")


def solve_exactly(problem: Problem, gap: float, limit_s: float) -> Found:
    """Search until within `gap` of the optimum, for `limit_s` seconds at most."""
    program = _Program(problem)
    answer = program.solve({"mip_rel_gap": gap, "time_limit": limit_s, "node_limit": NODES_MAX})
    bound = None
    if answer.mip_dual_bound is not None and np.isfinite(answer.mip_dual_bound):
        bound = program.value_of(float(answer.mip_dual_bound))
    note = str(answer.message)[:200]
    if answer.x is None:
        return Found(None, None, bound, note)
    copies = program.placement(answer.x)
    return Found(copies, program.sharing(answer.x, copies), bound, note)


def relaxed_bound(problem: Problem) -> float | None:
    """Value of the linear relaxation: no placement is worth more. None: it was not solved."""
    program = _Program(problem)
    answer = program.solve({}, whole=False)
    return program.value_of(float(answer.fun)) if answer.x is not None else None


def share_exactly(problem: Problem, copies: BoolArray) -> FloatArray | None:
    """The best sharing out of the work among these copies; None: it was not found."""
    program = _Program(replace(problem, may=copies, must=copies))
    answer = program.solve({}, whole=False)
    return program.sharing(answer.x, copies) if answer.x is not None else None


class _Program:
    """Variables: a copy and its work for each open place, kept copies, and occupied Macs.

    Scaled so that a typical copy can do one unit of work a second and a Mac has room for one:
    HiGHS works with tolerances of about 10⁻⁶, and models differ by more than that.
    """

    def __init__(self, problem: Problem) -> None:
        from scipy import sparse

        self._problem = problem
        self.rows, self.models = np.nonzero(problem.may | problem.must)
        self.count = len(self.rows)
        rates = problem.rate[self.rows, self.models]
        self._scale = 1.0 / float(np.median(rates)) if self.count else 1.0
        self._rates = rates * self._scale
        self._wanted = problem.wanted * self._scale
        self._here = problem.here[self.rows, self.models]
        self._sparse = sparse
        self._parts: list[tuple[Any, FloatArray, FloatArray]] = []
        self._write_costs()
        self._write_work()
        self._write_rules()

    # ── writing it down ───────────────────────────────────────────────────────────────

    def _write_costs(self) -> None:
        """HiGHS minimises: what is worth something counts negative."""
        problem, at = self._problem, (self.rows, self.models)
        change = np.where(self._here, -problem.unload_cost[at], problem.load_cost[at])
        self._costs = self._scale * np.concatenate(
            [
                change,
                -problem.gain[at] / self._scale,
                -problem.kept,
                np.full(len(problem.machines), -problem.occupied),
            ]
        )
        self._constant = float(problem.unload_cost[problem.here].sum())

    def _write_work(self) -> None:
        """No copy, no work; no Mac beyond the ceiling; no more than is asked for."""
        problem, ones = self._problem, np.ones(self.count)
        macs, models = problem.may.shape
        most = np.minimum(self._rates * problem.ceiling, self._wanted[self.models])
        self._add(self._copies(-most, None), self._work(ones, None), high=np.zeros(self.count))
        busy = self._work(1.0 / self._rates, self.rows, macs)
        self._add(busy, high=np.full(macs, problem.ceiling))
        self._add(self._work(ones, self.models, models), high=self._wanted)

    def _write_rules(self) -> None:
        """Room, kept copies, and how much may change."""
        problem, ones = self._problem, np.ones(self.count)
        macs, models = problem.may.shape
        room = np.maximum(problem.room, 1.0)
        share = problem.need[self.models] / room[self.rows]
        self._add(self._copies(share, self.rows, macs), high=np.minimum(problem.room, 1.0))
        kept = self._kept(np.ones(models))
        self._add(self._copies(-ones, self.models, models), kept, high=np.zeros(models))
        occupied = self._occupied(np.ones(macs))
        self._add(self._copies(-ones, self.rows, macs), occupied, high=np.zeros(macs))
        new = np.where(self._here, 0.0, 1.0)
        self._add(self._copies(new, self.models, models), high=problem.most_new.astype(float))
        stays = problem.here.sum(axis=1) - problem.unloads
        self._add(self._copies(1.0 - new, self.rows, macs), low=stays.astype(float))
        stays_all = float(problem.here.sum() - problem.unloads_max)
        everywhere = np.zeros(self.count, dtype=np.int64)
        self._add(self._copies(1.0 - new, everywhere, 1), low=np.array([stays_all]))

    def _copies(self, values: FloatArray, lines: IntArray | None, height: int = 0) -> Any:
        return self._entries(values, lines, height, 0)

    def _work(self, values: FloatArray, lines: IntArray | None, height: int = 0) -> Any:
        return self._entries(values, lines, height, self.count)

    def _kept(self, values: FloatArray) -> Any:
        return self._entries(values, None, 0, 2 * self.count)

    def _occupied(self, values: FloatArray) -> Any:
        return self._entries(values, None, 0, 2 * self.count + len(self._problem.models))

    def _entries(self, values: FloatArray, lines: IntArray | None, height: int, first: int) -> Any:
        """Coefficients of one kind of variable; without `lines` each has a line of its own."""
        columns = first + np.arange(len(values))
        lines = np.arange(len(values)) if lines is None else lines
        shape = (height or len(values), len(self._costs))
        return self._sparse.coo_array((values, (lines, columns)), shape=shape)

    def _add(
        self, *terms: Any, low: FloatArray | None = None, high: FloatArray | None = None
    ) -> None:
        matrix = sum(terms[1:], start=terms[0].tocsr())
        height = matrix.shape[0]
        low = np.full(height, -np.inf) if low is None else low
        self._parts.append((matrix, low, np.full(height, np.inf) if high is None else high))

    # ── solving it ────────────────────────────────────────────────────────────────────

    def solve(self, options: dict[str, Any], *, whole: bool = True) -> Any:
        """Scipy's answer; without `whole` copies may be split."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        problem = self._problem
        rest = len(self._costs) - self.count
        low = np.zeros(len(self._costs))
        low[: self.count] = problem.must[self.rows, self.models]
        work_max, kept_max = np.full(self.count, np.inf), problem.least.astype(float)
        macs = np.ones(len(problem.machines))
        high = np.concatenate([np.ones(self.count), work_max, kept_max, macs])
        matrix = self._sparse.vstack([matrix for matrix, _, _ in self._parts]).tocsr()
        lows = np.concatenate([low for _, low, _ in self._parts])
        highs = np.concatenate([high for _, _, high in self._parts])
        integral = np.concatenate([np.full(self.count, int(whole)), np.zeros(rest, dtype=int)])
        return milp(
            self._costs,
            constraints=LinearConstraint(matrix, lows, highs),
            integrality=integral,
            bounds=Bounds(low, high),
            options=options,
        )

    def value_of(self, cost: float) -> float:
        """The problem's value where the program's cost is this."""
        return -cost / self._scale - self._constant

    def placement(self, variables: FloatArray) -> BoolArray:
        copies: BoolArray = np.zeros(self._problem.may.shape, dtype=bool)
        copies[self.rows, self.models] = variables[: self.count] > 0.5
        return copies

    def sharing(self, variables: FloatArray, copies: BoolArray) -> FloatArray:
        """The work of each copy, without what the solver's tolerance put beyond the rules."""
        problem = self._problem
        served = np.zeros(problem.may.shape)
        work = variables[self.count : 2 * self.count] / self._scale
        served[self.rows, self.models] = np.maximum(work, 0.0)
        served *= copies
        asked = served.sum(axis=0)
        served *= np.minimum(1.0, problem.wanted / np.maximum(asked, 1e-300))[None, :]
        busy = (served / problem.rate).sum(axis=1)
        served *= np.minimum(1.0, problem.ceiling / np.maximum(busy, 1e-300))[:, None]
        return served
