"""Everything that one plan is made from, frozen, so that it can be made in another thread.

The planner takes a case in a millisecond; `market.placement.draft` and `solve` work on it as long
as they need; what they say is then carried out if it still holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from market.placement.problem import BoolArray, FloatArray, IntArray
from market.placement.tables import LOADING, READY, Tables
from market.settings import PlacementSettings
from market.types import MachineId, ModelId

PATIENCE_S = 30.0
"""What a request that is refused in the end has waited: the usual deadline. So work that finds no
place costs itself × this, the same currency as the rent."""

FREE, IS_LOADING, IS_HELD, IS_PINNED, IS_YOUNG, IS_LAST, IS_SPENT = range(7)
LOCK_WORDS: Final = {
    IS_LOADING: "is being loaded",
    IS_HELD: "is on a Mac that is being waited for",
    IS_PINNED: "is pinned",
    IS_YOUNG: "has not been here for the minimum residency",
    IS_LAST: "is the copy that requests are waiting for",
    IS_SPENT: "is on a Mac that has made its swaps of the hour",
}
"""Why a copy cannot give way, in words."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was asked for, or that would be needed, and why it is not in the plan."""

    model: ModelId
    machine: MachineId | None
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One plan to be made. `cause` is why now.

    `paid` (m) is the rent of each model, `swaps_left` (n) what each Mac may still give up this
    hour, `failed` (n, m) where a load failed and may not be tried yet, `pins` the (row, column)
    that an operator wants, the first before the others; `queueing` (m) models keep requests waiting
    although they have copies. `refused` are pins that name nothing we know.
    """

    number: int
    cause: str
    tables: Tables
    settings: PlacementSettings
    paid: FloatArray
    swaps_left: IntArray
    failed: BoolArray
    pins: tuple[tuple[int, int], ...]
    queueing: BoolArray
    refused: tuple[Refusal, ...] = ()

    @property
    def pinned(self) -> BoolArray:
        return mask_of(self.pins, self.tables.place.shape)

    @property
    def cold(self) -> BoolArray:
        """Models that no Mac has or loads."""
        none: BoolArray = self.tables.here.sum(axis=0) == 0
        return none

    @property
    def asked(self) -> BoolArray:
        """Models that somebody waits for, or waited for in vain."""
        waited: BoolArray = (self.tables.waiting > 0) | (self.paid > 0)
        return waited

    @property
    def least(self) -> IntArray:
        """Copies to keep of each model."""
        return np.full(len(self.tables.models), max(1, self.settings.replicas), dtype=np.int64)


def mask_of(places: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> BoolArray:
    """An array in which these places are true."""
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


def locks_of(case: Case) -> IntArray:
    """Why each copy (n, m) has to stay for now; FREE where it may give way."""
    tables = case.tables
    locks = np.zeros(tables.place.shape, dtype=np.int64)
    ready = tables.ready
    locks[ready & (case.swaps_left <= 0)[:, None]] = IS_SPENT
    locks[_last_copies(tables)] = IS_LAST
    used = (tables.quiet_s[None, :] < tables.since_s) | (tables.running > 0)
    locks[ready & used & (tables.since_s < case.settings.residency_s)] = IS_YOUNG
    locks[case.pinned & tables.here] = IS_PINNED
    locks[tables.here & ~tables.open[:, None]] = IS_HELD
    locks[tables.place == LOADING] = IS_LOADING
    return locks


def _last_copies(tables: Tables) -> BoolArray:
    """The fastest ready copy of each model that requests wait for: it stays, whatever else."""
    last = np.zeros(tables.place.shape, dtype=bool)
    for model in np.flatnonzero((tables.waiting > 0) & tables.ready.any(axis=0)):
        speed = np.where(tables.place[:, model] == READY, tables.rate[:, model], -1.0)
        last[int(speed.argmax()), model] = True
    return last


def prices_of(case: Case) -> FloatArray:
    """What it costs when a copy (n, m) gives way, in cost tokens × seconds.

    The work that its other copies cannot take over goes unserved until the residency of what
    replaces it is over; counted at the rate that is planned for, so that two models never take
    turns in a place that both need. What a copy in free room elsewhere can take over is out only
    as long as that one loads.
    """
    tables = case.tables
    elsewhere = tables.able[None, :] - tables.does
    lost = np.clip(tables.high[None, :] - elsewhere, 0.0, None)
    home_s, home_work = homes_of(case)
    moves = np.minimum(lost, home_work[None, :])
    prices: FloatArray = (
        moves * home_s[None, :] ** 2 + (lost - moves) * case.settings.residency_s * PATIENCE_S
    )
    return prices


def homes_of(case: Case) -> tuple[FloatArray, FloatArray]:
    """Of the best free place for each model: seconds to load there and cost tokens/s it does.

    Both are 0 for a model that fits nowhere else.
    """
    tables = case.tables
    models = np.arange(len(tables.models))
    if not tables.machines:
        return np.zeros(len(models)), np.zeros(len(models))
    work = np.where(free_places(case), tables.rate * tables.spare[:, None], 0.0)
    best = work.argmax(axis=0)
    most: FloatArray = work[best, models]
    return np.where(most > 0, tables.load_s[best, models], 0.0), most


def free_places(case: Case) -> BoolArray:
    """Where a copy could be added without anything giving way."""
    tables = case.tables
    fits = tables.need[None, :] <= tables.free[:, None] + 0.5
    places: BoolArray = fits & tables.fits & tables.open[:, None] & ~tables.here & ~case.failed
    return places
