"""A run as one page of numbers, computed from what was written of it and nothing else.

Equal files give equal summaries, to the byte: numbers are rounded to nine digits, so that the
last bits in which two processors may differ are not in them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from market.policy.prefixes import BLOCK_TOKENS
from market.types import ModelId
from simulator.limits.bounds import (
    SRPT_REQUESTS_MAX,
    NoQueue,
    fluid_capacity,
    hindsight_mean_s,
    middle_ttft_s,
    no_queue,
    pooled_work,
    srpt_mean_s,
)
from simulator.records import MacUsed
from simulator.results import checks, metrics
from simulator.results.columns import Requests
from simulator.results.window import Window, window_of
from simulator.setup.scenario import Scenario
from simulator.workloads.demand import Demand
from simulator.world.run import Totals

SCHEMA: Final = 1
DIGITS: Final = 9


def summary_of(
    scenario: Scenario,
    policy: str,
    seed: int,
    requests: Requests,
    macs: Sequence[MacUsed],
    totals: Totals,
    faults: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything that a run is judged by. Units are in the names; unknown is None.

    `faults` are what was wrong with terms of a policy of somebody's own, the first time each.
    """
    window = window_of(scenario, requests)
    counted = requests.where(window.rows(requests))
    least = no_queue(scenario.macs, counted, BLOCK_TOKENS)
    first, last = checks.growth(requests, window)
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "name": scenario.name,
        "policy": policy,
        "seed": seed,
        "scenario_hash": scenario.hash,
        "policy_faults": dict(faults),
        "window": window.as_json(),
        "requests": metrics.outcomes(counted),
        **metrics.latency(counted),
        "precision": metrics.precision(counted),
        "goodput": metrics.goodput(counted, scenario.slo, window.length_s),
        "throughput": metrics.throughput(requests, window.from_s, window.until_s),
        "attempts": metrics.attempts(counted),
        "machines": metrics.machines(macs),
        "consumers": metrics.consumers(counted),
        "money": metrics.money(counted),
        "prediction": metrics.prediction(counted),
        "bounds": _bounds(scenario, counted, window, least),
        "world": {
            "requests": totals.requests,
            "simulated_s": totals.simulated_s,
            "events": totals.events,
            "problems": list(totals.problems),
            "metrics": dict(sorted(totals.metrics.items())),
        },
        "checks": {
            **checks.sums(requests, macs, window),
            "inside_first_quarter": first,
            "inside_last_quarter": last,
            "idle_while_waiting_share": checks.idle_while_waiting(
                counted, scenario.macs, macs, window, least, middle_ttft_s(scenario.macs, counted)
            ),
        },
    }
    summary = rounded(summary)
    rung = checks.alarms(summary, scenario)
    summary["alarms"] = rounded([alarm.as_json() for alarm in rung])
    return summary


def demands_of(requests: Requests, length_s: float) -> list[Demand]:
    """What was asked for, per model, with as much of the prompts cached as was in this run."""
    demands = []
    models = requests.text("model")
    for name in models.names:
        rows = models.rows_of(name)
        if rows.any():
            prompt = float(requests["prompt_tokens"][rows].mean())
            answered = rows & requests.is_("status", "ok")
            read = requests["prompt_tokens"][answered].sum()
            hit = requests["cached_tokens"][answered].sum() / read if read else 0.0
            demands.append(
                Demand(
                    model=ModelId(name),
                    rate=float(rows.sum()) / length_s,
                    prompt_tokens=prompt,
                    output_tokens=float(requests["output_tokens"][rows].mean()),
                    unread_tokens=max(prompt * (1.0 - float(hit)), 1.0),
                )
            )
    return demands


def _bounds(
    scenario: Scenario, counted: Requests, window: Window, least: NoQueue
) -> dict[str, Any]:
    """How far this run is from what nobody can beat."""
    part: dict[str, Any] = dict.fromkeys(
        (
            *("fluid_requests_per_s", "load", "no_queue_ttft_s", "no_queue_e2e_s"),
            *("ttft_over_no_queue", "e2e_over_no_queue", "srpt_e2e_s", "e2e_over_srpt"),
            *("bound_e2e_s", "e2e_over_bound", "hindsight_e2e_s", "e2e_over_hindsight"),
        )
    )
    demands = demands_of(counted, window.length_s)
    if not demands:
        return part
    capacity = fluid_capacity(scenario.macs, demands, scenario.slots)
    part["fluid_requests_per_s"] = capacity
    part["load"] = sum(demand.rate for demand in demands) / capacity
    answered = counted.is_("status", "ok")
    if not answered.any():
        return part
    mean_ttft, mean_e2e = (float(counted[name][answered].mean()) for name in ("ttft_s", "e2e_s"))
    part["no_queue_ttft_s"] = float(least.ttft_s[answered].mean())
    part["no_queue_e2e_s"] = float(least.e2e_s[answered].mean())
    part["ttft_over_no_queue"] = mean_ttft / part["no_queue_ttft_s"]
    part["e2e_over_no_queue"] = mean_e2e / part["no_queue_e2e_s"]
    served = counted.where(answered)
    best = hindsight_mean_s(scenario.macs, served, scenario.slots, BLOCK_TOKENS)
    if best is not None:
        part["hindsight_e2e_s"], part["e2e_over_hindsight"] = best, mean_e2e / best
    if len(served) <= SRPT_REQUESTS_MAX:
        work = pooled_work(scenario.macs, served, scenario.slots, BLOCK_TOKENS)
        part["srpt_e2e_s"] = srpt_mean_s(served["at_s"], work)
        part["e2e_over_srpt"] = mean_e2e / part["srpt_e2e_s"] if part["srpt_e2e_s"] else None
    # The pooled server divides one answer among all Macs, so under light load it says nothing.
    part["bound_e2e_s"] = max(part["no_queue_e2e_s"], part["srpt_e2e_s"] or 0.0)
    part["e2e_over_bound"] = mean_e2e / part["bound_e2e_s"]
    return part


def rounded(value: Any) -> Any:
    """As JSON, numbers to nine digits; what is no number is None."""
    if isinstance(value, Mapping):
        return {str(key): rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def flat(summary: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Every number of a summary by its dotted name: `ttft_s.p99`."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{key}"] = float(value)
    return found


def as_text(value: Any) -> str:
    """JSON as it is kept in files: readable, keys in their own order, one newline at the end."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
