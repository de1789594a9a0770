"""The fleet as arrays: a column of numbers per Mac, and per model a column per Mac that has it.

Routing reads columns, never objects: scoring 1,000 Macs as Python objects takes 1.5 ms, as
numpy arrays 30 µs. The router alone writes here; a decision works on `Candidates`, a copy that
stays true whatever happens afterwards. What is sum over requests (slots, contexts, reserved
memory) is kept here at each grant and release, so that a decision only reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from market.policy.candidates import AnyArray, Candidates, FloatArray, IntArray, Name
from market.policy.columns import (
    AT,
    MAC_COLUMNS,
    MACS,
    ODDITIES,
    PLACE_AT,
    PLACE_COLUMNS,
    STEP_COLUMNS,
)
from market.policy.rates import Rates
from market.types import AccountId, MachineId, ModelFacts, ModelId, ProviderId

_FIRST_ROWS = 16
_START: dict[str, float] = {
    "ask_pct": 100.0,
    "scale_step": 1.0,
    "scale_prefill": 1.0,
    "bias_step": 1.0,
    "bias_prefill": 1.0,
    "spread": 0.25,
}
"""What columns begin with that do not begin at zero. A spread of 0.25 is the error that the
tables are expected to have on a chip they were not fitted to."""

_QUIET = frozenset(ODDITIES)
_ODD_ROWS = [AT[name] for name in ODDITIES]

_LEARNED = ("scale_step", "scale_prefill", "bias_step", "bias_prefill", "spread", "seen")
"""Columns of a place that outlive its model: loaded again, it is as fast as it was."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one granted request adds to its Mac: slots, tokens and the memory they may take."""

    slots: int
    context_tokens: float
    expected_tokens: float
    kv_bytes: float


@dataclass(slots=True)
class _Place:
    """One model on one Mac. `values` is its column while the model's index is rebuilt."""

    facts: ModelFacts | None
    rates: Rates
    values: FloatArray


class _Index:
    """The Macs that have one model, in order of row; columns lie side by side."""

    __slots__ = ("at", "rows", "values")

    def __init__(self, places: Sequence[tuple[int, _Place]]) -> None:
        ordered = sorted(places, key=lambda pair: pair[0])
        self.rows: IntArray = np.array([row for row, _ in ordered], dtype=np.int64)
        self.values: FloatArray = (
            np.column_stack([place.values for _, place in ordered])
            if ordered
            else np.zeros((len(PLACE_COLUMNS), 0))
        )
        self.at = {row: at for at, (row, _) in enumerate(ordered)}
        for at, (_, place) in enumerate(ordered):
            place.values = self.values[:, at]


