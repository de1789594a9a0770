"""The lab's only doorway to scipy: linear and integer programs, and Student's t.

Importing scipy takes a second, so it happens in the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from market.errors import Internal
from simulator.results.columns import FloatArray

MILP_S_MAX = 30.0
"""How long an integer program may be searched for."""


@dataclass(frozen=True, slots=True)
class Program:
    """Minimise `cost · x` with `at_most_rows · x ≤ at_most` and `exactly_rows · x = exactly`,
    each x between 0 and its `highest`. Rows are (row, column, value) triples.
    """

    cost: FloatArray
    highest: FloatArray
    at_most_rows: list[tuple[int, int, float]]
    at_most: list[float]
    exactly_rows: list[tuple[int, int, float]]
    exactly: list[float]


@dataclass(frozen=True, slots=True)
class Solution:
    """`bound` is what no solution can be better than; equal to `value` when it is proven."""

    x: FloatArray
    value: float
    bound: float


@cache
def t_quantile(share: float, degrees: int) -> float:
    """Student's t: `share` of the distribution with these degrees of freedom lies below."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def solve(program: Program, *, whole: bool = False) -> Solution:
    """The best x; `whole` wants integers. Raises Internal when there is none or time ran out."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    limits = []
    if program.at_most:
        matrix = _matrix(program.at_most_rows, len(program.at_most), len(program.cost))
        limits.append(LinearConstraint(matrix, ub=np.asarray(program.at_most)))
    if program.exactly:
        matrix = _matrix(program.exactly_rows, len(program.exactly), len(program.cost))
        right = np.asarray(program.exactly)
        limits.append(LinearConstraint(matrix, lb=right, ub=right))
    found = milp(
        program.cost,
        integrality=np.full(len(program.cost), 1 if whole else 0),
        bounds=Bounds(np.zeros(len(program.cost)), program.highest),
        constraints=limits,
        options={"time_limit": MILP_S_MAX},
    )
    if found.x is None:
        raise Internal(f"The program could not be solved: {found.message}")
    bound = getattr(found, "mip_dual_bound", None)
    return Solution(
        x=np.asarray(found.x, dtype=np.float64),
        value=float(found.fun),
        bound=float(found.fun if bound is None else bound),
    )


def _matrix(triples: list[tuple[int, int, float]], rows: int, columns: int) -> object:
    from scipy.sparse import csr_array

    at = np.asarray([(row, column) for row, column, _ in triples], dtype=np.int64)
    values = np.asarray([value for _, _, value in triples], dtype=np.float64)
    return csr_array((values, (at[:, 0], at[:, 1])), shape=(rows, columns))
