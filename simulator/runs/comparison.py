"""Several runs beside each other: every number with its interval, every difference paired.

The repetitions of all policies have the same seeds, so each pair met the same requests and the
same faults; what is compared are the differences within pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulator.results.summary import flat, rounded
from simulator.runs.stats import Interval, bootstrap_interval, enough, paired, t_interval


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the summary that is compared. `better` is -1 where less of it is, 1 where
    more of it is, 0 where it is a matter of taste. `scale` turns it into `unit`.
    """

    name: str
    label: str
    unit: str
    better: int
    scale: float = 1.0

    @property
    def is_quantile(self) -> bool:
        """Quantiles of skewed distributions get their interval by resampling."""
        return self.name.rpartition(".")[2].startswith("p")


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("ttft_s.p50", "TTFT p50", "s", -1),
        Metric("ttft_s.p99", "TTFT p99", "s", -1),
        Metric("tpot_ms.p50", "TPOT p50", "ms", -1),
        Metric("e2e_s.mean", "E2E mean", "s", -1),
        Metric("e2e_s.p99", "E2E p99", "s", -1),
        Metric("wait_s.p99", "queue p99", "s", -1),
        Metric("goodput.requests_per_s", "goodput", "req/s", 1),
        Metric("goodput.attainment", "in SLO", "%", 1, 100.0),
        Metric("requests.refused_share", "refused", "%", -1, 100.0),
        Metric("requests.failed_share", "broke off", "%", -1, 100.0),
        Metric("throughput.completion_tokens_per_s", "tokens", "tok/s", 1),
        Metric("attempts.cache_hit_share", "cache hits", "%", 1, 100.0),
        Metric("machines.loads_per_mac_hour", "loads", "/Mac·h", -1),
        Metric("machines.utilisation_mean", "busy", "%", 0, 100.0),
        Metric("machines.idle_share", "idle Macs", "%", 0, 100.0),
        Metric("machines.earned_gini", "Gini earned", "", 0),
        Metric("machines.earned_per_hour_usd", "earned", "$/Mac·h", 0),
        Metric("consumers.ttft_jain", "Jain TTFT", "", 1),
        Metric("money.revenue_usd", "revenue", "$", 0),
        Metric("money.usd_per_million_tokens", "price", "$/1M", 0),
        Metric("bounds.ttft_over_no_queue", "TTFT / empty fleet", "×", -1),
        Metric("bounds.e2e_over_no_queue", "E2E / empty fleet", "×", -1),
        Metric("bounds.e2e_over_bound", "E2E / bound", "×", -1),
        Metric("bounds.e2e_over_srpt", "E2E / pooled SRPT", "×", -1),
    )
}

BETTER, WORSE, DIFFERS, OPEN = "better", "worse", "differs", "not told apart"

Summaries = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of one point of a sweep: by policy, the summaries of its repetitions in order of the seeds."""


def compared(summaries: Summaries, reference: str) -> dict[str, Any]:
    """Each policy's numbers, and how each other one differs from the reference."""
    numbers = {policy: [flat(summary) for summary in runs] for policy, runs in summaries.items()}
    part: dict[str, Any] = {
        "policies": {policy: _levels(runs) for policy, runs in numbers.items()},
        "differences": {
            policy: _differences(runs, numbers[reference])
            for policy, runs in numbers.items()
            if policy != reference
        },
        "alarms": {
            policy: sorted({alarm["name"] for run in runs for alarm in run["alarms"]})
            for policy, runs in summaries.items()
        },
    }
    result: dict[str, Any] = rounded(part)
    return result


def values_of(runs: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """One number of each repetition; NaN where it is unknown."""
    return [run.get(name, math.nan) for run in runs]


def _levels(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    found = {}
    for name in METRICS:
        values = values_of(runs, name)
        known = [value for value in values if math.isfinite(value)]
        if known:
            interval = interval_of(METRICS[name], known)
            found[name] = {**interval.as_json(), "values": values}
    return found


def _differences(
    runs: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    found = {}
    for name, metric in METRICS.items():
        base = values_of(reference, name)
        pairs = paired(values_of(runs, name), base)
        if len(pairs) == 0:
            continue
        interval = interval_of(metric, pairs.tolist())
        known = [value for value in base if math.isfinite(value)]
        relative = interval.over(abs(sum(known) / len(known)))
        found[name] = {
            **interval.as_json(),
            "relative": relative.as_json(),
            "t": t_interval(pairs).as_json(),
            "verdict": verdict(metric, interval),
        }
    return found


def established(differences: Mapping[str, Any], said: str) -> list[str]:
    """The labels of all numbers of which a verdict is said, shown in a table or not."""
    return [
        metric.label
        for name, metric in METRICS.items()
        if differences.get(name, {}).get("verdict") == said
    ]


def interval_of(metric: Metric, values: Sequence[float]) -> Interval:
    """By resampling for quantiles, by Student's t for what is a mean or a share."""
    return bootstrap_interval(values) if metric.is_quantile else t_interval(values)


def verdict(metric: Metric, difference: Interval) -> str:
    """Whether the sign of a difference is established, and whether it is the good one; of a
    number without a good direction only the first.
    """
    if not difference.excludes_zero:
        return OPEN
    if metric.better == 0:
        return DIFFERS
    return BETTER if difference.mean * metric.better > 0 else WORSE


def settled(points: Sequence[Summaries], metric: str, relative_half: float) -> bool:
    """Whether a number is known well enough of every policy at every point."""
    return all(
        enough(values_of([flat(summary) for summary in runs], metric), relative_half)
        for point in points
        for runs in point.values()
    )
