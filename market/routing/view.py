"""The router's state as its readers see it: availability and status.

Reading only, and JSON-able; ages are in seconds, unknown is null rather than zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from market.policy.ask import SUSPECT_AFTER_S
from market.policy.columns import STANDINGS
from market.routing.dispatcher import Dispatcher
from market.routing.gateways import GATEWAY_SUSPECT_AFTER_S
from market.routing.macs import Mac
from market.routing.messages import ModelAvailability
from market.routing.stories import standing_of
from market.verdicts import judge


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


def status(desk: Dispatcher, now_s: float) -> dict[str, Any]:
    """Macs, gateways, queues and drains."""
    return {
        "fleet_version": desk.macs.fleet.version,
        "rebuilding": desk.rebuilding(now_s),
        "reservations": len(desk.reservations),
        "macs": [_mac(desk, mac, now_s) for mac in desk.macs],
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


def _mac(desk: Dispatcher, mac: Mac, now_s: float) -> dict[str, Any]:
    beat = mac.beat
    fleet = desk.macs.fleet
    stats = beat.stats
    verdict = judge(standing_of(desk, mac, now_s))
    return {
        "verdict": verdict.word,
        "verdict_reason": verdict.reason,
        "fix": verdict.fix,
        "machine": beat.machine,
        "provider": beat.provider,
        "owner": beat.owner,
        "incarnation": beat.incarnation,
        "pid": beat.pid,
        "node": beat.node,
        "endpoint": f"{beat.endpoint.host}:{beat.endpoint.port}",
        "chip": beat.hardware.chip,
        "memory_gb": beat.hardware.memory_gb,
        "state": beat.state,
        "reason": mac.lost_reason if mac.lost_s is not None else beat.reason,
        "health": mac.health(now_s),
        "quarantined": mac.quarantined,
        "last_beat_age_s": round(now_s - mac.last_beat_s, 3),
        "drain": desk.macs.drain_reason(beat.machine),
        "models": fleet.models_of(beat.machine),
        "slots": int(fleet.get(beat.machine, "slots")),
        "in_flight": int(fleet.get(beat.machine, "in_flight")),
        "running": stats.running if stats is not None else None,
        "decode_tps": stats.decode_tps if stats is not None else None,
        "completion_tokens": stats.completion_tokens if stats is not None else None,
        "fail_rate": round(fleet.get(beat.machine, "fail_rate"), 4),
        "cooling_down_s": round(max(fleet.get(beat.machine, "cooling_until_s") - now_s, 0.0), 3),
        "code_version": beat.code_version,
        "uptime_s": round(beat.uptime_s, 3),
    }
