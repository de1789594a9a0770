"""The fleet as arrays: what is where, what fits where, who works for whom.

Made from a view and the demand once a second. Rows are the Macs that count, in order of their
id; so the order in which Macs are told changes nothing. Columns are the models in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf, log2
from typing import Final

import numpy as np

from market.placement.demand import Offered
from market.placement.flow import share_out
from market.placement.problem import UTILISATION_MAX, BoolArray, FloatArray, IntArray
from market.placement.view import FleetView, MacView, ModelView
from market.placement.work import (
    LOAD_BYTES_PER_S,
    WARM_UP_S,
    Mix,
    need_bytes,
    room_bytes,
    work_rate,
)
from market.types import Hardware, MachineId, ModelId, ModelSize

NONE, LOADING, READY, LEAVING, FAILED = range(5)
_CODES: Final = {"loading": LOADING, "ready": READY, "leaving": LEAVING, "failed": FAILED}

SLOWNESS_MIN, SLOWNESS_MAX = 0.25, 8.0
"""What was measured corrects a table within these bounds; beyond them one of both is nonsense."""

LOAD_BYTES_PER_S_MIN, LOAD_BYTES_PER_S_MAX = 1e6, 1e11
"""The same for how fast a Mac says it loads: from a slow download to beyond any disk."""

DRAIN_S = 60.0
"""What waits is to be served within a minute, beside what goes on arriving."""


@dataclass(frozen=True, eq=False)
class Tables:
    """n Macs and m models at one moment.

    `open` (n) Macs may be given new models. `fits` (n, m): allowed by the owner and small enough
    for an empty Mac. `place` (n, m) is one of the codes above, `since_s` how long it has been so,
    `running` how many sequences run there. `room`, `need`, `weights` in bytes; `rate` in cost
    tokens/s. `shed` (n, m) is what has to leave whatever the plan.
    """

    now_s: float
    machines: tuple[MachineId, ...]
    models: tuple[ModelId, ...]
    open: BoolArray
    fits: BoolArray
    allowed: BoolArray
    place: IntArray
    since_s: FloatArray
    running: FloatArray
    room: FloatArray
    need: FloatArray
    weights: FloatArray
    rate: FloatArray
    load_s: FloatArray
    waiting: IntArray
    waiting_work: FloatArray
    worth: FloatArray
    mean: FloatArray
    high: FloatArray
    lately: FloatArray
    dispersion: FloatArray
    quiet_s: FloatArray
    shed: BoolArray

    @cached_property
    def ready(self) -> BoolArray:
        there: BoolArray = self.place == READY
        return there

    @cached_property
    def here(self) -> BoolArray:
        """Loaded or being loaded."""
        there: BoolArray = (self.place == READY) | (self.place == LOADING)
        return there

    @cached_property
    def free(self) -> FloatArray:
        """Bytes of room that no model takes."""
        left: FloatArray = self.room - self.here @ self.need
        return left

    @cached_property
    def busy(self) -> FloatArray:
        """Cost tokens/s (n, m) that each Mac serves now, as far as is known."""
        worth = np.tile(self.worth, (len(self.machines), 1))
        return share_out(self.rate, worth, self.mean, self.ready, UTILISATION_MAX)

    @cached_property
    def spare(self) -> FloatArray:
        """Share of each Mac's time (n) that a plan may still use."""
        left: FloatArray = UTILISATION_MAX - (self.busy / self.rate).sum(axis=1)
        return np.maximum(left, 0.0)

    @cached_property
    def does(self) -> FloatArray:
        """Cost tokens/s (n, m) that each ready copy can do, beside what else its Mac serves."""
        could: FloatArray = self.ready * (self.busy + self.rate * self.spare[:, None])
        return could

    @cached_property
    def coming(self) -> FloatArray:
        """Cost tokens/s of each model that the copies being loaded will do."""
        will: FloatArray = ((self.place == LOADING) * self.rate * self.spare[:, None]).sum(axis=0)
        return will

    @cached_property
    def able(self) -> FloatArray:
        """Cost tokens/s of each model that all its ready copies can do."""
        could: FloatArray = self.does.sum(axis=0)
        return could


