"""How the work is shared out among Macs that already have their models.

The exact answer is a linear program; this is its quick approximation, needed hundreds of times in
a search and once a second to see which Macs are busy with what. Models with the fewest ways out
are served first, each where it displaces least; then what is left over pushes others aside, one
step deep.
"""

from __future__ import annotations

import numpy as np

from market.placement.problem import BoolArray, FloatArray

PUSHES_MAX = 64
"""Times that one model is moved aside for another in one sharing out."""

NOTHING = 1e-9


def share_out(
    rate: FloatArray, gain: FloatArray, wanted: FloatArray, copies: BoolArray, ceiling: float
) -> FloatArray:
    """Cost tokens/s of each model on each Mac; arrays as in `Problem`."""
    served = np.zeros(rate.shape)
    spare = np.full(rate.shape[0], ceiling)
    usable = np.where(copies, rate, 0.0)
    able = ceiling * usable.sum(axis=0)
    pressure = np.divide(wanted, able, out=np.zeros_like(wanted), where=able > 0)
    worth = np.where(copies, gain * rate, 0.0) * np.minimum(pressure, 1.0)
    asked = np.flatnonzero((pressure > 0) & (wanted > 0))
    for model in asked[np.argsort(-pressure[asked], kind="stable")]:
        _fill(int(model), usable, worth, wanted, spare, served)
    left = wanted - served.sum(axis=0)
    pushes = 0
    for model in asked:
        if left[model] > NOTHING and pushes < PUSHES_MAX:
            pushes += _push(int(model), usable, gain, left, spare, served)
    return served


def _fill(
    model: int,
    usable: FloatArray,
    worth: FloatArray,
    wanted: FloatArray,
    spare: FloatArray,
    served: FloatArray,
) -> None:
    """Serve one model from the time that is left, cheapest Macs first."""
    rows = np.flatnonzero(usable[:, model])
    rates = usable[rows, model]
    others = worth[rows].copy()
    others[:, model] = 0.0
    price = others.max(axis=1) / rates  # what else the Mac could do, per cost token
    order = np.lexsort((rows, -rates, price))
    rows, rates = rows[order], rates[order]
    most = rates * spare[rows]
    before = np.cumsum(most) - most
    taken = np.clip(wanted[model] - before, 0.0, most)
    served[rows, model] += taken
    spare[rows] = np.maximum(spare[rows] - taken / rates, 0.0)


def _push(
    model: int,
    usable: FloatArray,
    gain: FloatArray,
    left: FloatArray,
    spare: FloatArray,
    served: FloatArray,
) -> int:
    """Make time for one model by moving others to Macs that have some, or by dropping less."""
    pushed = 0
    for row in np.flatnonzero(usable[:, model]):
        for other in np.flatnonzero(served[row] > NOTHING):
            if other == model or left[model] <= NOTHING:
                continue
            free = usable[:, other] * spare
            free[row] = 0.0
            movable = min(float(served[row, other]), float(free.sum()))
            rate, rate_other = usable[row, model], usable[row, other]
            if gain[row, model] * rate > gain[row, other] * rate_other:
                movable = float(served[row, other])  # worth it even if the other goes unserved
            wish = left[model] * rate_other / rate
            moved = min(movable, wish)
            if moved <= NOTHING:
                continue
            served[row, other] -= moved
            taken = moved * rate / rate_other
            served[row, model] += taken
            left[model] -= taken
            left[other] += moved - _place(int(other), moved, free, usable, spare, served)
            pushed += 1
    return pushed


def _place(
    model: int,
    amount: float,
    free: FloatArray,
    usable: FloatArray,
    spare: FloatArray,
    served: FloatArray,
) -> float:
    """Put work on the Macs with time left for it; how much found a place."""
    rows = np.flatnonzero(free > NOTHING)
    before = np.cumsum(free[rows]) - free[rows]
    taken = np.clip(amount - before, 0.0, free[rows])
    served[rows, model] += taken
    spare[rows] = np.maximum(spare[rows] - taken / usable[rows, model], 0.0)
    return float(taken.sum())