class Fleet:
    """All Macs of one router. `version` grows with every change a decision could see."""

    def __init__(self) -> None:
        self.version = 0
        self._macs: FloatArray = np.zeros((MACS, _FIRST_ROWS))
        self._names: AnyArray = np.full(_FIRST_ROWS, None, dtype=object)
        self._row_of: dict[MachineId, int] = {}
        self._free_rows = list(range(_FIRST_ROWS - 1, -1, -1))
        self._places: dict[MachineId, dict[ModelId, _Place]] = {}
        self._having: dict[ModelId, dict[MachineId, _Place]] = {}
        self._index: dict[ModelId, _Index] = {}
        self._learned: dict[tuple[MachineId, ModelId], FloatArray] = {}
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, machine: MachineId) -> bool:
        return machine in self._row_of

    @property
    def models(self) -> list[ModelId]:
        return sorted(self._having)

    def code(self, text: str) -> int:
        """A number for a digest or a quantisation, the same for the same text; 0 is ""."""
        if not text:
            return 0
        return self._codes.setdefault(text, len(self._codes) + 1)

    def known_code(self, text: str) -> int:
        """As `code`, but −1 for what no Mac has ever named: callers may ask for anything."""
        return self._codes.get(text, -1)

    # ── Macs ──────────────────────────────────────────────────────────────────────────

    def add(self, machine: MachineId, provider: ProviderId, owner: AccountId) -> None:
        """Give this Mac a row; one that has a row keeps it."""
        if machine in self._row_of:
            return
        if not self._free_rows:
            self._grow()
        row = self._free_rows.pop()
        self._macs[:, row] = [_START.get(name, 0.0) for name in MAC_COLUMNS]
        self._row_of[machine] = row
        self._places[machine] = {}
        self._rename(row, Name(machine, provider, owner))

    def own(self, machine: MachineId, provider: ProviderId, owner: AccountId) -> None:
        """Who the Mac is and whose, when that has changed."""
        row = self._row_of[machine]
        name = Name(machine, provider, owner)
        if self._names[row] != name:
            self._rename(row, name)

    def remove(self, machine: MachineId) -> None:
        """Forget a Mac that is not coming back."""
        row = self._row_of.get(machine)
        if row is None:
            return
        for model in list(self._places[machine]):
            self.drop_place(machine, model)
        for key in [key for key in self._learned if key[0] == machine]:
            del self._learned[key]
        del self._row_of[machine], self._places[machine]
        self._free_rows.append(row)
        self._rename(row, None)

    def _rename(self, row: int, name: Name | None) -> None:
        self._names = self._names.copy()  # decisions keep the old array
        self._names[row] = name
        self.version += 1

    def set(self, machine: MachineId, **values: float) -> None:
        """Write some columns of a known Mac."""
        row = self._row_of[machine]
        for name, value in values.items():
            self._macs[AT[name], row] = value
        if not _QUIET.isdisjoint(values):
            self._macs[AT["odd"], row] = float(self._macs[_ODD_ROWS, row].any())
        self.version += 1

    def touch(self, machines: Sequence[MachineId], now_s: float) -> None:
        """These Macs were heard from now, and nothing else has changed."""
        rows = [self._row_of[machine] for machine in machines]
        self._macs[AT["last_beat_s"], rows] = now_s

    def get(self, machine: MachineId, column: str) -> float:
        """One value of a known Mac."""
        return float(self._macs[AT[column], self._row_of[machine]])

    # ── models on Macs ────────────────────────────────────────────────────────────────

    def set_place(
        self,
        machine: MachineId,
        model: ModelId,
        state: int,
        rates: Rates,
        facts: ModelFacts | None,
    ) -> None:
        """Say that a known Mac has a model, or is about to; what was learned of it returns."""
        place = self._places[machine].get(model)
        if place is None:
            place = _Place(facts, rates, self._blank(machine, model))
            self._places[machine][model] = place
            self._having.setdefault(model, {})[machine] = place
            self._index.pop(model, None)
        elif place.values[PLACE_AT["place"]] == state and place.facts == facts:
            return
        place.facts, place.rates = facts, rates
        values = place.values
        values[PLACE_AT["place"]] = state
        for name, step_ms in zip(STEP_COLUMNS, rates.steps_ms, strict=True):
            values[PLACE_AT[name]] = step_ms
        values[PLACE_AT["kv_ms"]] = rates.kv_ms
        values[PLACE_AT["prefill_ms"]] = rates.prefill_ms
        if facts is not None:
            values[PLACE_AT["weight_bytes"]] = facts.weight_bytes
            values[PLACE_AT["kv_bytes_per_token"]] = facts.kv_bytes_per_token
            values[PLACE_AT["context_tokens"]] = facts.context_tokens
            values[PLACE_AT["quantization"]] = self.code(facts.quantization)
            values[PLACE_AT["digest"]] = self.code(facts.digest)
        self._account(machine)
        self._rework(machine, place)

    def drop_place(self, machine: MachineId, model: ModelId) -> None:
        """A known Mac no longer has this model."""
        place = self._places[machine].pop(model, None)
        if place is None:
            return
        self._learned[machine, model] = place.values[[PLACE_AT[name] for name in _LEARNED]]
        having = self._having[model]
        del having[machine]
        if not having:
            del self._having[model]
        self._index.pop(model, None)
        row = self._row_of[machine]
        self._macs[AT["busy_ms"], row] -= place.values[PLACE_AT["own_ms"]]
        self._macs[AT["expected_all"], row] -= place.values[PLACE_AT["expected_sum"]]
        self._account(machine)
        self.version += 1

    def _blank(self, machine: MachineId, model: ModelId) -> FloatArray:
        values = np.array([_START.get(name, 0.0) for name in PLACE_COLUMNS])
        learned = self._learned.pop((machine, model), None)
        if learned is not None:
            values[[PLACE_AT[name] for name in _LEARNED]] = learned
        return values

    def _account(self, machine: MachineId) -> None:
        """The weights that are loaded, all models together."""
        places = self._places[machine].values()
        resident = sum(place.facts.weight_bytes for place in places if place.facts is not None)
        self.set(machine, resident_bytes=resident)

    def models_of(self, machine: MachineId) -> list[ModelId]:
        """The models this Mac has, in whatever state."""
        return list(self._places.get(machine, ()))

    def facts_of(self, machine: MachineId, model: ModelId) -> ModelFacts | None:
        place = self._places.get(machine, {}).get(model)
        return place.facts if place is not None else None

    def place(self, machine: MachineId, model: ModelId, column: str) -> float:
        """One value of a model on a known Mac; 0 when the Mac does not have it."""
        place = self._places[machine].get(model)
        return float(place.values[PLACE_AT[column]]) if place is not None else 0.0

    def write_place(self, machine: MachineId, model: ModelId, values: Mapping[str, float]) -> None:
        """Write some columns of a model on a Mac; nothing when it does not have it."""
        place = self._places.get(machine, {}).get(model)
        if place is None:
            return
        for name, value in values.items():
            place.values[PLACE_AT[name]] = value
        self._rework(machine, place)

    # ── requests ──────────────────────────────────────────────────────────────────────

    def add_load(self, machine: MachineId, model: ModelId | None, load: Load, sign: int) -> None:
        """A request begins (1) or ends (-1). A Mac that is not here has nothing to count.

        A model of None counts for the Mac alone: a grant of which only that is known.
        """
        row = self._row_of.get(machine)
        if row is None:
            return
        macs = self._macs
        macs[AT["in_flight"], row] += sign * load.slots
        assert macs[AT["in_flight"], row] >= 0, "a slot was released twice"
        if macs[AT["in_flight"], row] == 0:
            macs[AT["prefill_until_s"], row] = 0.0  # nothing is left to be read
        reserved = macs[AT["kv_reserved_bytes"], row] + sign * load.kv_bytes
        macs[AT["kv_reserved_bytes"], row] = max(reserved, 0.0)
        place = self._places[machine].get(model) if model is not None else None
        if place is not None:
            values = place.values
            running = values[PLACE_AT["running"]] + sign * load.slots
            values[PLACE_AT["running"]] = max(running, 0.0)
            for name, tokens in (
                ("context_sum", load.context_tokens),
                ("expected_sum", load.expected_tokens),
            ):
                left = values[PLACE_AT[name]] + sign * tokens
                left = max(left, 0.0) if running > 0 else 0.0
                if name == "expected_sum":
                    macs[AT["expected_all"], row] += left - values[PLACE_AT[name]]
                values[PLACE_AT[name]] = left
            if sign > 0:
                values[PLACE_AT["granted_here"]] += 1
            self._rework(machine, place)
        if sign > 0:
            macs[AT["granted"], row] += 1
        self.version += 1

    def _rework(self, machine: MachineId, place: _Place) -> None:
        """What follows from a place's numbers: its step now, and with one sequence more."""
        values, rates = place.values, place.rates
        factor = values[PLACE_AT["scale_step"]] * values[PLACE_AT["bias_step"]]
        running = float(values[PLACE_AT["running"]])
        values[PLACE_AT["step_next_ms"]] = rates.step_ms(running + 1)
        own_ms = 0.0
        if running > 0:
            context_ms = rates.kv_ms * values[PLACE_AT["context_sum"]]
            own_ms = float((rates.step_ms(running) + context_ms) * factor)
        row = self._row_of[machine]
        self._macs[AT["busy_ms"], row] += own_ms - values[PLACE_AT["own_ms"]]
        values[PLACE_AT["own_ms"]] = own_ms
        self.version += 1

    # ── reading ───────────────────────────────────────────────────────────────────────

    def candidates(self, model: ModelId) -> Candidates:
        """A copy of what is known of the Macs that have this model, in order of row."""
        index = self._index_of(model)
        count = len(index.rows)
        data = np.empty((len(AT), count))
        np.take(self._macs, index.rows, axis=1, out=data[:MACS], mode="clip")
        data[MACS:] = index.values
        elsewhere = len(self._row_of) - count
        return Candidates(
            self.version, model, data, self._names, index.rows, np.zeros(count), elsewhere
        )

    def position(self, model: ModelId, machine: MachineId) -> int | None:
        """Where this Mac stands among the model's candidates, if it does."""
        row = self._row_of.get(machine)
        return self._index_of(model).at.get(row) if row is not None else None

    def free_slots(self, model: ModelId) -> int:
        """Slots not reserved on the Macs that have this model, whatever their state."""
        rows = self._index_of(model).rows
        free = self._macs[AT["slots"], rows] - self._macs[AT["in_flight"], rows]
        return int(np.maximum(free, 0).sum())

    def _index_of(self, model: ModelId) -> _Index:
        index = self._index.get(model)
        if index is None:
            having = self._having.get(model, {})
            index = _Index([(self._row_of[machine], place) for machine, place in having.items()])
            self._index[model] = index
        return index

    def _grow(self) -> None:
        size = self._macs.shape[1]
        self._macs = np.hstack([self._macs, np.zeros((MACS, size))])
        self._names = np.concatenate([self._names, np.full(size, None, dtype=object)])
        self._free_rows = list(range(2 * size - 1, size - 1, -1))
