"""What the planner is shown of the router's fleet, and what the router is told of its plans.

The planner decides where models live (`market.placement`); here its view is made once a second
from the Macs' beats and the queues, and its answers become the orders in the replies to beats,
and the answer to a request for a model that no Mac has: wait, or how soon to come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from market.errors import InvalidRequest
from market.placement.case import Case, Refusal
from market.placement.plan import Answer, Plan
from market.placement.planner import Planner
from market.placement.view import FleetView, MacView, ModelView, Pin, Standing, mac_of_beat
from market.placement.work import cost_tokens
from market.policy.ask import SUSPECT_AFTER_S
from market.routing.fair_queue import FairQueue
from market.routing.log import Intent
from market.routing.macs import Mac, Macs
from market.routing.messages import ProviderBeat, RouteRequest
from market.settings import PlacementSettings
from market.types import MachineId, ModelId, ModelSize

QUIET_LOOK_S = 5.0
"""While nobody waits and no Mac changes, the planner is shown the fleet only so often."""

TURNED_AWAY_MAX = 1024
"""Refused requests remembered as demand that waits, the newest; as many as a queue holds."""


class Placing:
    """The planner as the router's Macs, queues and requests see it. Call it from one thread."""

    def __init__(
        self,
        settings: PlacementSettings,
        sizes: Sequence[ModelSize],
        begins_s: float,
        *,
        expected_macs: int = 0,
        intents: Iterable[Intent] = (),
    ) -> None:
        """No plan is made before `begins_s`, or the first beat of that many Macs, nor before the
        models on offer are known.
        """
        self.planner = Planner(settings, begins_s)
        self._enabled = settings.enabled
        self._sizes: dict[ModelId, ModelSize] = {}
        self.offer(sizes)
        self._expected = expected_macs
        self._pins = {Pin(i.machine, i.model): i.reason for i in intents if i.kind == "pin"}
        self._turned_away: deque[tuple[float, ModelId, float]] = deque(maxlen=TURNED_AWAY_MAX)
        self._ready: dict[ModelId, float | None] = {}
        self._seen: tuple[object, ...] = ()
        self._looked_s = float("-inf")

    @property
    def enabled(self) -> bool:
        return self._enabled and bool(self._sizes)

    def offer(self, sizes: Sequence[ModelSize]) -> None:
        """The models that the market offers, and what each needs of a Mac."""
        self._sizes = {size.model: size for size in sizes}

    @property
    def offered(self) -> tuple[ModelId, ...]:
        """In the market's order."""
        return tuple(self._sizes)

    # ── requests ──────────────────────────────────────────────────────────────────────

    def asked(self, request: RouteRequest, expected_tokens: float, now_s: float) -> None:
        """A request came: demand for its model."""
        if request.model in self._sizes:
            tokens = expected_tokens * request.n
            self.planner.arrived(request.model, request.prompt_tokens, tokens, now_s)

    def turned_away(self, request: RouteRequest, expected_tokens: float, now_s: float) -> None:
        """It was refused because no Mac has its model: it counts as waiting as long as it would
        have waited, or nothing would ever be loaded that takes longer than a request's patience.
        """
        work = cost_tokens(request.prompt_tokens, expected_tokens * request.n)
        self._turned_away.append((now_s + request.deadline_s, request.model, work))

    def ready_in_s(self, model: ModelId, now_s: float) -> float | None:
        """Seconds until some Mac will have it; None when none can."""
        if not self.enabled or model not in self._sizes:
            return None
        if model not in self._ready:
            self._ready[model] = self.planner.ready_in_s(model, now_s)
        return self._ready[model]

    # ── Macs ──────────────────────────────────────────────────────────────────────────

    def orders(self, beat: ProviderBeat) -> tuple[ModelId, ...] | None:
        """The models this Mac should have; None leaves that to it."""
        if not self.enabled:
            return None
        has = tuple(p.model for p in beat.places if p.state in ("ready", "loading"))
        return self.planner.orders(beat.machine, has)

    def pin(self, machine: MachineId, model: ModelId, reason: str) -> None:
        """Keep a model on a Mac; raises InvalidRequest for one that is not on offer."""
        self._check_offered(model)
        self._pins[Pin(machine, model)] = reason

    def _check_offered(self, model: ModelId) -> None:
        if model not in self._sizes:
            known = ", ".join(self._sizes) or "nothing yet: sizes are still being counted"
            raise InvalidRequest(
                f"The market does not offer {model[:120]!r}; it offers {known}.",
                "model",
                "unknown_model",
            )

    def outlook(
        self,
        machine: MachineId,
        called: str,
        model: ModelId,
        now_s: float,
        *,
        drained: bool = False,
    ) -> str:
        """What will become of a pin, in words. Raises InvalidRequest, with the arithmetic, for one
        that this Mac, `called` so, can never carry out, and for a model that is not on offer.
        """
        self._check_offered(model)
        if not self._enabled:
            raise InvalidRequest(
                "This market does not place models (placement.enabled is off), so nothing can be "
                "pinned.",
                None,
                "placement_off",
            )
        found = self.planner.outlook(Pin(machine, model), now_s, drained=drained)
        if not found.possible:
            raise InvalidRequest(
                f"{model} cannot be pinned to {called}: {found.words}.", "model", "pin_impossible"
            )
        return found.words

    def unpin(self, machine: MachineId, model: ModelId) -> None:
        self._pins.pop(Pin(machine, model), None)

    def pins_of(self, machine: MachineId) -> dict[ModelId, str]:
        """The models that are pinned to a Mac, and why."""
        return {pin.model: why for pin, why in self._pins.items() if pin.machine == machine}

    @property
    def pinned(self) -> set[MachineId]:
        """Macs that a pin names."""
        return {pin.machine for pin in self._pins}

    # ── plans ─────────────────────────────────────────────────────────────────────────

    def look(self, macs: Macs, queues: Iterable[FairQueue], now_s: float) -> None:
        """Show the planner the fleet and who waits; once a second."""
        if not self.enabled:
            return
        self._ready.clear()
        while self._turned_away and self._turned_away[0][0] <= now_s:
            self._turned_away.popleft()
        waiting = _waiting(queues, self._turned_away)
        if 0 < self._expected <= sum(mac.lost_s is None for mac in macs):
            self.planner.begin(now_s)
        standing = [_standing(macs, mac, now_s) for mac in macs]
        seen = (tuple(self._pins), *map(_what_counts, macs, standing))
        quiet = not waiting and seen == self._seen and not self.planner.due(now_s)
        if quiet and now_s - self._looked_s < QUIET_LOOK_S:
            return
        self._seen, self._looked_s = seen, now_s
        view = FleetView(
            macs=tuple(_mac_view(macs, *pair) for pair in zip(macs, standing, strict=True)),
            models=tuple(
                ModelView(size, *waiting.get(model, (0, 0.0)))
                for model, size in self._sizes.items()
            ),
            pins=tuple(self._pins),
        )
        self.planner.observe(view, now_s)

    def case(self, now_s: float) -> Case | None:
        """What is to be worked out now, if anything is."""
        if not self.enabled or not self.planner.due(now_s):
            return None
        return self.planner.case(now_s)

    def adopt(self, answer: Answer, now_s: float) -> Plan | None:
        """Order what was worked out."""
        self._ready.clear()
        return self.planner.adopt(answer, now_s)

    def abandon(self, why: str) -> None:
        """It could not be worked out; orders stay as they are."""
        self.planner.abandon(why)

    def mac_as_json(self, machine: MachineId, now_s: float) -> dict[str, Any] | None:
        """Why this Mac has the models it has; None where nobody places any."""
        return self.planner.mac_as_json(machine, now_s) if self.enabled else None

    def desired(self) -> dict[ModelId, int] | None:
        """Copies of each model that there should be; None where nobody has decided yet."""
        return self.planner.desired() if self.enabled else None

    def refusals(self) -> list[Refusal]:
        """What the latest plan could not do, and why."""
        last = self.planner.last
        return list(last.refused) if self.enabled and last is not None else []

    def as_json(self, now_s: float) -> dict[str, Any]:
        """What lives where and why, and what would be moved next."""
        pins = [
            {"machine": pin.machine, "model": pin.model, "reason": reason}
            for pin, reason in self._pins.items()
        ]
        return {**self.planner.as_json(now_s), "pins": pins}


