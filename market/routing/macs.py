"""What the router knows of each Mac: its last beat, its health, its drains, its failures.

Keeps the fleet's columns true to the beats. A Mac that falls silent is suspect after 3 s
(no new work) and lost after 10 s; a death notice loses it at once. A lost Mac keeps its
place for a while, because most come back, and requests may wait for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from market.policy.ask import SUSPECT_AFTER_S
from market.policy.fleet import LOST, STATE_CODE, Fleet
from market.routing.log import Intent
from market.routing.messages import Outcome, ProviderBeat
from market.types import MachineId, ProviderId

LOST_AFTER_S = 10.0
"""Ten missed beats."""

FORGET_LOST_S = 30.0
"""A lost Mac is expected back for this long; a provider restarts in a few seconds."""

BREAKER_FAILURES = 3
BREAKER_FIRST_S = 5.0
BREAKER_MAX_S = 15.0
"""Failures in a row that start a cool-down, its first length, and its longest (it doubles)."""

FAILURE_WEIGHT = 0.1
"""Weight of the newest outcome in a Mac's failure rate: about the last 20 count."""

_KEEPS_MODELS = ("starting", "failing")
"""States in which a Mac has nothing loaded but will have the same models again."""

Health = Literal["ok", "suspect", "lost"]
Welcome = Literal["outdated", "known", "new", "restarted"]


@dataclass(slots=True)
class Mac:
    """One Mac. `lost_s` is when it was lost, None while it is here."""

    beat: ProviderBeat
    last_beat_s: float
    lost_s: float | None = None
    lost_reason: str = ""

    def health(self, now_s: float) -> Health:
        if self.lost_s is not None:
            return "lost"
        return "suspect" if now_s - self.last_beat_s > SUSPECT_AFTER_S else "ok"


class Macs:
    """All Macs of one router, with the fleet they make up."""

    def __init__(self, intents: Iterable[Intent] = ()) -> None:
        self.fleet = Fleet()
        self._macs: dict[MachineId, Mac] = {}
        self._drains = {i.machine: i.reason for i in intents if i.kind == "drain"}

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

    def starting_without_models(self) -> int:
        """Macs whose models are not known yet."""
        return sum(
            mac.beat.state == "starting" and not self.fleet.models_of(mac.beat.machine)
            for mac in self._macs.values()
        )

    def beat(self, beat: ProviderBeat, now_s: float) -> Welcome:
        """Take a beat in. `outdated`: a newer incarnation of this Mac is known."""
        machine = beat.machine
        known = self._macs.get(machine)
        if known is not None and beat.incarnation < known.beat.incarnation:
            return "outdated"
        welcome: Welcome = "known"
        if known is None:
            welcome = "new"
            self.fleet.add(machine)
        elif beat.incarnation > known.beat.incarnation:
            welcome = "restarted"
            self.fleet.set(machine, failures=0, cooling_until_s=0.0)
        self._macs[machine] = Mac(beat, now_s)
        self.fleet.set(
            machine,
            state=STATE_CODE[beat.state],
            last_beat_s=now_s,
            draining=machine in self._drains,
        )
        self.fleet.observe(machine, beat.hardware, beat.stats)
        if beat.models or beat.state not in _KEEPS_MODELS:
            self.fleet.set_models(machine, beat.models)
        return welcome

    def lose(self, machine: MachineId, reason: str, now_s: float) -> bool:
        """Take a Mac as gone; False when that was known, or the Mac never was."""
        mac = self._macs.get(machine)
        if mac is None or mac.lost_s is not None:
            return False
        mac.lost_s, mac.lost_reason = now_s, reason
        self.fleet.set(machine, state=LOST)
        return True

    def overdue(self, now_s: float) -> list[MachineId]:
        """Macs to be lost for their silence."""
        return [
            machine
            for machine, mac in self._macs.items()
            if mac.lost_s is None and now_s - mac.last_beat_s > LOST_AFTER_S
        ]

    def forget_lost(self, now_s: float) -> None:
        """Drop Macs that did not come back; one that said it stopped is not waited for."""
        gone = [
            machine
            for machine, mac in self._macs.items()
            if mac.lost_s is not None
            and (mac.beat.state == "stopped" or now_s - mac.lost_s > FORGET_LOST_S)
        ]
        for machine in gone:
            del self._macs[machine]
            self.fleet.remove(machine)

    def set_drain(self, machine: MachineId, reason: str | None) -> None:
        """Give or, with None, take back the order to drain; a Mac not here yet gets it later."""
        if reason is None:
            self._drains.pop(machine, None)
        else:
            self._drains[machine] = reason
        if machine in self.fleet:
            self.fleet.set(machine, draining=reason is not None)

    def drain_reason(self, machine: MachineId) -> str | None:
        return self._drains.get(machine)

    def drains(self) -> dict[MachineId, str]:
        return dict(self._drains)

    def learn(self, outcome: Outcome, now_s: float) -> None:
        """Adjust the failure rate and the breaker; only the Mac's own faults count."""
        machine = outcome.machine
        if machine not in self.fleet or outcome.result not in ("ok", "failed"):
            return
        failed = outcome.result == "failed"
        rate = self.fleet.get(machine, "fail_rate")
        rate += FAILURE_WEIGHT * (float(failed) - rate)
        if not failed:
            self.fleet.set(machine, fail_rate=rate, failures=0, cooling_until_s=0.0)
            return
        failures = int(self.fleet.get(machine, "failures")) + 1
        self.fleet.set(machine, fail_rate=rate, failures=failures)
        if failures >= BREAKER_FAILURES:
            doublings = min(failures - BREAKER_FAILURES, 8)
            pause_s = min(BREAKER_FIRST_S * 2**doublings, BREAKER_MAX_S)
            self.fleet.set(machine, cooling_until_s=now_s + pause_s)
