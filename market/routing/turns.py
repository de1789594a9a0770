"""How long who waits for a model will wait: what runs there, who is ahead, and how much they ask.

Past requests say how long a slot is held for a cost token. Where what runs takes longer than that
says, so will those who come after it: an expectation that the present refutes is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from market.policy.fleet import Fleet
from market.routing.lengths import Lengths
from market.routing.placing import Placing
from market.routing.reservations import Reservation, Reservations
from market.routing.waits import retry_after_s, wait_s
from market.types import MachineId, ModelId

OVERDUE_SHARE = 0.5
"""Of the time it has held its slot: how much longer what is overdue is expected to."""


class Turns:
    """Answers from the fleet, the reservations and what was learned; it keeps nothing itself."""

    def __init__(
        self, fleet: Fleet, reservations: Reservations, lengths: Lengths, placing: Placing
    ) -> None:
        self._fleet = fleet
        self._reservations = reservations
        self._lengths = lengths
        self._placing = placing

    def wait_s(self, model: ModelId, ahead: Sequence[float], now_s: float) -> float:
        """How long the request with these cost tokens before it will wait for a slot."""
        slots = self.slots(model)
        if slots == 0:
            later = self._placing.ready_in_s(model, now_s)
            return float("inf") if later is None else later
        here = self._serving(model)
        running = [held for held in self._reservations if held.machine in here]
        ends = [self._ends_s(held, model, now_s) for held in running]
        # Nobody could be added now, so what runs now is what these Macs can do at once.
        slots = min(slots, max(len(ends), 1))
        longer = self._longer(model, running, now_s)
        ahead_s = [longer * self._lengths.service_s(model, work) for work in ahead]
        return wait_s(ends, ahead_s, slots, now_s)

    def place_s(self, model: ModelId) -> float:
        """When a full queue will have a place: slots are freed one after the other."""
        slots = max(float(self._fleet.candidates(model)["slots"].sum()), 1.0)
        return retry_after_s(self._lengths.service_s(model) / slots)

    def slots(self, model: ModelId) -> int:
        """Of all Macs that serve this model now."""
        candidates = self._fleet.candidates(model)
        usable = (candidates["standing"] == 0) & (candidates["place"] == 0)
        return int(candidates["slots"][usable].sum())

    def _serving(self, model: ModelId) -> set[MachineId]:
        candidates = self._fleet.candidates(model)
        usable = (candidates["standing"] == 0) & (candidates["place"] == 0)
        return {who.machine for who, able in zip(candidates.who(), usable, strict=True) if able}

    def _ends_s(self, held: Reservation, model: ModelId, now_s: float) -> float:
        """When its slot is expected to be free. What is overdue is not about to end at once."""
        if held.ends_s > now_s:
            return held.ends_s
        usual_s = self._lengths.service_s(held.model or model, held.work or None)
        return now_s + OVERDUE_SHARE * max(now_s - held.granted_s, usual_s)

    def _longer(self, model: ModelId, running: Sequence[Reservation], now_s: float) -> float:
        """How many times as long as expected this model's requests already take, half of them."""
        over = [
            (now_s - held.granted_s) / max(self._lengths.service_s(model, held.work), 1e-3)
            for held in running
            if held.model == model
        ]
        return max(median(over), 1.0) if over else 1.0
