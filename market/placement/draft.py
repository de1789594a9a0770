"""A case as a problem: what the rules leave open, and what each possibility is worth.

All rules that a placement has to keep become bounds here, once, so that the exact search, the
simple one and a person reading a plan agree on what was possible. `start` is what is loaded, with
the pins: it keeps every rule, so a plan always exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from market.placement.case import Case, Refusal
from market.placement.permits import Office, Permits
from market.placement.pins import pins_of
from market.placement.problem import BoolArray, FloatArray, IntArray, Problem
from market.placement.tables import DRAIN_S, LEAVING, LOADING, Tables

FLEET_SWAP_SHARE = 0.25
"""At most a quarter of the Macs, rounded up, give up a model in one plan."""

SPEED_WEIGHT = 0.02
"""What a cost token is worth less on a Mac of no speed: where several Macs could serve a model,
the fastest does, but not at the price of leaving work undone."""

IDLE_LOAD_SHARE = 0.05
BUSY_LOAD_SHARE = 0.25
"""What a Mac does less while it loads: a little because its disk and memory are used, and of the
work it has, as much as `market.placement.permits` charges."""

COLD_COPY = 20.0
IDLE_COPY = 0.02
WANTED_COPY = 0.5
"""What keeping one copy is worth, in what a typical Mac does of a typical model: for a model that
requests wait for in vain, for one nobody asks for, and at most for one that is asked for."""

OCCUPIED = 0.02
"""What it is worth, in the same, that a Mac has a model at all: copies are spread, load side by
side, and are not all lost at once. Less than what a little work is worth."""

HORIZON_S_MIN = 60.0
"""A change pays off within the minimum residency, taken as a minute where it is shorter."""

FAILED_MACS_MAX = 3
"""A model that could not be loaded on so many Macs is not tried on further ones meanwhile."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A problem with what it was made from, and what is refused whatever the answer."""

    case: Case
    problem: Problem
    permits: Permits
    refused: tuple[Refusal, ...]


def draft_of(case: Case) -> Draft:
    """Apply the rules to a case."""
    tables = case.tables
    office = Office(case)
    permits = office.permits()
    unloads_max = unloads_max_of(tables)
    pins = pins_of(case, office, unloads_max)
    poisoned = case.failed.sum(axis=0) >= FAILED_MACS_MAX
    granted = permits.granted & ~poisoned[None, :]
    must = (tables.here & ~permits.yielding & ~pins.leaving) | pins.must
    may = tables.here | granted | pins.must
    least = np.minimum(case.least, may.sum(axis=0))
    unit = _unit(case)
    best = np.maximum(np.where(tables.fits, tables.rate, 0.0).max(axis=0, initial=0.0), 1e-9)
    speed = np.clip(tables.rate / best[None, :], 0.0, 1.0)
    load_cost, unload_cost = _change_costs(case, unit, speed)
    problem = Problem(
        machines=tables.machines,
        models=tables.models,
        room=np.maximum(tables.room, tables.here @ tables.need),
        need=tables.need,
        rate=tables.rate,
        gain=tables.worth[None, :] * (1.0 - SPEED_WEIGHT * (1.0 - speed)),
        wanted=_planned(case),
        least=least,
        kept=_kept(case, unit),
        most_new=np.maximum(_most_new(case, poisoned), (pins.must & ~tables.here).sum(axis=0)),
        load_cost=load_cost,
        unload_cost=unload_cost,
        here=tables.here,
        may=may,
        must=must,
        unloads=case.swaps_left,
        unloads_max=unloads_max,
        start=(tables.here & ~pins.leaving) | pins.must,
        occupied=OCCUPIED * unit,
    )
    unplaced = _unplaced(case, office, may)
    refused = (*case.refused, *pins.refused, *_homeless(case, poisoned), *unplaced)
    return Draft(case, problem, permits, refused)


