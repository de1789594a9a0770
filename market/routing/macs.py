"""What the router knows of each Mac: its last beat, its health, its drains.

Keeps the fleet's columns true to the beats. A Mac that falls silent is suspect after 3 s
(no new work) and lost after 10 s; a death notice loses it at once. A lost Mac keeps its
place for a while, because most come back, and requests may wait for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from market.metrics import labelled
from market.policy.ask import SUSPECT_AFTER_S
from market.policy.columns import PLACES, STANDINGS
from market.policy.fleet import Fleet
from market.policy.preferences import TRUST
from market.policy.rates import Rates, rates_of
from market.routing.log import Intent
from market.routing.messages import Place, ProviderBeat
from market.routing.sanity import impossible, scrubbed
from market.types import MachineId, ModelId, ProviderId

LOST_AFTER_S = 10.0
"""Ten missed beats."""

FORGET_LOST_S = 30.0
"""A lost Mac is expected back for this long; a provider restarts in a few seconds."""

QUARANTINE_S = 60.0
"""How long after its last impossible reading a Mac gets no work."""

MEASURED_WEIGHT = 0.2
"""Weight of the newest reading in how a Mac's speed compares with its table."""

HAZARD_PRIOR_S = 86_400.0
"""A Mac of which nothing is known is taken to go away once a day."""

PAST_MACS_MAX = 10_000
"""Macs that have gone whose record is kept for when they return."""

_KEEPS_MODELS = ("starting", "failing")
"""States in which a Mac has nothing loaded but will have the same models again."""

_STANDING = {"starting": "starting", "failing": "failing", "stopped": "stopped"}
_LEAVING = ("draining", "drained")
_NO_RATES = Rates((1.0,) * 6, 0.0, 0.0)

Health = Literal["ok", "suspect", "lost"]
Welcome = Literal["outdated", "known", "new", "restarted"]


@dataclass(slots=True)
class Mac:
    """One Mac. `lost_s` is when it was lost, None while it is here.

    `here_s` is how long it has been here in all, `losses` how often it went away.
    """

    beat: ProviderBeat
    last_beat_s: float
    lost_s: float | None = None
    lost_reason: str = ""
    quarantined: str = ""
    quarantined_s: float = 0.0
    here_s: float = 0.0
    losses: int = 0

    def health(self, now_s: float) -> Health:
        if self.lost_s is not None:
            return "lost"
        return "suspect" if now_s - self.last_beat_s > SUSPECT_AFTER_S else "ok"

    def hazard_per_ms(self) -> float:
        """Chance of going away within a millisecond, from how it has been so far."""
        return (self.losses + 1.0) / (self.here_s + HAZARD_PRIOR_S) / 1e3


