"""What a run says about itself: whether its sums agree, and what somebody should look at.

A policy that is wrong on purpose ships with the market, so that these can be seen to ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from market.fleet_file import MacSpec
from market.types import ModelId
from simulator.limits.bounds import NoQueue, may_hold
from simulator.records import MacUsed
from simulator.results.columns import FloatArray, Requests
from simulator.results.timeline import inside, overdue, running
from simulator.results.window import Window
from simulator.setup.scenario import Scenario

SAMPLES: Final = 2_000
"""Moments of the window at which the fleet is looked at."""

PATIENCE_S: Final = 1.0
PATIENCE_TIMES: Final = 5.0
"""A first token is overdue after a second, after five times what an empty fleet takes, and when
a Mac in the middle of the fleet would have it with nothing cached: being read is no waiting."""

IDLE_SHARE: Final = 0.5
IDLE_TIME_MAX: Final = 0.02
TAIL_TIMES: Final = 25.0
GROWTH_TIMES: Final = 3.0
GROWTH_LEAST: Final = 20.0
LITTLE_MAX: Final = 0.1
OPEN_MAX: Final = 0.01
REFUSED_MAX: Final = 0.05
FAILED_MAX: Final = 0.01
FAIRNESS_MAX: Final = 3.0
"""Overloaded runs with the fair queue came to 0.8 to 2.7 (what runs is not yet counted by its true
length), the same ones served in order of arrival to 3.4 to 15."""

FAR_TIMES: Final = 10.0
FAR_LOAD_MAX: Final = 0.75

FAULTS_COUNTER: Final = "coster_router_policy_faults_total"
"""The live router's own metric: terms of a policy that raised or were no numbers."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something to look at: what was seen, and the limit it passed."""

    name: str
    value: float
    limit: float
    words: str

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "value": self.value, "limit": self.limit, "words": self.words}


def sums(requests: Requests, macs: Sequence[MacUsed], window: Window) -> dict[str, Any]:
    """Two ways to the same number: each must be zero, Little's law nearly so."""
    answered = requests.where(requests.is_("status", "ok"))
    return {
        "money_nano_off": int(
            requests["cost_nano"].sum()
            - requests["provider_nano"].sum()
            - requests["fee_nano"].sum()
        ),
        "earned_nano_off": int(requests["provider_nano"].sum())
        - sum(mac.earned_nano for mac in macs),
        "tokens_off": int(answered["said_tokens"].sum())
        - sum(mac.completion_tokens for mac in macs),
        "little_error": little_error(requests, window),
    }


def little_error(requests: Requests, window: Window) -> float | None:
    """By how much the mean number inside differs from rate times mean stay, as a share of it.

    The one counts who is there at each moment, whenever they came; the other follows who came
    within the window, however long they stay. They agree in a run that is in balance.
    """
    rows = window.rows(requests)
    if not rows.any():
        return None
    number = inside(requests).mean(window.from_s, window.until_s)
    stay_s = np.nan_to_num(requests["e2e_s"][rows], nan=0.0)
    expected = float(stay_s.sum()) / window.length_s
    return (number - expected) / expected if expected > 0 else None


def growth(requests: Requests, window: Window) -> tuple[float, float]:
    """How many were inside on average in the first and in the last quarter of the window."""
    spans = inside(requests)
    quarter = window.length_s / 4
    first = spans.mean(window.from_s, window.from_s + quarter)
    return first, spans.mean(window.until_s - quarter, window.until_s)