def unloads_max_of(tables: Tables) -> int:
    """Copies that one plan may let go, on all Macs together."""
    return ceil(FLEET_SWAP_SHARE * len(tables.machines))


def _unit(case: Case) -> float:
    """What a typical Mac does of a typical model, in cost tokens/s times their worth."""
    tables = case.tables
    rates = (tables.rate * tables.worth[None, :])[tables.fits]
    return float(np.median(rates)) if rates.size else 1.0


def _planned(case: Case) -> FloatArray:
    """Cost tokens/s to plan for: what comes, what waits, and more than there is if it queues.

    While one model queues, no other's share of the Macs is kept for what came before and comes no
    more: half of them would be idle for as long as that is remembered.
    """
    tables = case.tables
    waiting = tables.waiting_work / DRAIN_S
    more = np.where(case.queueing, tables.able + waiting, 0.0)
    planned: FloatArray = np.maximum(tables.high + waiting, more)
    if case.queueing.any():
        planned = np.where(tables.waiting > 0, planned, np.minimum(planned, tables.lately))
    return planned


def _kept(case: Case, unit: float) -> FloatArray:
    tables = case.tables
    unserved = (tables.waiting > 0) & case.cold
    asked_for = np.minimum(tables.mean * tables.worth, WANTED_COPY * unit)
    kept: FloatArray = IDLE_COPY * unit + asked_for + np.where(unserved, COLD_COPY * unit, 0.0)
    return kept


def _most_new(case: Case, poisoned: BoolArray) -> IntArray:
    """Copies to add: of a model that serves nowhere just as many as are kept of each, until the
    first has shown that it loads.
    """
    tables = case.tables
    loading = (tables.place == LOADING).sum(axis=0)
    first = np.maximum(case.least - loading, 0)
    most = np.where(tables.ready.any(axis=0), len(tables.machines), first)
    return np.where(poisoned, 0, most).astype(np.int64)


def _change_costs(case: Case, unit: float, speed: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What loads and unloads take from the work of the time they pay off in."""
    tables = case.tables
    share = tables.load_s / max(case.settings.residency_s, HORIZON_S_MIN)
    idle = IDLE_LOAD_SHARE * unit * (2.0 - speed)
    busy = BUSY_LOAD_SHARE * (tables.busy * tables.worth[None, :]).sum(axis=1)
    loads = share * (idle + busy[:, None])
    loads = np.where(tables.place == LEAVING, 0.0, loads)  # it is still there
    return loads, share * IDLE_LOAD_SHARE * unit


def _unplaced(case: Case, office: Office, may: BoolArray) -> list[Refusal]:
    """Models that requests wait for and that may come nowhere yet: what is nearest, and why not."""
    tables = case.tables
    short = ((tables.waiting > 0) & case.cold) | case.queueing
    none = (may & ~tables.here).sum(axis=0) == 0
    fits = tables.fits.sum(axis=0) > 0
    refused = []
    for column in np.flatnonzero(short & none & fits):
        nearest = office.choices(int(column))[:1]
        for quote in nearest:
            words = f"{int(tables.waiting[column])} wait for it, but {office.in_words(quote)}"
            refused.append(Refusal(tables.models[column], tables.machines[quote.row], words))
    return refused


def _homeless(case: Case, poisoned: BoolArray) -> list[Refusal]:
    """Models that no Mac here can hold, and those that do not load."""
    tables = case.tables
    refused = []
    for column, model in enumerate(tables.models):
        if poisoned[column] and not tables.ready[:, column].any():
            words = f"could not be loaded on {FAILED_MACS_MAX} Macs; tried again later"
            refused.append(Refusal(model, None, words))
        elif not tables.fits[:, column].any():
            largest = tables.room.max(initial=0.0) / 1e9
            words = (
                f"needs {tables.need[column] / 1e9:.1f} GB; no Mac that may load it has room "
                f"for that, the largest of all has {largest:.1f} GB"
            )
            refused.append(Refusal(model, None, words))
    return refused
