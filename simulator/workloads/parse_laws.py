"""Laws, arrivals and rhythms as a scenario's tables say them."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from simulator.setup.tables import Table
from simulator.workloads.gaps import CV_MAX, CV_MIN, POISSON, Gaps
from simulator.workloads.intensity import Day, OnOff, Spikes
from simulator.workloads.laws import (
    Exponential,
    Fixed,
    Geometric,
    Law,
    Lognormal,
    Pair,
    quantiles,
    sorted_values,
)
from simulator.workloads.published import PUBLISHED, Published
from simulator.workloads.spec import Rhythm
from simulator.workloads.trace_places import TOKENS_MAX

LAWS: Final = ("table", "fixed", "exponential", "lognormal", "quantiles", "values")
ARRIVALS: Final = ("poisson", "gamma", "weibull", "deterministic", "mmpp")
POINTS_MAX = 10_000
SIGMA_MAX = 5.0
SECONDS_MAX = 366 * 86_400.0
RATIO_MAX = 1e6
FACTOR_MAX = 1_000.0
DAY_S_MIN = 60.0


def pair_of(table: Table) -> Pair:
    """`prompt` and `output`, and how they go together. Two from one published trace have its
    correlation unless `correlation` says another.
    """
    for key in ("prompt", "output"):
        if key not in table.values:
            table.refuse(None, f"it has no {key}; give {key} = {{ table = 'azure_2023_conv' }}.")
    prompt, output = table.table("prompt"), table.table("output")
    known = 0.0
    same = prompt.values.get("table")
    if isinstance(same, str) and same == output.values.get("table") and same in PUBLISHED:
        known = PUBLISHED[same].correlation
    return Pair(
        prompt=law_of(prompt, "prompt"),
        output=law_of(output, "output"),
        correlation=table.at_least("correlation", known, -1.0, 1.0),
    )


def law_of(table: Table, of: str, highest: float = TOKENS_MAX) -> Law:
    """One law: `of` is "prompt" or "output" where a published table has two."""
    table.known(LAWS)
    if len(table.values) != 1:
        table.refuse(None, f"give exactly one of {', '.join(LAWS)}.")
    (kind,) = table.values
    if kind == "table":
        published = _published(table)
        return published.prompt if of == "prompt" else published.output
    if kind == "fixed":
        return Fixed(_number(table, "fixed", 0.0, highest))
    if kind == "quantiles":
        return quantiles(_points(table, highest))
    if kind == "values":
        return sorted_values(_numbers(table, "values", highest))
    below = table.table(kind)
    if kind == "exponential":
        below.known(("mean", "max"))
        return Exponential(
            mean=_number(below, "mean", 1e-3, highest),
            highest=below.at_least("max", highest, 1e-3, highest),
        )
    below.known(("median", "sigma", "max"))
    return Lognormal(
        median=_number(below, "median", 1e-3, highest),
        sigma=_number(below, "sigma", 0.0, SIGMA_MAX),
        highest=below.at_least("max", highest, 1e-3, highest),
    )


def seconds_of(table: Table, key: str, default: float) -> Law:
    """Seconds: a number is the mean of an exponential law, a table any law."""
    if isinstance(table.values.get(key), dict):
        return law_of(table.table(key), key, SECONDS_MAX)
    mean = table.at_least(key, default, 0.0, SECONDS_MAX, "seconds")
    return Exponential(mean, SECONDS_MAX) if mean else Fixed(0.0)


def turns_of(table: Table, highest: float) -> Law:
    """Turns of a conversation: a number is the mean of a geometric law, a table any law."""
    if isinstance(table.values.get("turns"), dict):
        return law_of(table.table("turns"), "turns", highest)
    return Geometric(_number(table, "turns", 1.0, highest), highest)


def gaps_of(table: Table) -> tuple[Gaps, OnOff | None]:
    """`arrivals`: how evenly they come, and the states that their intensity may have."""
    table.known(("kind", "table", "cv", "on_s", "off_s", "ratio"))
    if "table" in table.values:
        if len(table.values) > 1:
            table.refuse(None, "table says everything; give nothing beside it.")
        return _published_gaps(table)
    kind = table.text("kind", "poisson", "|".join(ARRIVALS))
    allowed = {"gamma": {"cv"}, "weibull": {"cv"}, "mmpp": {"cv", "on_s", "off_s", "ratio"}}
    for key in table.values:
        if key != "kind" and key not in allowed.get(kind, set()):
            table.refuse(key, f"arrivals of kind {kind} have no {key}.")
    if kind == "mmpp":
        cv = table.at_least("cv", 1.0, CV_MIN, CV_MAX)
        return Gaps("gamma", cv) if cv != 1.0 else POISSON, _on_off(table)
    if kind in ("gamma", "weibull"):
        cv = _number(table, "cv", CV_MIN, CV_MAX)
        return Gaps("gamma" if kind == "gamma" else "weibull", cv), None
    return Gaps("deterministic" if kind == "deterministic" else "poisson"), None


def rhythm_of(table: Table, on_off: OnOff | None) -> Rhythm:
    """`day` and `spikes`, beside the states that come with the arrivals."""
    day = spikes = None
    if "day" in table.values:
        below = table.table("day")
        below.known(("period_s", "swing", "peak_s"))
        period_s = below.at_least("period_s", 86_400.0, DAY_S_MIN, SECONDS_MAX, "seconds")
        day = Day(
            period_s=period_s,
            swing=below.at_least("swing", 0.5, 0.0, 1.0),
            peak_s=below.at_least("peak_s", period_s * 14 / 24, 0.0, SECONDS_MAX, "seconds"),
        )
    if "spikes" in table.values:
        spikes = _spikes(table.table("spikes"))
    return Rhythm(on_off, day, spikes)


def _on_off(table: Table) -> OnOff:
    return OnOff(
        on_s=_number(table, "on_s", 1e-3, SECONDS_MAX),
        off_s=_number(table, "off_s", 1e-3, SECONDS_MAX),
        ratio=_number(table, "ratio", 1.0, RATIO_MAX),
    )


def _spikes(table: Table) -> Spikes:
    table.known(("factor", "last_s", "per_hour", "at_s"))
    if ("per_hour" in table.values) == ("at_s" in table.values):
        table.refuse(None, "give per_hour, or the times themselves as at_s, not both.")
    at_s = _numbers(table, "at_s", SECONDS_MAX) if "at_s" in table.values else []
    if at_s != sorted(at_s):
        table.refuse("at_s", "the times must ascend.")
    return Spikes(
        factor=_number(table, "factor", 0.0, FACTOR_MAX),
        last_s=_number(table, "last_s", 1e-3, SECONDS_MAX),
        per_hour=table.at_least("per_hour", 0.0, 1e-3, 3_600.0),
        at_s=tuple(at_s),
    )


def _published(table: Table) -> Published:
    name = table.text("table", "", "|".join(PUBLISHED))
    return PUBLISHED[name]


def _published_gaps(table: Table) -> tuple[Gaps, OnOff | None]:
    rhythm = _published(table).rhythm
    if rhythm is None:
        table.refuse("table", "of this trace only lengths are known; give a kind.")
    gaps = Gaps("gamma", rhythm.gap_cv) if rhythm.gap_cv != 1.0 else POISSON
    return gaps, rhythm.states


def _points(table: Table, highest: float) -> list[tuple[float, float]]:
    points = table.values["quantiles"]
    if not isinstance(points, list) or not 2 <= len(points) <= POINTS_MAX:
        table.refuse("quantiles", f"give from 2 to {POINTS_MAX} points like [0.5, 1020].")
    found = []
    for point in points:
        if (
            not isinstance(point, list)
            or len(point) != 2
            or any(isinstance(each, bool) or not isinstance(each, int | float) for each in point)
            or not (0.0 <= point[0] <= 1.0 and 0.0 < point[1] <= highest)
        ):
            table.refuse("quantiles", f"each point is [share, value], not {repr(point)[:60]}.")
        found.append((float(point[0]), float(point[1])))
    for before, after in pairwise(found):
        if not before[0] < after[0] or not before[1] <= after[1]:
            table.refuse("quantiles", f"shares and values must ascend; see {after}.")
    return found


def _numbers(table: Table, key: str, highest: float) -> list[float]:
    values = table.values[key]
    if not isinstance(values, list) or not 1 <= len(values) <= POINTS_MAX:
        table.refuse(key, f"give a list of 1 to {POINTS_MAX} numbers.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            table.refuse(key, f"{repr(value)[:40]} is no number.")
        if not 0.0 <= value <= highest:
            table.refuse(key, f"each must be from 0 to {highest:g}, not {value!r}.")
    return [float(value) for value in values]


def _number(table: Table, key: str, low: float, high: float) -> float:
    """A number that must be there."""
    if key not in table.values:
        table.refuse(None, f"it has no {key}.")
    return table.at_least(key, low, low, high)
