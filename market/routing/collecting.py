"""Keeping a Mac free for a request of several choices, which narrower ones would overtake."""

from __future__ import annotations

from market.policy.decision import Decision
from market.policy.fleet import Fleet
from market.routing.fair_queue import Waiting
from market.types import MachineId, RequestId

PATIENCE_S = 2.0
"""A request of several choices overtaken for this long gets a Mac kept free for it."""


class Collecting:
    """Which Mac collects free slots for which waiting request."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._for: dict[MachineId, RequestId] = {}

    def keep_free_for(self, entry: Waiting, decision: Decision, now_s: float) -> bool:
        """After some patience, let no one overtake this request any more; True if so now."""
        if entry.request.n == 1:
            return False
        if entry.passed_over_s is None:
            entry.passed_over_s = now_s
        if now_s - entry.passed_over_s < PATIENCE_S:
            return False
        machine = decision.nearest_to_free()
        if machine is None:
            return False
        self._for[machine] = entry.request.request_id
        self._fleet.set(machine, collecting=1.0)
        return True

    def stop(self, machine: MachineId) -> None:
        """Let everyone have the Mac's slots again."""
        if self._for.pop(machine, None) is not None and machine in self._fleet:
            self._fleet.set(machine, collecting=0.0)

    def stop_for(self, request_id: RequestId) -> None:
        machine = self.machine_for(request_id)
        if machine is not None:
            self.stop(machine)

    def machine_for(self, request_id: RequestId) -> MachineId | None:
        """The Mac that is kept free for this request."""
        if not self._for:
            return None
        return next((m for m, rid in self._for.items() if rid == request_id), None)
