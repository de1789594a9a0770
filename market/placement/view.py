"""What the planner is told: the fleet, the models on offer, and what an operator has pinned.

Plain records, made once a second by whoever knows the fleet: the router from its Macs' beats,
the lab from its simulated ones. Nothing is older than a beat (1 s) except sizes, which are known
before a model is loaded and never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from market.hardware import memory_budget_bytes
from market.routing.messages import Place, ProviderBeat
from market.types import Hardware, MachineId, ModelId, ModelSize

Standing = Literal["open", "held", "away"]
"""May a Mac be given new models? `open`: yes. `held`: what it has counts, but it gets nothing new
(it is silent, or being tried out). `away`: draining, drained, lost, failing or stopped; what it
has does not count, so that it is replaced elsewhere, and its orders stay as they are."""


@dataclass(frozen=True, slots=True)
class MacView:
    """One Mac. `memory_bytes` is what weights and caches may take together.

    It may load `allowed` only; None is everything on offer. `slowness` is what requests took
    through what the tables say, by model: 1.2 takes a fifth longer.
    """

    machine: MachineId
    hardware: Hardware
    memory_bytes: int
    standing: Standing = "open"
    places: tuple[Place, ...] = ()
    allowed: tuple[ModelId, ...] | None = None
    slots: int = 32
    load_bytes_per_s: float = 0.0
    slowness: tuple[tuple[ModelId, float], ...] = ()

    @property
    def has(self) -> tuple[ModelId, ...]:
        """What it has or is loading, in its own order."""
        return tuple(p.model for p in self.places if p.state in ("ready", "loading"))


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model on offer. `waiting` requests want `waiting_work` cost tokens and get no slot.

    Only what a further copy could help belongs there: not what excludes every Mac. `worth` is
    what a served cost token of it is worth; equal numbers treat all models alike, prices per
    cost token make the plan earn most.
    """

    size: ModelSize
    waiting: int = 0
    waiting_work: float = 0.0
    worth: float = 1.0


@dataclass(frozen=True, slots=True)
class Pin:
    """An operator wants this model on this Mac until told otherwise."""

    machine: MachineId
    model: ModelId


@dataclass(frozen=True, slots=True)
class FleetView:
    """Everything at one moment. The order of Macs means nothing, that of models breaks ties."""

    macs: tuple[MacView, ...]
    models: tuple[ModelView, ...]
    pins: tuple[Pin, ...] = ()


def mac_of_beat(
    beat: ProviderBeat,
    standing: Standing,
    *,
    allowed: tuple[ModelId, ...] | None = None,
    slowness: tuple[tuple[ModelId, float], ...] = (),
) -> MacView:
    """A Mac as its beat declares it; memory it does not know is taken from its hardware."""
    return MacView(
        machine=beat.machine,
        hardware=beat.hardware,
        memory_bytes=beat.memory_bytes or memory_budget_bytes(beat.hardware.memory_gb),
        standing=standing,
        places=beat.places,
        allowed=allowed,
        slots=beat.stats.slots if beat.stats is not None else 32,
        load_bytes_per_s=beat.load_bytes_per_s,
        slowness=slowness,
    )
