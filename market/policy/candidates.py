"""What one decision sees: the Macs that have one model, column by column, frozen.

A copy, so that a stored decision can be replayed: equal candidates, request and seed give the
same Mac. `pack` and `unpack` carry it through a store.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.policy.columns import AT
from market.types import AccountId, MachineId, ModelId, ProviderId

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AnyArray = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Name:
    """Who a Mac is: its private id, its public one, and whose it is."""

    machine: MachineId
    provider: ProviderId
    owner: AccountId


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """One Mac per position of every array. `data` has one row per column of
    `market.policy.columns`; `cached` is how many of the prompt's tokens each Mac has read
    before. `elsewhere` counts the Macs of the fleet that do not have the model.
    """

    version: int
    model: ModelId
    data: FloatArray
    names: AnyArray  # of Name, for the whole fleet, by row
    rows: IntArray
    cached: FloatArray
    elsewhere: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> FloatArray:
        values: FloatArray = self.data[AT[column]]
        return values

    def lock(self) -> None:
        """From now on nobody writes here: what a policy is shown is what is kept of a decision."""
        for array in (self.data, self.cached, self.rows, self.names):
            array.setflags(write=False)

    def name(self, index: int) -> Name:
        who: Name = self.names[self.rows[index]]
        return who

    def who(self) -> list[Name]:
        """All of them, by position."""
        return [self.names[row] for row in self.rows]

    def index_of(self, machine: MachineId) -> int | None:
        return next((i for i, who in enumerate(self.who()) if who.machine == machine), None)


def locked(values: BoolArray) -> BoolArray:
    """The same to look at. What is shown of a locked array cannot be unlocked."""
    values.setflags(write=False)
    return values.view()


def pack(candidates: Candidates) -> bytes:
    """Everything a replay needs, compressed: about 400 bytes plus 60 per Mac."""
    head = {
        "version": candidates.version,
        "model": candidates.model,
        "columns": list(AT),
        "elsewhere": candidates.elsewhere,
        "names": [[w.machine, w.provider, w.owner] for w in candidates.who()],
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    numbers = np.vstack([candidates.data, candidates.cached]).astype("<f8").tobytes()
    return zlib.compress(len(text).to_bytes(4, "big") + text + numbers, 1)


def unpack(packed: bytes) -> Candidates:
    """The candidates again. Raises ValueError when they are of another version of the market."""
    raw = zlib.decompress(packed)
    size = int.from_bytes(raw[:4], "big")
    head = json.loads(raw[4 : 4 + size])
    if head["columns"] != list(AT):
        raise ValueError("the decision was made by another version and cannot be replayed")
    count = len(head["names"])
    numbers = np.frombuffer(raw, "<f8", offset=4 + size).reshape(len(AT) + 1, count)
    names: AnyArray = np.empty(count, dtype=object)
    for at, (machine, provider, owner) in enumerate(head["names"]):
        names[at] = Name(MachineId(machine), ProviderId(provider), AccountId(owner))
    return Candidates(
        head["version"],
        ModelId(head["model"]),
        numbers[:-1].copy(),
        names,
        np.arange(count, dtype=np.int64),
        numbers[-1].copy(),
        head["elsewhere"],
    )
