"""What can be asked of the router's mind: how things stand, who a Mac is, why something was so.

Reading only; `market.routing.state` is the part that changes. Answers are JSON-able data.
"""

from __future__ import annotations

from typing import Any

from market.policy.decision import Decision
from market.policy.registry import Policy, policy_named
from market.routing.dispatcher import Dispatcher
from market.routing.fleet_view import fleet, one_mac
from market.routing.learning import Calibration
from market.routing.messages import ModelAvailability
from market.routing.metrics import mac_metrics, metrics
from market.routing.placing import Placing
from market.routing.public import PublicFleet, public_fleet
from market.routing.roster import KnownMac, Roster
from market.routing.stories import away_story, machine_story, queue_story, story_of
from market.routing.view import availability, models, status
from market.types import MachineId, ProviderId, RequestId

PRESENT = "present"
"""In place of a policy's name: the one in use."""


class Readings:
    """The questions. The state that answers them is somebody else's to change."""

    def __init__(self, desk: Dispatcher, roster: Roster) -> None:
        self._desk = desk
        self.roster = roster

    @property
    def placing(self) -> Placing:
        """Pins, plans and what the planner has to say."""
        return self._desk.placing

    def find_mac(self, text: str) -> KnownMac:
        """The Mac that this name or id means: here, away, or only drained or pinned.

        Raises NotFound or InvalidRequest, naming what there is.
        """
        here = {mac.beat.machine for mac in self._desk.macs}
        intended = set(self._desk.macs.drains()) | self.placing.pinned
        return self.roster.find(text, here, intended)

    def availability(self, now_s: float) -> list[ModelAvailability]:
        """How each model stands, for the public list of models."""
        return availability(self._desk, now_s)

    def decision_of(self, request_id: RequestId) -> Decision | None:
        """The newest decision of a recent request."""
        return self._desk.recent.find(request_id)

    def story(self, request_id: RequestId) -> dict[str, Any] | None:
        """The newest decision of a recent request: every candidate, and what would have helped."""
        decision = self._desk.recent.find(request_id)
        return story_of(decision) if decision is not None else None

    def machine_story(self, machine: MachineId, now_s: float) -> dict[str, Any] | None:
        """How a Mac stands and why; None when there is none of this id."""
        return machine_story(self._desk, machine, now_s)

    def mac_story(self, known: KnownMac, now_s: float) -> dict[str, Any]:
        """The same of a Mac of the roster, also while it is away."""
        story = machine_story(self._desk, known.machine, now_s)
        return story if story is not None else away_story(self._desk, known, now_s)

    def machine_of(self, provider: str) -> MachineId | None:
        """The Mac with this public id."""
        return self._desk.macs.machine_of(ProviderId(provider))

    def queue_story(self, now_s: float) -> list[dict[str, Any]]:
        """Who waits for which model, in order."""
        return queue_story(self._desk, now_s)

    def models(self, now_s: float) -> list[dict[str, Any]]:
        """How each model stands, and how many copies of it there should be."""
        return models(self._desk, now_s)

    def calibration(self) -> dict[str, dict[str, object]]:
        """How predicted times compare with what was, by model: to the first token, and whole."""
        firsts, totals = self._desk.learning.calibration, self._desk.learning.totals
        unknown = Calibration()
        return {
            model: {
                **firsts.get(model, unknown).as_json(),
                "total": totals.get(model, unknown).as_json(),
            }
            for model in sorted(firsts.keys() | totals.keys())
        }

    @property
    def policy(self) -> str:
        """The name of the policy that requests are routed by."""
        return self._desk.asker.policy.name

    def policy_called(self, name: str) -> Policy:
        """A policy by name, or the one in use for `PRESENT`. Raises InvalidRequest."""
        return self._desk.asker.policy if name == PRESENT else policy_named(name)

    def mac_of_fleet(self, machine: MachineId, now_s: float) -> dict[str, Any]:
        """One Mac as it stands in the fleet, here or away; `only_here` are models that no other
        Mac which takes work has ready, `no_room` those of them that none would load.
        """
        return one_mac(self._desk, self.roster, machine, now_s)

    def fleet(self, now_s: float) -> dict[str, Any]:
        """Every Mac, here or away, the ones that need attention first."""
        return fleet(self._desk, self.roster, now_s)

    def status(self, now_s: float) -> dict[str, Any]:
        """Everything an operator may want to see, as JSON-able data."""
        return status(self._desk, now_s)

    def public_fleet(self, now_s: float) -> PublicFleet:
        """The connected Macs that are public."""
        return public_fleet(self._desk, now_s)

    def metrics(self, now_s: float, *, macs: bool = False) -> dict[str, float]:
        """The gateways' counters added up, the router's own, and with `macs` those of Macs."""
        values = metrics(self._desk, now_s)
        return values | mac_metrics(self._desk, now_s) if macs else values
