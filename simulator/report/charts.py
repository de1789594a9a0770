"""The plots of one run: what is drawn, what is said of it, and the table behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from market.money import NANO_PER_USD
from simulator.records import MacUsed
from simulator.report.page import plot, table
from simulator.report.scale import short
from simulator.report.svg import ROWS_MAX, Axis, Series, bars, heat, lines
from simulator.results.columns import FloatArray, Requests
from simulator.results.metrics import HOUR_S
from simulator.results.timeline import edges_of, inside, rate, running, waiting

CURVE_POINTS: Final = 160
TABLE_ROWS: Final = 12
STRIPS: Final = 60
SHARES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
_TIME: Final = Axis("time", "min")


def distribution(
    title: str, curves: Sequence[tuple[str, FloatArray]], label: str, unit: str = "s"
) -> str:
    """Cumulative distributions over a logarithmic axis."""
    known = [(name, np.sort(v[np.isfinite(v)])) for name, v in curves]
    known = [(name, values) for name, values in known if len(values)]
    drawn = [(name, values) for name, values in known if values[-1] > 0]  # no log has a zero
    first = min((float(v[v > 0].min()) for _, v in drawn), default=0.0)
    series = [Series(name, _cumulative(values, max(first, 1e-4))) for name, values in drawn]
    rows = [
        (f"p{share * 100:g}", *(short(float(np.quantile(v, share)), unit) for _, v in known))
        for share in SHARES
    ]
    half = ", ".join(f"{name} {short(float(np.median(v)), unit)}" for name, v in known)
    svg = lines(title, series, Axis(label, unit, log=True), Axis("share", "%", low=0.0, high=100.0))
    behind = table(title, ("share", *(name for name, _ in known)), rows)
    return plot(title, f"Half are within: {half or 'nothing to show'}.", svg,
                [name for name, _ in drawn], behind)  # fmt: skip


def _cumulative(values: FloatArray, first: float) -> list[tuple[float, float]]:
    """Points of the curve: even in share, and closer together where the tail is. A curve that
    has zeros begins at the left, `first`, as high as they are many.
    """
    shares = np.concatenate(
        (np.linspace(0.0, 0.98, CURVE_POINTS - 40), 1.0 - np.geomspace(0.02, 1e-4, 39), [1.0])
    )
    found = np.quantile(values, shares)
    points = [(float(v), float(s) * 100) for v, s in zip(found, shares, strict=True) if v > first]
    none = float((values <= first).mean()) * 100
    return [(first, none), *points] if none else points


def _over_time(
    title: str, words: str, curves: Sequence[tuple[str, FloatArray]], edges: FloatArray, up: Axis
) -> str:
    """Curves over the minutes of the run; the table has every tenth point."""
    middles = (edges[:-1] + edges[1:]) / 2 / 60
    series = [
        Series(name, list(zip(middles.tolist(), values.tolist(), strict=True)))
        for name, values in curves
    ]
    step = max(len(middles) // TABLE_ROWS, 1)
    rows = [
        (f"{middles[at]:.1f} min", *(short(float(values[at])) for _, values in curves))
        for at in range(0, len(middles), step)
    ]
    names = [name for name, _ in curves]
    svg = lines(title, series, _TIME, up)
    return plot(title, words, svg, names, table(title, ("time", *names), rows))


def flow(requests: Requests, until_s: float) -> str:
    """Arrivals and answers a second."""
    edges = edges_of(until_s)
    answered = requests.is_("status", "ok")
    arrived = rate(requests["at_s"], edges)
    ends = requests["at_s"] + np.nan_to_num(requests["e2e_s"])
    done = rate(ends[answered], edges)
    lost = rate(ends[~answered], edges)
    words = f"{short(float(arrived.mean()))} requests a second came, {short(float(done.mean()))} "
    return _over_time(
        "Requests", words + "were answered.",
        [("arrived", arrived), ("answered", done), ("refused or broken off", lost)],
        edges, Axis("requests a second", low=0.0),
    )  # fmt: skip


def crowd(requests: Requests, until_s: float) -> str:
    """How many were inside, and how many of them in the queue, where anybody saw that."""
    edges = edges_of(until_s)
    there = inside(requests).means(edges)
    words, curves = f"{short(float(there.mean()))} inside on average", [("inside", there)]
    if np.isfinite(requests["wait_s"]).any():
        queued = waiting(requests).means(edges)
        words += f", {short(float(queued.mean()))} queued"
        curves.append(("in the queue", queued))
    return _over_time("Inside and waiting", f"{words}.", curves, edges, Axis("requests", low=0.0))


def speed(requests: Requests, until_s: float) -> str:
    """Tokens a second, counted when their request ended."""
    edges = edges_of(until_s)
    ends = requests["at_s"] + np.nan_to_num(requests["e2e_s"])
    said = rate(ends, edges, requests["said_tokens"])
    read = rate(ends, edges, requests["prompt_tokens"] - requests["cached_tokens"])
    words = f"{short(float(said.mean()))} tokens a second were written."
    return _over_time(
        "Tokens", words, [("written", said), ("read", read)], edges,
        Axis("tokens a second", low=0.0),
    )  # fmt: skip


def load(requests: Requests, macs: Sequence[MacUsed], until_s: float) -> str:
    """How many requests each Mac ran, over time."""
    edges = edges_of(until_s, STRIPS)
    chosen = _busiest(macs)
    strips = [(macs[at].name, running(requests, at).means(edges).tolist()) for at in chosen]
    rows = [(name, short(float(np.mean(s))), short(float(np.max(s)))) for name, s in strips]
    most = max((max(strip) for _, strip in strips), default=0.0)
    svg = heat(
        "Load of each Mac", strips, Axis("time (min)", "", low=0.0, high=until_s / 60),
        lambda value: f"{value:.1f} at a time",
    )  # fmt: skip
    behind = table("Requests at a time", ("Mac", "mean", "most"), rows)
    words = f"The strongest colour is {short(most)} requests at a time.{_only(macs)}"
    return plot("Load", words, svg, [], behind)


def busy(macs: Sequence[MacUsed]) -> str:
    """Which share of its presence each Mac worked."""
    rows = [
        (macs[at].name, 100 * macs[at].busy_s / macs[at].here_s if macs[at].here_s else 0.0)
        for at in _busiest(macs)
    ]
    mean = float(np.mean([share for _, share in rows])) if rows else 0.0
    svg = bars("Busy", rows, Axis("of the time", "%", low=0.0, high=100.0))
    behind = table("Busy", ("Mac", "of the time"), [(n, short(v, "%")) for n, v in rows])
    return plot("Busy", f"{short(mean, '%')} on average.{_only(macs)}", svg, [], behind)


def earned(macs: Sequence[MacUsed]) -> str:
    """What each Mac earned in an hour of its presence."""
    rows = [
        (macs[at].name, macs[at].earned_nano / NANO_PER_USD / macs[at].here_s * HOUR_S
         if macs[at].here_s else 0.0)
        for at in _busiest(macs)
    ]  # fmt: skip
    total = sum(mac.earned_nano for mac in macs) / NANO_PER_USD
    svg = bars("Earned", rows, Axis("dollars an hour", "$", low=0.0))
    behind = table("Earned", ("Mac", "an hour"), [(n, short(v, "$")) for n, v in rows])
    return plot("Earned", f"{short(total, '$')} together.{_only(macs)}", svg, [], behind)


def _busiest(macs: Sequence[MacUsed]) -> list[int]:
    """All of them in the order of the fleet; of a large fleet the ones that worked most."""
    order = sorted(range(len(macs)), key=lambda at: (-macs[at].busy_s, at))[:ROWS_MAX]
    return sorted(order)


def _only(macs: Sequence[MacUsed]) -> str:
    left = len(macs) - ROWS_MAX
    return f" The {ROWS_MAX} busiest of {len(macs)} are shown." if left > 0 else ""
