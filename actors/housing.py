"""Which process a Mac's provider runs in: one each, or light Macs together.

A Mac whose engine is real has a process of its own, and so has each of a handful of simulated
ones: killing it is then a Mac dying. A hundred processes that only keep time would take
gigabytes and minutes to start, so many light Macs share a few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from actors.nodes import PROVIDER, provider_name
from market.settings import MacSettings, MarketSettings
from market.types import MachineId

APART_MACS_MAX = 8
"""So many light Macs still have a process each, as real ones have."""

PROCESS_MACS_MAX = 32
"""Macs of one process at most: they share its event loop."""

SHARED = "macs:"


@dataclass(frozen=True, slots=True)
class Housing:
    """A process, by its actor's name, and the Macs that live in it."""

    actor: str
    macs: tuple[MacSettings, ...]

    @property
    def role(self) -> str:
        """What its log is called."""
        if len(self.macs) == 1:
            return f"provider-{self.macs[0].name}"
        return self.actor.replace(":", "-")

    @property
    def phase_s(self) -> float:
        """When in a second its Macs beat: together, and not when other processes' do."""
        digest = hashlib.sha256(self.actor.encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32


def apart(macs: Iterable[MacSettings]) -> tuple[Housing, ...]:
    """A process for each."""
    return tuple(Housing(provider_name(mac.machine), (mac,)) for mac in macs)


def housings(settings: MarketSettings) -> tuple[Housing, ...]:
    """The processes of the Macs that are declared; those of nodes are always apart.

    Equal settings give equal processes: every part of the market finds a Mac by itself.
    """
    macs = settings.macs
    if settings.engine.kind == "mlx" or len(macs) <= APART_MACS_MAX:
        return apart(macs)
    count = -(-len(macs) // PROCESS_MACS_MAX)
    edges = [number * len(macs) // count for number in range(count + 1)]
    return tuple(
        Housing(f"{SHARED}{number}", macs[edges[number - 1] : edges[number]])
        for number in range(1, count + 1)
    )


def is_of_macs(actor: str) -> bool:
    """Whether Macs live in the actor of this name."""
    return actor.startswith((SHARED, PROVIDER))


def actor_names(settings: MarketSettings) -> dict[MachineId, str]:
    """The actor that answers for each declared Mac that shares a process."""
    shared = [each for each in housings(settings) if len(each.macs) > 1]
    return {mac.machine: housing.actor for housing in shared for mac in housing.macs}
