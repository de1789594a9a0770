"""One placement to be decided, as frozen arrays, and what an answer to it is worth.

Rows are Macs, columns are models. Work is counted in cost tokens (`market.placement.work`), so a
rate is cost tokens per second, and so is the value of a placement: what it serves each second,
plus what it is worth to keep copies ready, less what its changes cost, spread over the time that
a model stays.

Whoever builds a problem has applied the rules already: `may` and `must` say which places are
open to the search, so that no answer within them can break a pin, a residency or a budget.
Everything here is plain and picklable: a problem can be solved in another thread or process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from market.types import MachineId, ModelId

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

UTILISATION_MAX = 0.8
"""Share of a Mac's time that a plan may use. Above it waiting grows faster than work: a plan for
0.9 doubles the mean wait of one for 0.8 wherever requests come by chance."""

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """n Macs and m models. A `copy` is one model on one Mac.

    Bytes: `room` (n) is what models may take together, `need` (m) what one takes with its
    working memory. Cost tokens/s: `rate` (n, m) is what a Mac does of one model alone, `wanted`
    (m) what consumers ask for. `gain` (n, m) is what a cost token served there is worth.

    `least` (m) copies are kept where possible, and each of them is worth `kept` (m); at most
    `most_new` (m) are added. `load_cost` and `unload_cost` (n, m) are paid by changes, in cost
    tokens/s. `here` (n, m) is what is loaded or being loaded, `may` where a copy is allowed,
    `must` where one has to be. At most `unloads` (n) copies leave a Mac and `unloads_max` in all.
    `start` keeps every rule; it need not be good. Each Mac with a copy is worth `occupied` more.
    """

    machines: tuple[MachineId, ...]
    models: tuple[ModelId, ...]
    room: FloatArray
    need: FloatArray
    rate: FloatArray
    gain: FloatArray
    wanted: FloatArray
    least: IntArray
    kept: FloatArray
    most_new: IntArray
    load_cost: FloatArray
    unload_cost: FloatArray
    here: BoolArray
    may: BoolArray
    must: BoolArray
    unloads: IntArray
    unloads_max: int
    start: BoolArray
    occupied: float = 0.0
    ceiling: float = UTILISATION_MAX

    def value(self, copies: BoolArray, served: FloatArray) -> float:
        """What a placement is worth, in cost tokens/s."""
        kept = np.minimum(copies.sum(axis=0), self.least) @ self.kept
        occupied = self.occupied * np.count_nonzero(copies.sum(axis=1))
        return float((self.gain * served).sum() + kept + occupied - self.change_cost(copies))

    def change_cost(self, copies: BoolArray) -> float:
        """What it costs to come from what is loaded to these copies."""
        loads = self.load_cost[copies & ~self.here].sum()
        return float(loads + self.unload_cost[self.here & ~copies].sum())

    def broken(self, copies: BoolArray, served: FloatArray | None = None) -> Iterator[str]:
        """The rules that a placement breaks, in words; nothing for a good one."""
        new, gone = copies & ~self.here, self.here & ~copies
        checks = (
            (copies & ~self.may, "a model is where it may not be"),
            (self.must & ~copies, "a model is gone that must stay"),
            (copies @ self.need > self.room + 0.5, "a Mac holds more than it has room for"),
            (new.sum(axis=0) > self.most_new, "a model gets more new copies than it may"),
            (gone.sum(axis=1) > self.unloads, "a Mac gives up more models than it may"),
            (np.array(gone.sum() > self.unloads_max), "the fleet gives up more than it may"),
        )
        yield from (words for check, words in checks if check.any())
        if served is not None:
            yield from self._broken_shares(copies, served)

    def _broken_shares(self, copies: BoolArray, served: FloatArray) -> Iterator[str]:
        busy = (served / self.rate).sum(axis=1)
        if (busy > self.ceiling + TOLERANCE).any():
            yield "a Mac works more than the ceiling"
        if (served.sum(axis=0) > self.wanted * (1 + TOLERANCE) + TOLERANCE).any():
            yield "more is served than is asked for"
        if (served[~copies] > TOLERANCE).any() or (served < -TOLERANCE).any():
            yield "a Mac serves a model that it does not have"


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A placement, how the work is shared out in it, and how good it can be at best.

    `bound` is never below the best possible value: of the linear relaxation, tightened by the
    search (`proof` is "exact"), or counted from what Macs can do at most ("simple"). `how` is
    "unchanged" where the rules leave no choice.
    """

    copies: BoolArray
    served: FloatArray
    value: float
    bound: float
    how: Literal["exact", "greedy", "unchanged"]
    proof: Literal["exact", "simple"]
    note: str = ""

    @property
    def share(self) -> float:
        """Value through bound: 1 is proven to be the best there is."""
        return min(1.0, self.value / self.bound) if self.bound > 0 else 1.0