def tables_of(view: FleetView, offered: Mapping[ModelId, Offered], now_s: float) -> Tables:
    """A view and its demand as arrays; Macs that are away have no row."""
    macs = sorted((mac for mac in view.macs if mac.standing != "away"), key=_by_machine)
    columns = {model.size.model: at for at, model in enumerate(view.models)}
    asked = [offered.get(model.size.model, Offered()) for model in view.models]
    shape = (len(macs), len(view.models))
    place, since_s, running = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape)
    for row, mac in enumerate(macs):
        for found in mac.places:
            column = columns.get(found.model)
            if column is not None:
                place[row, column] = _CODES[found.state]
                since_s[row, column] = found.since_s
                running[row, column] = found.stats.running if found.stats is not None else 0
    need = np.array([need_bytes(model.size) for model in view.models], dtype=float)
    room = np.array([room_bytes(max(mac.memory_bytes, 0)) for mac in macs], dtype=float)
    allowed = np.array([_allowed(mac, view.models) for mac in macs], dtype=bool).reshape(shape)
    rate = _rates(macs, view.models, asked)
    weights = np.array([model.size.weight_bytes for model in view.models], dtype=float)
    load_rates = np.array([_sane(mac.load_bytes_per_s, LOAD_BYTES_PER_S) for mac in macs])
    load_rates = np.clip(load_rates, LOAD_BYTES_PER_S_MIN, LOAD_BYTES_PER_S_MAX)
    mean = np.array([one.mean for one in asked], dtype=float)
    worth = np.array([_sane(model.worth, 1.0) for model in view.models])
    fits = allowed & (need[None, :] <= room[:, None]) if shape[0] else allowed
    return Tables(
        now_s=now_s,
        machines=tuple(mac.machine for mac in macs),
        models=tuple(columns),
        open=np.array([mac.standing == "open" for mac in macs], dtype=bool),
        fits=fits,
        allowed=allowed,
        place=place,
        since_s=since_s,
        running=running,
        room=room,
        need=need,
        weights=weights,
        rate=rate,
        load_s=weights[None, :] / load_rates[:, None] + WARM_UP_S,
        waiting=np.array([max(model.waiting, 0) for model in view.models], dtype=np.int64),
        waiting_work=np.array([_sane(model.waiting_work, 0.0) for model in view.models]),
        worth=worth,
        mean=mean,
        high=np.array([one.high for one in asked], dtype=float),
        lately=np.array([one.lately for one in asked], dtype=float),
        dispersion=np.array([one.dispersion for one in asked]),
        quiet_s=np.array([one.quiet_s for one in asked]),
        shed=np.zeros(shape, dtype=bool),
    )


def _sane(number: float, otherwise: float) -> float:
    """A number that a Mac or a price list gave, if it is positive and finite."""
    return number if 0.0 < number < inf else otherwise


def _by_machine(mac: MacView) -> str:
    return mac.machine


def _allowed(mac: MacView, models: tuple[ModelView, ...]) -> list[bool]:
    if mac.allowed is None:
        return [True] * len(models)
    return [model.size.model in mac.allowed for model in models]


def _rates(macs: list[MacView], models: tuple[ModelView, ...], asked: list[Offered]) -> FloatArray:
    """Tabled rates of every Mac, corrected by what was measured on it.

    A model that was not measured here is taken to be as slow as the Mac's other models: it is
    hot, or its memory is slower than its name says.
    """
    sizes = tuple(model.size for model in models)
    mixes = tuple(one.mix.rounded() for one in asked)
    rates = np.empty((len(macs), len(models)))
    for row, mac in enumerate(macs):
        slowness = tuple((model, _octaves(slow)) for model, slow in mac.slowness)
        rates[row] = _rates_of(mac.hardware, mac.slots, slowness, sizes, mixes)
    return rates


RATES_KEPT_MAX = 4_096
"""Rows of rates that are kept, the ones used last: sixteen for each of 256 Macs."""
SLOWNESS_PER_OCTAVE = 16
"""Slowness is rounded to so many steps per octave, 4 %: nothing is known more exactly."""


def _octaves(slow: float) -> int:
    slow = min(max(_sane(slow, 1.0), SLOWNESS_MIN), SLOWNESS_MAX)
    return round(log2(slow) * SLOWNESS_PER_OCTAVE)


@lru_cache(maxsize=RATES_KEPT_MAX)
def _rates_of(
    hardware: Hardware,
    slots: int,
    slowness: tuple[tuple[ModelId, int], ...],
    sizes: tuple[ModelSize, ...],
    mixes: tuple[Mix, ...],
) -> FloatArray:
    tabled = [work_rate(hardware, size, mix, slots) for size, mix in zip(sizes, mixes, strict=True)]
    known = dict(slowness)
    usual = sum(known.values()) / len(known) if known else 0.0
    octaves = np.array([known.get(size.model, usual) for size in sizes]) / SLOWNESS_PER_OCTAVE
    rates: FloatArray = np.array(tabled) / 2.0**octaves
    return rates
