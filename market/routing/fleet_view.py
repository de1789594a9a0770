"""Every Mac as its operator sees it: what it is, how it stands, what it has and does.

Reading only, and JSON-able; ages are in seconds, unknown is null rather than zero. Macs that are
away are there too: an operator misses them, routing does not.
"""

from __future__ import annotations

from typing import Any

from market.policy.columns import PLACES
from market.routing.dispatcher import Dispatcher
from market.routing.macs import Mac
from market.routing.names import clean, natural
from market.routing.roster import KnownMac, Roster
from market.routing.stories import standing_of
from market.types import MachineId, ModelId, ProviderId
from market.verdicts import Standing, Verdict, judge, urgency

WORDS = ("EARNING", "REDUCED", "NOT EARNING", "OFFLINE")
"""The order in which the sums of a fleet are told."""


def fleet(desk: Dispatcher, roster: Roster, now_s: float) -> dict[str, Any]:
    """All Macs, those that need somebody's attention first, and the sums of the whole."""
    here = {mac.beat.machine for mac in desk.macs}
    macs = [mac_entry(desk, mac, now_s) for mac in desk.macs]
    macs += [away_entry(desk, known, now_s) for known in roster.missed(here)]
    for entry in macs:
        known = roster.get(entry["machine"])
        entry["declared"] = known is not None and known.declared
    macs.sort(
        key=lambda mac: (
            urgency(mac["attention"], mac["verdict"]),
            mac["verdict_reason"] if mac["fix"] else "",  # what ails several alike, together
            natural(mac["name"]),
            mac["machine"],
        )
    )
    words = [mac["verdict"] for mac in macs]
    working = [mac for mac in macs if mac["running"] and mac["health"] == "ok"]
    return {
        "macs": macs,
        "declared": sum(mac["declared"] for mac in macs),
        "here": sum(mac["health"] != "lost" for mac in macs),
        "verdicts": {word: words.count(word) for word in WORDS if word in words},
        "attention_needed": sum(mac["attention"] == "needed" for mac in macs),
        "slots": sum(mac["slots"] or 0 for mac in macs if mac["health"] == "ok"),
        "in_flight": sum(mac["in_flight"] for mac in macs),
        "decode_tps": round(sum(m["decode_tps"] for m in working if not m["quarantined"]), 1),
        "waiting": sum(len(queue) for queue in desk.queues.values()),
        "rebuilding": desk.rebuilding(now_s),
    }


def one_mac(desk: Dispatcher, roster: Roster, machine: MachineId, now_s: float) -> dict[str, Any]:
    """One Mac, here or away, and which models nobody else has who takes work."""
    mac, known = desk.macs.get(machine), roster.get(machine)
    entry = (
        mac_entry(desk, mac, now_s)
        if mac is not None
        else away_entry(desk, known or KnownMac(machine, ProviderId("")), now_s)
    )
    elsewhere = {
        facts.model
        for other in desk.macs
        if other.beat.machine != machine
        and other.health(now_s) == "ok"
        and other.beat.state == "ready"
        and desk.macs.drain_reason(other.beat.machine) is None
        for facts in other.beat.models
    }
    ready = [place["model"] for place in entry["places"] if place["state"] == "ready"]
    entry["only_here"] = [model for model in ready if model not in elsewhere]
    entry["no_room"] = [
        model for model in entry["only_here"] if desk.placing.ready_in_s(model, now_s) is None
    ]
    entry["declared"] = known is not None and known.declared
    return entry


def mac_entry(desk: Dispatcher, mac: Mac, now_s: float) -> dict[str, Any]:
    """One Mac that the router knows."""
    beat = mac.beat
    fleet = desk.macs.fleet
    stats = beat.stats
    verdict = judge(standing_of(desk, mac, now_s))
    return {
        **_told(verdict),
        "name": clean(beat.name),
        "machine": beat.machine,
        "provider": beat.provider,
        "owner": beat.owner,
        "incarnation": beat.incarnation,
        "pid": beat.pid,
        "node": beat.node,
        "endpoint": f"{beat.endpoint.host}:{beat.endpoint.port}",
        "chip": beat.hardware.chip,
        "memory_gb": beat.hardware.memory_gb,
        "ask_pct": beat.ask_pct,
        "trust": beat.trust,
        "state": beat.state,
        "reason": mac.lost_reason if mac.lost_s is not None else beat.reason,
        "health": mac.health(now_s),
        "quarantined": mac.quarantined,
        "last_beat_age_s": round(now_s - mac.last_beat_s, 3),
        "drain": desk.macs.drain_reason(beat.machine),
        "pins": desk.placing.pins_of(beat.machine),
        "models": fleet.models_of(beat.machine),
        "places": [_place(desk, mac, model) for model in fleet.models_of(beat.machine)],
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


def _place(desk: Dispatcher, mac: Mac, model: ModelId) -> dict[str, Any]:
    """One model there. `tps` is what one request alone would get, `measured` whether requests
    or the Mac's own readings have corrected the table it comes from.
    """
    fleet, machine = desk.macs.fleet, mac.beat.machine
    declared = {place.model: place for place in mac.beat.places}
    scale = fleet.place(machine, model, "scale_step")
    step_ms = fleet.place(machine, model, "step_1_ms")
    factor = scale * fleet.place(machine, model, "bias_step")
    ready = PLACES[int(fleet.place(machine, model, "place"))] == "ready"
    return {
        "model": model,
        "state": PLACES[int(fleet.place(machine, model, "place"))],
        "reason": declared[model].reason if model in declared else "",
        "since_s": round(declared[model].since_s, 1) if model in declared else None,
        "running": int(fleet.place(machine, model, "running")),
        "tps": round(1e3 / (step_ms * factor), 1) if ready and step_ms * factor > 0 else None,
        "measured": scale != 1.0 or fleet.place(machine, model, "seen") > 0,
    }


def away_entry(desk: Dispatcher, known: KnownMac, now_s: float) -> dict[str, Any]:
    """One Mac that should be here and is not."""
    silent_s = now_s - known.heard_s if known.heard_s is not None else None
    drain = desk.macs.drain_reason(known.machine)
    verdict = judge(Standing("lost", drain=drain or "", silent_s=silent_s))
    unknown = dict.fromkeys(
        (
            *("owner", "incarnation", "pid", "node", "endpoint", "ask_pct", "trust", "state"),
            *("slots", "running", "decode_tps", "completion_tokens", "fail_rate", "uptime_s"),
            *("code_version", "cooling_down_s"),
        )
    )
    return {
        **unknown,
        **_told(verdict),
        "name": known.name,
        "machine": known.machine,
        "provider": known.provider,
        "chip": known.chip or None,
        "memory_gb": known.memory_gb or None,
        "reason": "",
        "health": "lost",
        "quarantined": "",
        "last_beat_age_s": round(silent_s, 3) if silent_s is not None else None,
        "drain": drain,
        "pins": desk.placing.pins_of(known.machine),
        "models": [],
        "places": [],
        "in_flight": 0,
    }


def _told(verdict: Verdict) -> dict[str, str]:
    """A verdict beside the Mac's own word for its state, which is called `reason`."""
    told = verdict.as_json()
    return {"verdict_reason" if name == "reason" else name: told[name] for name in told}