def _waiting(
    queues: Iterable[FairQueue], turned_away: Iterable[tuple[float, ModelId, float]]
) -> dict[ModelId, tuple[int, float]]:
    """Requests and cost tokens that wait, by model. A request for certain Macs is left out: more
    copies would not help it.
    """
    found: dict[ModelId, tuple[int, float]] = {}
    every = [
        (queue.model, entry.cost)
        for queue in queues
        for entry in queue.in_order()
        if not (entry.request.preferences.only or entry.request.preferences.own)
    ]
    every += [(model, work) for _, model, work in turned_away]
    for model, work in every:
        count, sum_ = found.get(model, (0, 0.0))
        found[model] = (count + 1, sum_ + work)
    return found


def _what_counts(mac: Mac, standing: Standing) -> object:
    """Equal as long as nothing has changed that a plan would be made for."""
    beat = mac.beat
    places = tuple((place.model, place.state) for place in beat.places)
    return beat.machine, standing, places, beat.memory_bytes, beat.allowed


def _mac_view(macs: Macs, mac: Mac, standing: Standing) -> MacView:
    beat, fleet = mac.beat, macs.fleet
    slowness = []
    for model in fleet.models_of(beat.machine):
        scale = fleet.place(beat.machine, model, "scale_step")
        bias = fleet.place(beat.machine, model, "bias_step")
        if scale != 1.0 or bias != 1.0:
            slowness.append((model, scale * bias))
    return mac_of_beat(
        beat,
        standing,
        allowed=beat.allowed or None,
        slowness=tuple(slowness),
    )


def _standing(macs: Macs, mac: Mac, now_s: float) -> Standing:
    """Whether it may be given new models."""
    if mac.lost_s is not None or macs.drain_reason(mac.beat.machine) is not None:
        return "away"
    if mac.beat.state in ("draining", "drained", "stopped") or mac.quarantined:
        return "away"  # it serves nobody, so what it has is replaced elsewhere
    if now_s - mac.last_beat_s > SUSPECT_AFTER_S:
        return "held"
    return "open"
