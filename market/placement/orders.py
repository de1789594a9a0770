"""What each Mac was told to have, and what became of it.

Orders are whole lists, repeated in the answer to every beat, so a lost message loses nothing.
What was ordered and is not declared yet counts as being loaded; what is declared and no longer
ordered counts as leaving: so nothing is ordered twice while a Mac gets round to it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from market.placement.view import FleetView, MacView
from market.routing.messages import Place
from market.types import MachineId, ModelId

HOUR_S = 3600.0

BEGIN_S_MAX = 900.0
"""An ordered load that a Mac has not begun by then, other loads before it included, has failed."""

RETRY_S = 600.0
RETRY_DOUBLINGS_MAX = 4
"""A load that failed is not tried on that Mac again for so long; twice as long each time in a
row, up to 160 minutes."""

CLOCKS_S = 2.0
"""Two failures closer together are one, told twice by clocks that differ."""

NOT_BEGUN = f"the Mac did not begin to load it within {BEGIN_S_MAX:.0f} s"


@dataclass(frozen=True, slots=True)
class _Failure:
    """The latest of so many failed loads in a row."""

    at_s: float
    reason: str
    times: int

    def bars(self, now_s: float) -> bool:
        pause_s = RETRY_S * 2.0 ** min(self.times - 1, RETRY_DOUBLINGS_MAX)
        return now_s - self.at_s < pause_s


class Orders:
    """The orders of all Macs that are in a plan."""

    def __init__(self) -> None:
        self._wanted: dict[MachineId, tuple[ModelId, ...]] = {}
        self._since: dict[tuple[MachineId, ModelId], float] = {}
        self._failed: dict[tuple[MachineId, ModelId], _Failure] = {}
        self._swaps: dict[MachineId, deque[float]] = {}
        self.swapped_ever = 0

    def of(self, machine: MachineId) -> tuple[ModelId, ...] | None:
        """Most urgent first; None for a Mac that no plan has seen."""
        return self._wanted.get(machine)

    def give(
        self, machine: MachineId, models: tuple[ModelId, ...], swaps: int, now_s: float
    ) -> None:
        """From now on the Mac should have these; `swaps` models give way for it."""
        self._wanted[machine] = models
        self._swaps.setdefault(machine, deque()).extend([now_s] * swaps)
        self.swapped_ever += swaps

    def swaps(self, machine: MachineId, now_s: float) -> int:
        """Models that had to give way on this Mac within the hour."""
        times = self._swaps.get(machine)
        while times and now_s - times[0] >= HOUR_S:
            times.popleft()
        return len(times) if times else 0

    def swapped(self, now_s: float) -> int:
        """The same on all Macs."""
        return sum(self.swaps(machine, now_s) for machine in list(self._swaps))

    # ── what the Macs declare ─────────────────────────────────────────────────────────

    def applied(self, view: FleetView, now_s: float) -> FleetView:
        """The fleet as it will be once all orders are carried out as far as they can be."""
        known = {mac.machine for mac in view.macs}
        for machine in [machine for machine in self._swaps if not self.swaps(machine, now_s)]:
            del self._swaps[machine]
        for machine in [machine for machine in self._wanted if machine not in known]:
            self._forget(machine)
        for key in [key for key in self._failed if key[0] not in known]:
            del self._failed[key]
        macs = tuple(self._applied(mac, now_s) for mac in view.macs)
        return replace(view, macs=macs)

    def _applied(self, mac: MacView, now_s: float) -> MacView:
        if mac.standing == "away":
            self._forget(mac.machine)
        wanted = self._wanted.get(mac.machine)
        self._note_failures(mac, now_s)
        barred = [
            Place(model, "failed", failure.reason, since_s=now_s - failure.at_s)
            for (machine, model), failure in self._failed.items()
            if machine == mac.machine and failure.bars(now_s)
        ]
        places = [_judged(place, wanted) for place in mac.places if place.state != "failed"]
        known = {place.model for place in (*places, *barred)}
        for model in wanted or ():
            key = (mac.machine, model)
            if model in known:
                self._since.pop(key, None)
                continue
            waited_s = now_s - self._since.setdefault(key, now_s)
            if waited_s >= BEGIN_S_MAX:
                self._fail(key, now_s, NOT_BEGUN)
            places.append(Place(model, "loading", since_s=waited_s))
        return replace(mac, places=(*places, *barred))

    def _note_failures(self, mac: MacView, now_s: float) -> None:
        """Remember what could not be loaded also when the Mac no longer says so."""
        for place in mac.places:
            key = (mac.machine, place.model)
            if place.state == "ready":
                self._failed.pop(key, None)
            elif place.state == "failed":
                known, at_s = self._failed.get(key), now_s - place.since_s
                if known is None or at_s > known.at_s + CLOCKS_S:
                    self._fail(key, at_s, place.reason)

    def _fail(self, key: tuple[MachineId, ModelId], at_s: float, reason: str) -> None:
        before = self._failed.get(key)
        self._failed[key] = _Failure(at_s, reason, before.times + 1 if before is not None else 1)

    def _forget(self, machine: MachineId) -> None:
        self._wanted.pop(machine, None)
        for key in [key for key in self._since if key[0] == machine]:
            del self._since[key]


def _judged(place: Place, wanted: tuple[ModelId, ...] | None) -> Place:
    """A model that is no longer ordered is on its way out, whether its Mac knows it yet or not."""
    if wanted is not None and place.model not in wanted:
        return replace(place, state="leaving")
    return place
