"""The fleet as a struct of arrays: one row per Mac, and per model the rows that serve it.

Routing reads columns, never objects: scoring 1,000 Macs as Python objects takes 1.5 ms,
as numpy arrays 30 µs. The router alone writes here; a decision works on `Candidates`, a
copy of the rows that serve one model, which stays true whatever happens afterwards.

Who writes which column, and how stale it may be: `state`, `slots`, `reported`, memory and
rates come from the Mac's beat (1 s); `in_flight`, `collecting`, breaker columns and
`draining` are the router's own and exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.provider_state import STATES
from market.types import EngineStats, Hardware, MachineId, ModelFacts, ModelId

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]

LOST = len(STATES)
"""State code of a Mac that is gone; the codes below it are those of `STATES`."""
STATE_CODE: dict[str, int] = {state: code for code, state in enumerate(STATES)}

BATCH_SLOPE = 0.27
"""Growth of a decode step per further sequence, as a share of a lone sequence's step: the
published M4 Max points fit 9.2 + 3.33·b ms, and 3.33 / (9.2 + 3.33) = 0.27."""

_COLUMNS: dict[str, Any] = {
    "state": np.int8,
    "last_beat_s": np.float64,
    "draining": np.bool_,
    "slots": np.int64,
    "in_flight": np.int64,
    "reported": np.int64,
    "collecting": np.bool_,
    "memory_bytes": np.int64,
    "bandwidth_gbs": np.float64,
    "solo_step_ms": np.float64,
    "prefill_tps": np.float64,
    "failures": np.int64,
    "cooling_until_s": np.float64,
    "fail_rate": np.float64,
}
_SLOT_COLUMNS: dict[str, Any] = {
    "weight_bytes": np.float64,
    "kv_bytes_per_token": np.float64,
    "context_tokens": np.int64,
}
_FIRST_ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The Macs that have one model, column by column; row i of each array is one Mac.

    `memory_bytes == 0`, `solo_step_ms == 0`, `prefill_tps == 0` mean not measured yet.
    """

    version: int
    machine: AnyArray
    row: IntArray
    state: NDArray[np.int8]
    last_beat_s: FloatArray
    draining: BoolArray
    slots: IntArray
    in_flight: IntArray
    reported: IntArray
    collecting: BoolArray
    memory_bytes: IntArray
    bandwidth_gbs: FloatArray
    solo_step_ms: FloatArray
    prefill_tps: FloatArray
    failures: IntArray
    cooling_until_s: FloatArray
    fail_rate: FloatArray
    weight_bytes: FloatArray
    kv_bytes_per_token: FloatArray
    context_tokens: IntArray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(slots=True)
class _ModelRows:
    """Which rows have a model, and its facts there; rebuilt when a Mac's models change."""

    rows: IntArray
    facts: dict[str, AnyArray]


