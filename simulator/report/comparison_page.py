"""The page of a comparison or a sweep: differences with their intervals, and what is behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from market.errors import InvalidRequest
from simulator.report import charts
from simulator.report.page import folded, head, page, paragraph, plot, plots, section, table
from simulator.report.plots_of import is_number, measure_plot
from simulator.report.scale import short, with_half
from simulator.report.svg import Axis, Range, ranges
from simulator.results import folders
from simulator.results.columns import FloatArray
from simulator.results.parquet import read_requests
from simulator.results.summary import as_text
from simulator.runs.cells import Cell, Plan, folder_of
from simulator.runs.comparison import BETTER, DIFFERS, METRICS, OPEN, WORSE, Metric, established

SHOWN: Final = ("ttft_s.p50", "ttft_s.p99", "e2e_s.mean", "e2e_s.p99", "goodput.requests_per_s",
                "goodput.attainment", "throughput.completion_tokens_per_s")  # fmt: skip
"""What is drawn; the tables have all."""

CURVES_MAX: Final = 8
POINTS_SHOWN_MAX: Final = 24
CURVE_QUANTILES: Final = 1_000
TONES: Final = {WORSE: "bad", BETTER: "good"}


def comparison_page(
    plan: Plan, folder: Path, summary: Mapping[str, Any], manifest: Mapping[str, Any]
) -> str:
    """Everything about several runs on one page."""
    repeat = len(summary["seeds"])
    title = f"{plan.scenario.name}: {', '.join(plan.names)}"
    below = f"{plan.scenario.about} {repeat} repetitions, paired by seed; intervals are 95 %."
    parts = [head(title, below.strip()), _alarms(summary["points"])]
    swept = len(plan.points) > 1
    if swept:
        parts.append(section("Over the sweep", plots(_curves(summary))))
    for number, point in enumerate(summary["points"][:POINTS_SHOWN_MAX]):
        words = ", ".join(f"{key} = {value}" for key, value in point["settings"].items())
        parts.append(section(f"At {words}" if words else "Differences", *_point(summary, point)))
        if not swept:
            parts.append(section("Distributions", plots(_distributions(plan, folder, number))))
    left = len(summary["points"]) - POINTS_SHOWN_MAX
    if left > 0:
        parts.append(paragraph(f"{left} more points are in summary.json."))
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    parts.append(
        section("What was run", paragraph(versions), folded("Setting", as_text(manifest["config"])))
    )
    return page(title, parts)


def _alarms(points: Sequence[Mapping[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for point in points:
        for policy, names in point["alarms"].items():
            found.setdefault(policy, set()).update(names)
    items = "".join(
        f"<li><b>{escape(policy)}</b>: {escape(', '.join(sorted(names)).replace('_', ' '))}</li>"
        for policy, names in found.items()
        if names
    )
    if not items:
        return '<p class="good">✓ Nothing to look at: every run checked itself.</p>'
    return f'<ul class="alarms" aria-label="Alarms">{items}</ul>'


def _point(summary: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    reference = summary["reference"]
    figures = [
        differences_plot(policy, reference, differences)
        for policy, differences in point["differences"].items()
    ]
    return [plots(figures), _levels(summary["policies"], point), _verdicts(reference, point)]


def differences_plot(policy: str, reference: str, differences: Mapping[str, Any]) -> str:
    """One policy against the reference: relative differences of what is drawn."""
    rows = []
    for name in SHOWN:
        found = differences.get(name)
        if found is None:
            continue
        mean, low, high = _relative(found)
        if mean is None:
            continue
        tone = {BETTER: "good", WORSE: "bad"}.get(found["verdict"], "open")
        ends = [None if end is None else 100 * end for end in (low, high)]
        rows.append(Range(METRICS[name].label, 100 * mean, ends[0], ends[1], tone))
    better, worse, else_ = (
        len(established(differences, said)) for said in (BETTER, WORSE, DIFFERS)
    )
    words = (
        f"Established: better in {better} numbers, worse in {worse}, different in {else_} that "
        f"have no good direction. Zero is {reference}."
    )
    svg = ranges(f"{policy} against {reference}", rows, Axis("difference", "%"))
    behind = table(
        "Relative differences", ("", "mean", "from", "to"),
        [(r.name, short(r.mean, "%"), short(r.low, "%"), short(r.high, "%")) for r in rows],
    )  # fmt: skip
    return plot(f"{policy} against {reference}", words, svg, [], behind)


def _levels(policies: Sequence[str], point: Mapping[str, Any]) -> str:
    rows = []
    for name, metric in METRICS.items():
        cells = []
        for policy in policies:
            found = point["policies"][policy].get(name)
            cells.append("—" if found is None else _with_half(found, metric))
        rows.append((metric.label, *cells))
    return table("Means over the repetitions, ± half of the interval", ("", *policies), rows)


def _with_half(found: Mapping[str, Any], metric: Metric) -> str:
    ends = [found[key] for key in ("mean", "low", "high")]
    mean, low, high = (None if end is None else end * metric.scale for end in ends)
    return with_half(mean, low, high, metric.unit)


def _verdicts(reference: str, point: Mapping[str, Any]) -> str:
    policies = list(point["differences"])
    if not policies:
        return ""
    rows = []
    for name, metric in METRICS.items():
        cells = []
        for policy in policies:
            found = point["differences"][policy].get(name)
            cells.append("—" if found is None else said_of(found))
        rows.append((metric.label, *cells))
    return table(f"Differences from {reference}, within pairs", ("", *policies), rows, TONES)


def said_of(found: Mapping[str, Any]) -> str:
    mean, low, high = _relative(found)
    if mean is None:
        return found["verdict"] if found["verdict"] != OPEN else "—"
    percent = f"{100 * mean:+.1f} %"
    if low is None or high is None:
        return percent
    return f"{percent} [{100 * low:+.1f}, {100 * high:+.1f}] {found['verdict']}"


def _relative(found: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Mean, low and high of a relative difference: what cannot be negative can lose all of itself
    and no more.
    """
    relative = found["relative"]
    mean, low, high = (
        None if relative[key] is None else max(relative[key], -1.0)
        for key in ("mean", "low", "high")
    )
    return mean, low, high


def _distributions(plan: Plan, folder: Path, point: int) -> list[str]:
    """The distributions of the first repetition of each policy, drawn over each other."""
    first: dict[str, tuple[FloatArray, FloatArray]] = {}
    for at, name in enumerate(plan.names[:CURVES_MAX]):
        requests = read_requests(folder / folder_of(plan, Cell(point, at, 0)) / folders.REQUESTS)
        answered = requests.is_("status", "ok")
        first[name] = tuple(  # type: ignore[assignment]
            np.asarray(requests[column][answered]) for column in ("ttft_s", "e2e_s")
        )
    return [
        charts.distribution(title, [(name, values[at]) for name, values in first.items()], "time")
        for at, title in enumerate(("First token, first seed", "Whole answer, first seed"))
    ]


def _curves(summary: Mapping[str, Any]) -> list[str]:
    """The drawn numbers over the first setting that varies, rather over one that is a number."""
    points = summary["points"]
    varied = sorted(varying(points), key=lambda setting: not is_number(points, setting))
    found = []
    for name in SHOWN if varied else ():
        try:
            found.append(measure_plot(summary, varied[0], name, "policy"))
        except InvalidRequest as error:  # too many curves, or nothing to draw: no reason to fail
            found.append(paragraph(f"{METRICS[name].label} is not drawn. {error.message}"))
    return found


def varying(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that differ between points."""
    keys = list(points[0]["settings"])
    return [key for key in keys if len({point["settings"][key] for point in points}) > 1]
