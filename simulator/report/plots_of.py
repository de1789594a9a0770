"""A plot of a sweep's numbers that somebody asks for: what along, what up, one curve per what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from market.errors import InvalidRequest
from simulator.report.page import plot, table
from simulator.report.scale import short, within
from simulator.report.svg import Axis, Range, Series, lines, ranges
from simulator.runs.comparison import METRICS, Metric

POLICY: Final = "policy"
CURVES_MAX: Final = 24
VALUE_MAX: Final = 12
"""Characters of a value that has its place beside a row."""


def measure_plot(summary: Mapping[str, Any], x: str, y: str, by: str = POLICY) -> str:
    """A metric over a setting, or over another metric; a curve per policy or per setting. A
    setting whose values are no numbers has a row for each instead.

    Raises InvalidRequest naming what there is to choose from.
    """
    if x in summary["points"][0]["settings"] and not is_number(summary["points"], x):
        return _rows_plot(summary, x, y)
    curves = _curves(summary, x, y, by)
    metric = METRICS[y]
    along = METRICS.get(x) or Metric(x, x, "", 0)
    title = f"{metric.label} by {along.label}"
    series = [
        Series(name, [(a, b) for a, b, _, _ in points], [p[2] for p in points],
               [p[3] for p in points])
        for name, points in curves.items()
    ]  # fmt: skip
    rows = [
        (name, short(a, along.unit), short(b, metric.unit), short(low, metric.unit),
         short(high, metric.unit))
        for name, points in curves.items()
        for a, b, low, high in points
    ]  # fmt: skip
    svg = lines(title, series, Axis(along.label, along.unit), Axis(metric.label, metric.unit),
                dots=True)  # fmt: skip
    behind = table(title, (by, along.label, metric.label, "from", "to"), rows)
    return plot(title, "Means with 95 % intervals.", svg, list(curves), behind)


def is_number(points: Sequence[Mapping[str, Any]], setting: str) -> bool:
    """Whether the values of a setting are numbers at all points."""
    try:
        for point in points:
            float(point["settings"][setting])
    except ValueError:
        return False
    return True


def _rows_plot(summary: Mapping[str, Any], x: str, y: str) -> str:
    """A metric of every policy at every point, one below the other."""
    _known("--y", y, list(METRICS))
    metric, values = METRICS[y], _shortened(summary["points"], x)
    rows = []
    for point in summary["points"]:
        others = [f"{k}={v}" for k, v in point["settings"].items() if k != x]
        for policy, numbers in point["policies"].items():
            found = numbers.get(y)
            if found is not None and found["mean"] is not None:
                first = [policy] if len(summary["policies"]) > 1 else []
                name = ", ".join([*first, values[point["settings"][x]], *others])
                low, high = (
                    None if found[end] is None else _within(found[end], metric)
                    for end in ("low", "high")
                )
                rows.append(Range(name, found["mean"] * metric.scale, low, high))
    if not rows:
        raise InvalidRequest(f"None of the runs knows {y}.", "y")
    title = f"{metric.label} by {x}"
    said = "; ".join(f"{name} is {value}" for value, name in values.items() if name != value)
    words = "Means with 95 % intervals." + (f" {said}." if said else "")
    behind = table(
        title, ("", metric.label, "from", "to"),
        [(r.name, *(short(v, metric.unit) for v in (r.mean, r.low, r.high))) for r in rows],
    )  # fmt: skip
    return plot(title, words, ranges(title, rows, Axis(metric.label, metric.unit)), [], behind)


def _shortened(points: Sequence[Mapping[str, Any]], x: str) -> dict[str, str]:
    """What each value of a setting is called in a plot: itself, or a number where it is long."""
    values = list(dict.fromkeys(point["settings"][x] for point in points))
    if all(len(value) <= VALUE_MAX for value in values):
        return {value: value for value in values}
    return {value: f"no. {number}" for number, value in enumerate(values, start=1)}


def _curves(
    summary: Mapping[str, Any], x: str, y: str, by: str
) -> dict[str, list[tuple[float, float, float, float]]]:
    settings = list(summary["points"][0]["settings"])
    _known("--y", y, list(METRICS))
    _known("--x", x, [*settings, *METRICS])
    _known("--by", by, [POLICY, *settings])
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for point in summary["points"]:
        for policy, numbers in point["policies"].items():
            found = numbers.get(y)
            along = _along(point, numbers, x)
            if found is None or found["mean"] is None or along is None:
                continue
            others = [f"{k}={v}" for k, v in point["settings"].items() if k not in (x, by)]
            first = policy if by == POLICY else f"{by}={point['settings'][by]}"
            rest = others if by == POLICY else [policy, *others]
            name = ", ".join([first, *(rest if by == POLICY or len(summary["policies"]) > 1 else
                                       others)])  # fmt: skip
            metric, mean = METRICS[y], found["mean"]
            low, high = (
                _within(mean if found[end] is None else found[end], metric)
                for end in ("low", "high")
            )
            curves.setdefault(name, []).append((along, mean * metric.scale, low, high))
    if not curves:
        raise InvalidRequest(f"None of the runs knows {y}.", "y")
    if len(curves) > CURVES_MAX:
        raise InvalidRequest(f"That is {len(curves)} curves; at most {CURVES_MAX} are drawn.", "by")
    return {name: sorted(points) for name, points in curves.items()}


def _within(end: float, metric: Metric) -> float:
    """An end of an interval in the metric's unit, where it can be."""
    return within(end * metric.scale, metric.unit)


def _along(point: Mapping[str, Any], numbers: Mapping[str, Any], x: str) -> float | None:
    """Where a point lies: its setting as a number, or what it measured."""
    if x in METRICS:
        found = numbers.get(x)
        return None if found is None or found["mean"] is None else found["mean"] * METRICS[x].scale
    try:
        return float(point["settings"][x])
    except ValueError as error:
        raise InvalidRequest(
            f"{x} is {point['settings'][x]!r} at a point and no number; use it with --by.", "x"
        ) from error


def _known(option: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise InvalidRequest(
            f"{option} {name[:60]!r} is not in these runs; there are {', '.join(names)}.", option
        )