def idle_while_waiting(
    requests: Requests,
    fleet: Sequence[MacSpec],
    macs: Sequence[MacUsed],
    window: Window,
    least: NoQueue,
    middle_s: FloatArray,
) -> float:
    """Share of the time in which a first token was overdue and half of the Macs that could hold
    its model had nothing to do. Macs that were away do not count as idle. `least` is what an
    empty fleet takes at best, `middle_s` when a Mac in the middle has a first token uncached.
    """
    times = np.linspace(window.from_s, window.until_s, SAMPLES)
    free = np.stack([running(requests, row).at(times) == 0 for row in range(len(fleet))])
    patience = np.maximum(PATIENCE_S, PATIENCE_TIMES * np.nan_to_num(least.ttft_s, nan=0.0))
    patience = np.maximum(patience, np.nan_to_num(middle_s, nan=0.0))
    run_s = max((mac.here_s for mac in macs), default=0.0)
    wrong = np.zeros(len(times), dtype=np.bool_)
    models = requests.text("model")
    for name in models.names:
        able = [row for row, spec in enumerate(fleet) if may_hold(spec, ModelId(name))]
        rows = models.rows_of(name)
        if not able or not rows.any():
            continue
        late = overdue(requests.where(rows), patience[rows]).at(times) > 0
        away = 1.0 - np.mean([macs[row].here_s for row in able]) / run_s if run_s else 0.0
        wrong |= late & (free[able].mean(axis=0) >= IDLE_SHARE + away)
    return float(wrong.mean())


def alarms(summary: dict[str, Any], scenario: Scenario) -> list[Alarm]:
    """Everything that a summary shows and that should not be."""
    found: list[Alarm] = []

    def ring(name: str, value: float | None, limit: float, words: str) -> None:
        if value is not None and value > limit:
            found.append(Alarm(name, value, limit, words))

    checks, counts = summary["checks"], summary["requests"]
    ring("idle_while_waiting", checks["idle_while_waiting_share"], IDLE_TIME_MAX,
         "of the time half of the Macs were idle while a first token was overdue")  # fmt: skip
    ring("long_tail", _tail(summary, scenario), TAIL_TIMES,
         "times the median is the 99th percentile of the first token, beyond what is promised"
    )  # fmt: skip
    first, last = checks["inside_first_quarter"], checks["inside_last_quarter"]
    if last > GROWTH_LEAST:
        ring("not_stable", last / max(first, 1.0), GROWTH_TIMES,
             "times as many were inside at the end as at first: overloaded, or the load grew"
        )  # fmt: skip
    little = checks["little_error"]
    ring("out_of_balance", None if little is None else abs(little), LITTLE_MAX,
         "is how far Little's law is off: the run was too short, or it is overloaded")  # fmt: skip
    ring("unfinished", counts["open_share"], OPEN_MAX, "of the requests never ended")
    ring("refusals", counts["refused_share"], REFUSED_MAX, "of the requests were refused")
    ring("failures", counts["failed_share"], FAILED_MAX, "of the answers broke off")
    ring("unfair", summary["consumers"]["gap_over_bound"], FAIRNESS_MAX,
         "times its bound is how far two who waited together parted")  # fmt: skip
    ring("policy_faults", summary["world"]["metrics"].get(FAULTS_COUNTER), 0.0, _faults(summary))
    ring("books", _off(summary), 0.0, "sums of money or tokens do not add up")
    bounds = summary["bounds"]
    if (bounds["load"] or 1.0) <= FAR_LOAD_MAX:
        ring("far_from_bound", bounds["e2e_over_no_queue"], FAR_TIMES,
             "times what an empty fleet takes is the mean, at a load that has room")  # fmt: skip
    return found


def _faults(summary: dict[str, Any]) -> str:
    words = "times a term of the policy failed and was left out"
    return ": ".join([words, *summary["policy_faults"].values()])


def _tail(summary: dict[str, Any], scenario: Scenario) -> float | None:
    first = summary["ttft_s"]
    if first["p50"] is None or first["p99"] <= scenario.slo["interactive"].ttft_s:
        return None
    return float(first["p99"] / max(first["p50"], 1e-9))


def _off(summary: dict[str, Any]) -> float:
    checks = summary["checks"]
    names = ("money_nano_off", "earned_nano_off", "tokens_off")
    return float(sum(checks[name] != 0 for name in names) + len(summary["world"]["problems"]))
