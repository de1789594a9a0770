"""Why: of a request, of a Mac, of the queue, as JSON-able data for whoever asks.

Reading only. Macs appear under their public ids; admin readers also get private ones.
"""

from __future__ import annotations

from dataclasses import replace
from math import isinf
from typing import Any

from market.policy.ask import SUSPECT_AFTER_S
from market.policy.columns import PLACES, STANDINGS
from market.policy.counterfactual import changes
from market.policy.decision import Decision, asides_of, materialise, reasons_of
from market.policy.filters import BY_NAME, effective_slots
from market.policy.registry import Policy
from market.routing.dispatcher import Dispatcher
from market.routing.macs import Mac
from market.routing.messages import RouteRequest
from market.routing.names import clean
from market.routing.notes import again
from market.routing.roster import KnownMac
from market.types import AccountId, GatewayId, MachineId, ModelId, RequestId
from market.verdicts import Standing, judge

RECENT_SHOWN = 20
"""Latest decisions told of a Mac."""

PROBE_PROMPT_TOKENS = 500
PROBE_MAX_TOKENS = 256
"""The request that "could it take one now?" is asked with."""


def story_of(decision: Decision) -> dict[str, Any]:
    """Every candidate once, with its verdict and terms; and what would have changed it."""
    return {
        "policy": decision.policy,
        "summary": decision.in_words(),
        "verdicts": [
            {
                "provider": verdict.provider,
                "reason": verdict.reason,
                "aside": verdict.aside,
                "total_ms": verdict.total_ms,
                "terms_ms": dict(verdict.terms_ms),
                "chosen": verdict.machine == decision.chosen,
            }
            for verdict in materialise(decision)
        ],
        "changes": [change.as_json() for change in changes(decision)],
        "faults": list(decision.faults),
        "said_tokens": decision.ask.said_tokens,
    }


def replayed_by(decision: Decision, policy: Policy) -> dict[str, Any]:
    """What this policy would have made of the same request. `behind_ms` is how much worse its
    choice is by the terms that decided.
    """
    other = again(decision, policy)
    if decision.refused and other.index is not None and other.late(other.index):
        other = replace(other, refused=True)
    behind_ms = None
    if decision.index is not None and other.index is not None and decision.terms:
        total = decision.total_ms()
        behind_ms = round(float(total[other.index] - total[decision.index]), 3)
    chosen = None if other.refused else other.index
    return {
        "policy": policy.name,
        "chosen": None if chosen is None else other.candidates.name(chosen).provider,
        "same": other.chosen == decision.chosen,
        "behind_ms": behind_ms,
        "faults": list(other.faults),
    }


def standing_of(desk: Dispatcher, mac: Mac, now_s: float) -> Standing:
    """What the verdict on a Mac is given by."""
    fleet, beat = desk.macs.fleet, mac.beat
    machine = beat.machine
    models = fleet.models_of(machine)
    by_state: dict[str, list[str]] = {state: [] for state in PLACES}
    for model in models:
        by_state[PLACES[int(fleet.place(machine, model, "place"))]].append(model)
    reasons = {place.model: place.reason for place in beat.places}
    cap = 0
    if fleet.get(machine, "cap") > 0 and models:
        at = fleet.position(models[0], machine)
        candidates = fleet.candidates(models[0])
        cap = int(effective_slots(candidates, now_s)[at]) if at is not None else 0
    return Standing(
        standing=STANDINGS[int(fleet.get(machine, "standing"))],
        reason=mac.lost_reason if mac.lost_s is not None else beat.reason,
        drain=desk.macs.drain_reason(machine) or "",
        quarantine=mac.quarantined,
        silent_s=now_s - mac.last_beat_s,
        suspect=now_s - mac.last_beat_s > SUSPECT_AFTER_S,
        cooling_s=max(fleet.get(machine, "cooling_until_s") - now_s, 0.0),
        cap=cap,
        slots=int(fleet.get(machine, "slots")),
        ready=tuple(by_state["ready"]),
        loading=tuple(by_state["loading"]),
        failed=tuple((m, reasons.get(ModelId(m), "unknown")) for m in by_state["failed"]),
        in_flight=int(fleet.get(machine, "in_flight")),
    )


def machine_story(desk: Dispatcher, machine: MachineId, now_s: float) -> dict[str, Any] | None:
    """How a Mac stands, what each of its models could take now, and its latest decisions."""
    mac = desk.macs.get(machine)
    if mac is None:
        return None
    verdict = judge(standing_of(desk, mac, now_s))
    return {
        "name": clean(mac.beat.name),
        "machine": machine,
        "provider": mac.beat.provider,
        "chip": mac.beat.hardware.chip,
        "memory_gb": mac.beat.hardware.memory_gb,
        **verdict.as_json(),
        "drain": desk.macs.drain_reason(machine),
        "pins": desk.placing.pins_of(machine),
        "placement": desk.placing.mac_as_json(machine, now_s),
        "models": [_gate(desk, machine, m, now_s) for m in desk.macs.fleet.models_of(machine)],
        "decisions": _recent(desk, machine),
    }