class Fleet:
    """All Macs of one router. `version` grows with every change a decision could see."""

    def __init__(self) -> None:
        self.version = 0
        self.columns: dict[str, AnyArray] = {
            name: np.zeros(_FIRST_ROWS, dtype) for name, dtype in _COLUMNS.items()
        }
        self._machines: AnyArray = np.full(_FIRST_ROWS, None, dtype=object)
        self._row_of: dict[MachineId, int] = {}
        self._free_rows = list(range(_FIRST_ROWS - 1, -1, -1))
        self._facts: dict[MachineId, tuple[ModelFacts, ...]] = {}
        self._serving: dict[ModelId, dict[MachineId, ModelFacts]] = {}
        self._cache: dict[ModelId, _ModelRows] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, machine: MachineId) -> bool:
        return machine in self._row_of

    @property
    def models(self) -> list[ModelId]:
        return sorted(self._serving)

    def row(self, machine: MachineId) -> int | None:
        return self._row_of.get(machine)

    def add(self, machine: MachineId) -> int:
        """The row of this Mac, a fresh one if it has none."""
        known = self._row_of.get(machine)
        if known is not None:
            return known
        if not self._free_rows:
            self._grow()
        row = self._free_rows.pop()
        for column in self.columns.values():
            column[row] = 0
        self._row_of[machine] = row
        self._machines[row] = machine
        self.version += 1
        return row

    def remove(self, machine: MachineId) -> None:
        """Forget a Mac that is not coming back."""
        row = self._row_of.pop(machine, None)
        if row is None:
            return
        self.set_models(machine, ())
        self._facts.pop(machine, None)
        self._machines[row] = None
        self._free_rows.append(row)
        self._cache.clear()
        self.version += 1

    def set(self, machine: MachineId, **values: float) -> None:
        """Write some columns of a known Mac."""
        row = self._row_of[machine]
        for name, value in values.items():
            self.columns[name][row] = value
        self.version += 1

    def get(self, machine: MachineId, column: str) -> float:
        """One value of a known Mac."""
        return float(self.columns[column][self._row_of[machine]])

    def add_in_flight(self, machine: MachineId, slots: int) -> None:
        """Reserve or, negative, release slots; a Mac that is not here has none to count."""
        row = self._row_of.get(machine)
        if row is None:
            return
        self.columns["in_flight"][row] += slots
        assert self.columns["in_flight"][row] >= 0, "a slot was released twice"
        self.version += 1

    def set_models(self, machine: MachineId, models: tuple[ModelFacts, ...]) -> None:
        """Declare which models a known Mac has loaded; unchanged facts cost nothing."""
        before = self._facts.get(machine, ())
        if before == models:
            return
        self._facts[machine] = models
        for facts in before:
            serving = self._serving[facts.model]
            serving.pop(machine, None)
            if not serving:
                del self._serving[facts.model]
            self._cache.pop(facts.model, None)
        for facts in models:
            self._serving.setdefault(facts.model, {})[machine] = facts
            self._cache.pop(facts.model, None)
        self.version += 1

    def models_of(self, machine: MachineId) -> tuple[ModelFacts, ...]:
        """What this Mac has loaded, or had before it went to load it again."""
        return self._facts.get(machine, ())

    def observe(self, machine: MachineId, hardware: Hardware, stats: EngineStats | None) -> None:
        """Take a beat's measurements in. A rate of zero is unknown and keeps the last one."""
        self.set(machine, bandwidth_gbs=hardware.bandwidth_gbs)
        if stats is None:
            self.set(machine, slots=0, reported=0)
            return
        busy = stats.running + stats.waiting
        self.set(machine, slots=stats.slots, reported=busy, memory_bytes=stats.memory_bytes_budget)
        if stats.running > 0 and stats.decode_tps > 0:
            step_ms = 1000.0 * stats.running / stats.decode_tps
            self.set(machine, solo_step_ms=step_ms / (1.0 + BATCH_SLOPE * (stats.running - 1)))
        if stats.prefill_tps > 0:
            self.set(machine, prefill_tps=stats.prefill_tps)

    def candidates(self, model: ModelId) -> Candidates:
        """A copy of the rows that have this model, in order of row."""
        index = self._cache.get(model)
        if index is None:
            index = self._cache[model] = self._index(model)
        rows = index.rows
        columns = {name: column[rows] for name, column in self.columns.items()}
        machines = self._machines[rows]
        return Candidates(self.version, machines, rows, **columns, **index.facts)

    def free_slots(self, model: ModelId) -> int:
        """Slots not reserved on the Macs that have this model, whatever their state."""
        index = self._cache.get(model)
        if index is None:
            index = self._cache[model] = self._index(model)
        free = self.columns["slots"][index.rows] - self.columns["in_flight"][index.rows]
        return int(np.maximum(free, 0).sum())

    def _index(self, model: ModelId) -> _ModelRows:
        serving = self._serving.get(model, {})
        pairs = sorted((self._row_of[machine], facts) for machine, facts in serving.items())
        rows = np.array([row for row, _ in pairs], dtype=np.int64)
        facts = {
            name: np.array([getattr(entry, name) for _, entry in pairs], dtype=dtype)
            for name, dtype in _SLOT_COLUMNS.items()
        }
        return _ModelRows(rows, facts)

    def _grow(self) -> None:
        size = len(self._machines)
        self._machines = np.concatenate([self._machines, np.full(size, None, dtype=object)])
        for name, column in self.columns.items():
            self.columns[name] = np.concatenate([column, np.zeros(size, column.dtype)])
        self._free_rows = list(range(2 * size - 1, size - 1, -1))
