"""The router's state as its readers see it: availability and status.

Reading only, and JSON-able; ages are in seconds, unknown is null rather than zero.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from market.policy.ask import SUSPECT_AFTER_S
from market.policy.columns import STANDINGS
from market.routing.dispatcher import Dispatcher
from market.routing.fleet_view import mac_entry
from market.routing.gateways import GATEWAY_SUSPECT_AFTER_S
from market.routing.messages import ModelAvailability
from market.routing.names import clean
from market.types import ModelId


def availability(desk: Dispatcher, now_s: float) -> list[ModelAvailability]:
    """Per model: Macs that have it, those that take work, and their free slots."""
    result = []
    for model in sorted(set(desk.macs.fleet.models) | set(desk.queues)):
        seen = desk.macs.fleet.candidates(model)
        here = seen["standing"] != STANDINGS.index("lost")
        ready = (
            (seen["standing"] == 0)
            & (seen["place"] == 0)
            & (now_s - seen["last_beat_s"] <= SUSPECT_AFTER_S)
        )
        free = np.maximum(seen["slots"] - seen["in_flight"], 0)
        queue = desk.queues.get(model)
        result.append(
            ModelAvailability(
                model=model,
                providers=int(np.count_nonzero(here)),
                ready=int(np.count_nonzero(ready)),
                free_slots=int(free[ready].sum()),
                queued=len(queue) if queue is not None else 0,
            )
        )
    return result


def models(desk: Dispatcher, now_s: float) -> list[dict[str, Any]]:
    """Per model, those on offer that no Mac has too: copies that there should be (null where
    nobody decides that), those there are by their state, and why others are missing.
    """
    able = {state.model: state for state in availability(desk, now_s)}
    desired = desk.placing.desired()
    refused: dict[ModelId, list[dict[str, Any]]] = {}
    for refusal in desk.placing.refusals():
        mac = desk.macs.get(refusal.machine) if refusal.machine is not None else None
        told = {"name": clean(mac.beat.name) if mac is not None else "", "why": refusal.words}
        refused.setdefault(refusal.model, []).append({"machine": refusal.machine, **told})
    return [
        {
            **asdict(able.get(model) or ModelAvailability(model, 0, 0, 0, 0)),
            "desired": None if desired is None else desired.get(model, 0),
            **_copies(desk, model),
            "refused": refused.get(model, []),
        }
        for model in sorted({*able, *desk.placing.offered})
    ]


def _copies(desk: Dispatcher, model: ModelId) -> dict[str, Any]:
    """Macs that load it, give it up or cannot load it; Macs that are away have none."""
    states: list[str] = []
    failed = []
    for mac in desk.macs:
        if mac.lost_s is not None:
            continue
        for place in mac.beat.places:
            if place.model != model:
                continue
            states.append(place.state)
            if place.state == "failed":
                who = {"name": clean(mac.beat.name), "provider": mac.beat.provider}
                failed.append({**who, "machine": mac.beat.machine, "reason": place.reason})
    return {
        "loading": states.count("loading"),
        "leaving": states.count("leaving"),
        "failed": failed,
    }


def status(desk: Dispatcher, now_s: float) -> dict[str, Any]:
    """Macs, gateways, queues and drains."""
    return {
        "fleet_version": desk.macs.fleet.version,
        "rebuilding": desk.rebuilding(now_s),
        "reservations": len(desk.reservations),
        "macs": [mac_entry(desk, mac, now_s) for mac in desk.macs],
        "gateways": [
            {
                "gateway": gateway.gateway,
                "pid": gateway.pid,
                "node": gateway.node,
                "last_heard_age_s": round(now_s - gateway.last_heard_s, 3),
                "suspect": now_s - gateway.last_heard_s > GATEWAY_SUSPECT_AFTER_S,
                "running": len(desk.reservations.of_gateway(gateway.gateway)),
                "undelivered": len(gateway.mail),
            }
            for gateway in desk.gateways.all()
        ],
        "policy": desk.asker.policy.name,
        "queues": {model: len(queue) for model, queue in sorted(desk.queues.items())},
        "drains": dict(desk.macs.drains()),
    }