def away_story(desk: Dispatcher, known: KnownMac, now_s: float) -> dict[str, Any]:
    """The same of a Mac that should be here and is not: since when, and what is meant for it."""
    silent_s = now_s - known.heard_s if known.heard_s is not None else None
    drain = desk.macs.drain_reason(known.machine)
    return {
        "name": known.name,
        "machine": known.machine,
        "provider": known.provider,
        "chip": known.chip or None,
        "memory_gb": known.memory_gb or None,
        **judge(Standing("lost", drain=drain or "", silent_s=silent_s)).as_json(),
        "drain": drain,
        "pins": desk.placing.pins_of(known.machine),
        "placement": None,
        "models": [],
        "decisions": _recent(desk, known.machine),
    }


def _gate(desk: Dispatcher, machine: MachineId, model: ModelId, now_s: float) -> dict[str, Any]:
    """Whether this Mac could take an ordinary request for this model now."""
    probe = RouteRequest(
        request_id=RequestId("probe"),
        gateway=GatewayId(""),
        consumer=AccountId(""),
        model=model,
        prompt_tokens=PROBE_PROMPT_TOKENS,
        max_tokens=PROBE_MAX_TOKENS,
    )
    decision = desk.asker.decide(probe, now_s, rebuilding=desk.rebuilding(now_s))
    at = desk.macs.fleet.position(model, machine)
    reason = reasons_of(decision)[at] if at is not None else "not_loaded"
    fleet = desk.macs.fleet
    queue = desk.queues.get(model)
    return {
        "model": model,
        "state": PLACES[int(fleet.place(machine, model, "place"))],
        "gate": reason,
        "would_help": BY_NAME[reason].remedy if reason in BY_NAME else None,
        "chosen_now": at is not None and decision.index == at,
        "predicted_ttft_ms": _at(decision.predicted.ttft_ms, at),
        "predicted_tps": (
            None if at is None else round(1e3 / float(decision.predicted.step_ms[at]), 2)
        ),
        "running": int(fleet.place(machine, model, "running")),
        "requests_seen": int(fleet.place(machine, model, "seen")),
        "queued": len(queue) if queue is not None else 0,
    }


def _at(values: Any, at: int | None) -> float | None:
    return None if at is None else round(float(values[at]), 3)


def _finite(seconds: float) -> float | None:
    return None if isinf(seconds) else round(seconds, 3)


def _recent(desk: Dispatcher, machine: MachineId) -> list[dict[str, Any]]:
    """The latest decisions this Mac was a candidate of: chosen, lost by how much, ruled out."""
    found: list[dict[str, Any]] = []
    for decision in desk.recent.newest():
        at = decision.candidates.index_of(machine)
        if at is None:
            continue
        reason = reasons_of(decision)[at]
        total = decision.total_ms()
        aside, behind = asides_of(decision)[at], None
        if reason is None and aside is None and decision.chosen is not None:
            behind = round(float(total[at] - total[decision.index]), 3)
        found.append(
            {
                "request_id": decision.ask.request_id,
                "model": decision.ask.model,
                "chosen": decision.chosen == machine,
                "reason": reason,
                "aside": aside,
                "behind_ms": behind,
            }
        )
        if len(found) == RECENT_SHOWN:
            break
    return found


def _serving(decision: Decision) -> int:
    """Macs that serve the model now, busy ones too."""
    seen = decision.candidates
    return int(((seen["standing"] == 0) & (seen["place"] == 0)).sum())


def queue_story(desk: Dispatcher, now_s: float) -> list[dict[str, Any]]:
    """Who waits for which model, in the order in which they will be tried."""
    story = []
    for model, queue in sorted(desk.queues.items()):
        if not len(queue):
            continue
        waiting = list(queue.in_order())
        first, costs = waiting[0], [entry.cost for entry in waiting]
        decision = desk.asker.decide(first.request, now_s, rebuilding=desk.rebuilding(now_s))
        story.append(
            {
                "model": model,
                "waiting": len(queue),
                "macs": decision.in_words(),
                "ready": _serving(decision),
                "ready_in_s": desk.placing.ready_in_s(model, now_s),
                "requests": [
                    {
                        "request_id": entry.request.request_id,
                        "class": entry.request.request_class,
                        "waited_s": round(now_s - entry.enqueued_s, 3),
                        "gives_up_in_s": round(entry.expires_s - now_s, 3),
                        "cost_tokens": round(entry.cost, 1),
                        "predicted_wait_s": _finite(desk.wait_s(model, costs[:number], now_s)),
                    }
                    for number, entry in enumerate(waiting[:RECENT_SHOWN])
                ],
            }
        )
    return story
