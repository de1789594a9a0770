"""What the router's fleet looks like to everybody: hardware and state, of public Macs only.

Owners may keep a Mac private: it serves like any other and enters no public figure. Which Macs
are private is remembered after they have gone, so that what they did stays out as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.errors import Unavailable
from market.policy.columns import PLACES
from market.routing.dispatcher import Dispatcher
from market.routing.macs import Mac
from market.types import AccountId, Hardware, MachineId, ModelId, ProviderId


@dataclass(frozen=True, slots=True)
class PublicMac:
    """One connected Mac. `machine` and `owner` are private and only serve to add things up.

    `models` are those that serve now, `current` the one that runs most. `decode_tps` is 0 while
    it was not measured.
    """

    machine: MachineId
    owner: AccountId
    provider: ProviderId
    hardware: Hardware
    state: str
    trust: str
    models: tuple[ModelId, ...]
    current: ModelId | None
    decode_tps: float


@dataclass(frozen=True, slots=True)
class PublicFleet:
    """The connected Macs that are public, by public id, and which machines ever are not."""

    macs: tuple[PublicMac, ...]
    private: frozenset[MachineId]


def public_fleet(desk: Dispatcher, now_s: float) -> PublicFleet:
    """Who is connected now. Raises Unavailable just after a restart, when nobody seems to be."""
    if desk.rebuilding(now_s):
        raise Unavailable("The router has just started and waits for its Macs.", None, "starting")
    private = frozenset(desk.macs.private)
    here = [
        mac for mac in desk.macs if mac.health(now_s) != "lost" and mac.beat.machine not in private
    ]
    here.sort(key=lambda mac: mac.beat.provider)
    return PublicFleet(tuple(_public(desk, mac) for mac in here), private)


def _public(desk: Dispatcher, mac: Mac) -> PublicMac:
    beat, fleet = mac.beat, desk.macs.fleet
    ready = PLACES.index("ready")
    models = [
        model
        for model in sorted(fleet.models_of(beat.machine))
        if fleet.place(beat.machine, model, "place") == ready
    ]
    running = {model: fleet.place(beat.machine, model, "running") for model in models}
    busiest = max(models, key=lambda model: running[model], default=None)
    return PublicMac(
        machine=beat.machine,
        owner=beat.owner,
        provider=beat.provider,
        hardware=beat.hardware,
        state=beat.state,
        trust=beat.trust,
        models=tuple(models),
        current=busiest if busiest is not None and running[busiest] > 0 else None,
        decode_tps=beat.stats.decode_tps if beat.stats is not None else 0.0,
    )