class Macs:
    """All Macs of one router, with the fleet they make up."""

    def __init__(self, intents: Iterable[Intent] = ()) -> None:
        self.fleet = Fleet()
        self._macs: dict[MachineId, Mac] = {}
        self._known: dict[ProviderId, MachineId] = {}
        self._past: dict[MachineId, tuple[float, int]] = {}
        self.counters: dict[str, float] = {}
        intents = list(intents)
        self._drains = {i.machine: i.reason for i in intents if i.kind == "drain"}
        self.private = {i.machine for i in intents if i.kind == "private"}
        self._unkept_private: list[MachineId] = []

    def __iter__(self) -> Iterator[Mac]:
        return iter(self._macs.values())

    def __len__(self) -> int:
        return len(self._macs)

    def get(self, machine: MachineId) -> Mac | None:
        return self._macs.get(machine)

    def provider_of(self, machine: MachineId | None) -> ProviderId | None:
        """The public id of a Mac."""
        mac = self._macs.get(machine) if machine is not None else None
        return mac.beat.provider if mac is not None else None

    def machine_of(self, provider: ProviderId) -> MachineId | None:
        """The Mac with this public id, if it was ever here."""
        return self._known.get(provider)

    def is_quarantined(self, machine: MachineId) -> bool:
        """Whether it has said something impossible lately."""
        mac = self._macs.get(machine)
        return mac is not None and bool(mac.quarantined)

    def starting(self) -> int:
        """Macs that may turn out to have a model: they are starting or loading."""
        return sum(
            mac.lost_s is None
            and (
                (mac.beat.state == "starting" and not self.fleet.models_of(mac.beat.machine))
                or any(place.state == "loading" for place in mac.beat.places)
            )
            for mac in self._macs.values()
        )

    # ── beats ─────────────────────────────────────────────────────────────────────────

    def beat(self, beat: ProviderBeat, now_s: float) -> Welcome:
        """Take a beat in. `outdated`: a newer incarnation of this Mac is known."""
        machine = beat.machine
        known = self._macs.get(machine)
        if known is not None and beat.incarnation < known.beat.incarnation:
            return "outdated"
        welcome: Welcome = "known"
        if known is None:
            welcome = "new"
            self.fleet.add(machine, beat.provider, beat.owner)
            self.fleet.set(machine, last_grant_s=now_s)
            here_s, losses = self._past.pop(machine, (0.0, 0))
            known = self._macs[machine] = Mac(beat, now_s, here_s=here_s, losses=losses)
            self._known[beat.provider] = machine
        elif beat.incarnation > known.beat.incarnation:
            welcome = "restarted"
            known.losses += known.lost_s is None
            self.fleet.set(machine, failures=0, cooling_until_s=0.0)
        elif known.lost_s is None:
            known.here_s += now_s - known.last_beat_s
        if beat.private != (machine in self.private):
            self.private ^= {machine}  # in place: others look into the same set
            self._unkept_private.append(machine)
        wrong = impossible(beat)
        known.beat = beat if wrong is None else scrubbed(beat)
        known.last_beat_s, known.lost_s = now_s, None
        if wrong is not None:
            known.quarantined, known.quarantined_s = wrong, now_s
            self.fleet.set(machine, standing=STANDINGS.index("quarantined"), last_beat_s=now_s)
            return welcome
        if known.quarantined and now_s - known.quarantined_s >= QUARANTINE_S:
            known.quarantined = ""
        self._observe(known, now_s, known=welcome == "known")
        return welcome

    def take_privacy(self) -> list[tuple[MachineId, bool]]:
        """Macs that have become private (True) or public since the last call."""
        changed, self._unkept_private = self._unkept_private, []
        return [(machine, machine in self.private) for machine in changed]

    def still_here(self, machines: Sequence[MachineId], now_s: float) -> None:
        """Known Macs that are as they were."""
        for machine in machines:
            mac = self._macs[machine]
            mac.here_s += now_s - mac.last_beat_s
            mac.last_beat_s = now_s
        self.fleet.touch(machines, now_s)

    def _observe(self, mac: Mac, now_s: float, *, known: bool) -> None:
        beat, machine = mac.beat, mac.beat.machine
        stats = beat.stats
        self.fleet.own(machine, beat.provider, beat.owner)
        self.fleet.set(
            machine,
            standing=self._standing(mac),
            last_beat_s=now_s,
            slots=stats.slots if stats is not None else 0,
            reported=stats.running + stats.waiting if stats is not None else 0,
            memory_bytes=beat.memory_bytes or (stats.memory_bytes_budget if stats else 0),
            ask_pct=beat.ask_pct,
            trust=TRUST.index(beat.trust),
            hazard_per_ms=mac.hazard_per_ms(),
        )
        self._set_places(beat, counted=known)

    def _set_places(self, beat: ProviderBeat, *, counted: bool) -> None:
        machine = beat.machine
        places = beat.places or tuple(
            Place(facts.model, "ready", "", 0.0, facts, beat.stats) for facts in beat.models
        )
        if not places and beat.state in _KEEPS_MODELS:
            return
        for model in self.fleet.models_of(machine):
            if all(place.model != model for place in places):
                if self._place_state(machine, model) in ("ready", "leaving"):
                    self._count("unloads", model)
                self.fleet.drop_place(machine, model)
        for place in places:
            if counted:
                self._count_load(machine, place)
            self._set_place(beat, place, alone=len(places) == 1)

    def _count_load(self, machine: MachineId, place: Place) -> None:
        """A model that has become ready or failed since the last beat."""
        before = self._place_state(machine, place.model)
        if place.state == "ready" and before not in ("ready", "leaving"):
            self._count("loads", place.model)
        elif place.state == "failed" and before != "failed":
            self._count("load_failures", place.model)

    def _place_state(self, machine: MachineId, model: ModelId) -> str | None:
        if model not in self.fleet.models_of(machine):
            return None
        return PLACES[int(self.fleet.place(machine, model, "place"))]

    def _count(self, name: str, model: ModelId) -> None:
        key = labelled(name, model=model)
        self.counters[key] = self.counters.get(key, 0.0) + 1.0

    def _set_place(self, beat: ProviderBeat, place: Place, *, alone: bool) -> None:
        facts = place.facts
        rates = rates_of(beat.hardware, facts) if facts is not None else _NO_RATES
        state = PLACES.index(place.state)
        self.fleet.set_place(beat.machine, place.model, state, rates, facts)
        stats = place.stats or (beat.stats if alone else None)
        if stats is not None and facts is not None:
            self._measure(beat.machine, place.model, stats.running, stats.decode_tps, rates)
            if stats.prefill_tps > 0:
                self._scale(
                    beat.machine,
                    place.model,
                    "scale_prefill",
                    1e3 / stats.prefill_tps / max(rates.prefill_ms, 1e-9),
                )

    def _measure(
        self, machine: MachineId, model: ModelId, running: int, decode_tps: float, rates: Rates
    ) -> None:
        """What a Mac says its batch decodes, over what the table has for such a batch."""
        if running < 1 or decode_tps <= 0:
            return
        context = self.fleet.place(machine, model, "context_sum")
        tabled_ms = rates.step_ms(running) + rates.kv_ms * context
        self._scale(machine, model, "scale_step", 1e3 * running / decode_tps / tabled_ms)

    def _scale(self, machine: MachineId, model: ModelId, column: str, measured: float) -> None:
        before = self.fleet.place(machine, model, column)
        # Exactly 1 is a table that nothing was measured against yet.
        value = measured if before == 1.0 else before + MEASURED_WEIGHT * (measured - before)
        self.fleet.write_place(machine, model, {column: value})

    def _standing(self, mac: Mac) -> int:
        """The worst thing that is the matter with it as a whole."""
        beat = mac.beat
        if mac.lost_s is not None:
            return STANDINGS.index("lost")
        if mac.quarantined:
            return STANDINGS.index("quarantined")
        if beat.machine in self._drains or beat.state in _LEAVING:
            return STANDINGS.index("draining")
        return STANDINGS.index(_STANDING.get(beat.state, "ok"))

    # ── loss ──────────────────────────────────────────────────────────────────────────

    def lose(self, machine: MachineId, reason: str, now_s: float) -> bool:
        """Take a Mac as gone; False when that was known, or the Mac never was."""
        mac = self._macs.get(machine)
        if mac is None or mac.lost_s is not None:
            return False
        mac.lost_s, mac.lost_reason = now_s, reason
        mac.losses += 1
        self.fleet.set(machine, standing=self._standing(mac))
        return True

    def overdue(self, now_s: float) -> list[MachineId]:
        """Macs to be lost for their silence."""
        return [
            machine
            for machine, mac in self._macs.items()
            if mac.lost_s is None and now_s - mac.last_beat_s > LOST_AFTER_S
        ]

    def forget_lost(self, now_s: float) -> list[MachineId]:
        """Drop Macs that did not come back; one that said it stopped is not waited for."""
        gone = [
            machine
            for machine, mac in self._macs.items()
            if mac.lost_s is not None
            and (mac.beat.state == "stopped" or now_s - mac.lost_s > FORGET_LOST_S)
        ]
        for machine in gone:
            mac = self._macs.pop(machine)
            self._past[machine] = (mac.here_s, mac.losses)
            self.fleet.remove(machine)
        while len(self._past) > PAST_MACS_MAX:
            del self._past[next(iter(self._past))]
        return gone

    # ── drains ────────────────────────────────────────────────────────────────────────

    def set_drain(self, machine: MachineId, reason: str | None) -> None:
        """Give or, with None, take back the order to drain; a Mac not here yet gets it later."""
        if reason is None:
            self._drains.pop(machine, None)
        else:
            self._drains[machine] = reason
        mac = self._macs.get(machine)
        if mac is not None:
            self.fleet.set(machine, standing=self._standing(mac))

    def drain_reason(self, machine: MachineId) -> str | None:
        return self._drains.get(machine)

    def drains(self) -> dict[MachineId, str]:
        return dict(self._drains)
