"""The router's figures: what it counts, how its models stand, and each Mac's engine.

The gateways' counts are added up here, those of gone gateways included. Just after a restart
they are left out: some gateways have not declared themselves yet, and a sum that is smaller
than the last one would look as if everything had been counted anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from market.metrics import labelled
from market.policy.columns import PLACES, STANDINGS
from market.routing.dispatcher import Dispatcher
from market.routing.fairness import gini
from market.routing.learning import breaker_of
from market.routing.macs import Health, Mac
from market.routing.metric_families import COUNTS, MAC, MACS_SHOWN_MAX, ROUTER
from market.routing.view import availability

Samples = Iterator[tuple[str, float]]

BREAKERS = ("closed", "half_open", "open")


def metrics(desk: Dispatcher, now_s: float) -> dict[str, float]:
    """What is true of the router as a whole: counts since its start and present readings."""
    values = {} if desk.rebuilding(now_s) else desk.gateways.totals()
    values.update(_counted(desk))
    values.update(_fleet(desk, now_s))
    values.update(_fairness(desk, now_s))
    values.update(_models(desk, now_s))
    return values


def _counted(desk: Dispatcher) -> Samples:
    for family in COUNTS:
        if not family.labels:  # there from the beginning, so that the first one is an increase
            yield family.name, 0.0
    models = desk.macs.fleet.models
    for family in COUNTS:
        if family.labels == ("model",):
            yield from ((labelled(family.name, model=model), 0.0) for model in sorted(models))
    for counts in (desk.counters, desk.macs.counters):
        for key, value in counts.items():
            name, brace, labels = key.partition("{")
            yield f"{ROUTER}_{name}_total{brace}{labels}", value
    planner = desk.placing.planner
    yield f"{ROUTER}_plans_total", float(planner.plans)
    yield f"{ROUTER}_swaps_total", float(planner.swaps)
    yield f"{ROUTER}_breakers_opened_total", float(desk.learning.opened)


def _fleet(desk: Dispatcher, now_s: float) -> Samples:
    fleet = desk.macs.fleet
    health = [mac.health(now_s) for mac in desk.macs]
    names: tuple[Health, ...] = ("ok", "suspect", "lost")
    for name in names:
        yield labelled(f"{ROUTER}_macs", health=name), float(health.count(name))
    standings = [int(fleet.get(mac.beat.machine, "standing")) for mac in desk.macs]
    for at, standing in enumerate(STANDINGS):
        key = labelled(f"{ROUTER}_macs_standing", standing=standing)
        yield key, float(standings.count(at))
    breakers = [breaker_of(fleet, mac.beat.machine, now_s) for mac in desk.macs]
    for at, state in enumerate(BREAKERS):
        yield labelled(f"{ROUTER}_breakers", state=state), float(breakers.count(at))
    yield f"{ROUTER}_gateways", float(len(desk.gateways))
    yield f"{ROUTER}_reservations", float(len(desk.reservations))
    yield f"{ROUTER}_queued", float(sum(len(queue) for queue in desk.queues.values()))


def _fairness(desk: Dispatcher, now_s: float) -> Samples:
    """How evenly work is spread over Macs that could have it; nothing while there is none."""
    fleet = desk.macs.fleet
    able = [mac.beat.machine for mac in desk.macs if mac.health(now_s) == "ok"]
    granted = gini([fleet.get(machine, "granted") for machine in able])
    if granted is not None:
        yield f"{ROUTER}_grants_gini", granted
    if able:
        idle = sum(fleet.get(machine, "in_flight") == 0 for machine in able)
        yield f"{ROUTER}_idle_macs_share", idle / len(able)


def _models(desk: Dispatcher, now_s: float) -> Samples:
    for model in availability(desk, now_s):
        queue = desk.queues.get(model.model)
        oldest_s = now_s - queue.oldest_s if queue else 0.0
        about = {"model": model.model}
        yield labelled(f"{ROUTER}_queue_depth", **about), float(model.queued)
        yield labelled(f"{ROUTER}_queue_oldest_seconds", **about), oldest_s
        yield labelled(f"{ROUTER}_model_macs_ready", **about), float(model.ready)
        yield labelled(f"{ROUTER}_model_slots_free", **about), float(model.free_slots)
        places = desk.macs.fleet.candidates(model.model)["place"]
        for at, state in enumerate(PLACES):
            key = labelled(f"{ROUTER}_copies", **about, state=state)
            yield key, float((places == at).sum())


def mac_metrics(desk: Dispatcher, now_s: float) -> dict[str, float]:
    """Each Mac's engine, by public id; those that work come before those that are lost."""
    macs = sorted(desk.macs, key=lambda mac: (mac.lost_s is not None, mac.beat.provider))
    values = {f"{ROUTER}_macs_left_out": float(max(len(macs) - MACS_SHOWN_MAX, 0))}
    for mac in macs[:MACS_SHOWN_MAX]:
        values.update(_mac(desk, mac, now_s))
    return values


def _mac(desk: Dispatcher, mac: Mac, now_s: float) -> Samples:
    fleet, machine, stats = desk.macs.fleet, mac.beat.machine, mac.beat.stats
    here = mac.health(now_s) != "lost"
    values = {
        "up": float(here),
        "in_flight": fleet.get(machine, "in_flight"),
        "breaker": float(breaker_of(fleet, machine, now_s)),
        "fail_ratio": fleet.get(machine, "fail_rate"),
    }
    if stats is not None and here:
        values |= {
            "slots": stats.slots,
            "running": stats.running,
            "waiting": stats.waiting,
            "memory_used_bytes": stats.memory_bytes_used,
            "memory_budget_bytes": stats.memory_bytes_budget,
            "cache_bytes": stats.cache_bytes,
            "decode_tokens_per_second": stats.decode_tps,
            "prefill_tokens_per_second": stats.prefill_tps,
            "steps_total": stats.steps,
            "prompt_tokens_total": stats.prompt_tokens,
            "completion_tokens_total": stats.completion_tokens,
            "cached_tokens_total": stats.cached_tokens,
            "cancelled_total": stats.cancelled,
            "failed_total": stats.failed,
        }
    for name, value in values.items():
        yield labelled(f"{MAC}_{name}", provider=mac.beat.provider), float(value)
