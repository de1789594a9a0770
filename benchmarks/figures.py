"""Figures and their presentation: medians of interleaved rounds, a table, one line of JSON.

Absolute numbers of a shared machine mean little; two sides measured in turn, round by round,
give a ratio that does. Every script prints through here, so all read alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"

    def as_json(self) -> list[float]:
        return [_rounded(self.median), _rounded(self.low), _rounded(self.high)]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


Round = Callable[[], dict[str, Any]]


def interleave(sides: Mapping[str, Round], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Play the sides in turn, A B then B A, so that a drift of the machine hits all alike."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides)
        for name in order if number % 2 == 0 else reversed(order):
            found[name].append(sides[name]())
    return found


def spread_of(rounds: Sequence[Mapping[str, Any]], figure: str) -> Spread:
    return Spread.of([float(played[figure]) for played in rounds])


def ratio_of(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], figure: str
) -> Spread:
    """Ours through theirs, round by round; a side that did nothing counts as the smallest."""
    pairs = zip(ours, theirs, strict=True)
    return Spread.of([a[figure] / max(b[figure], 1e-9) for a, b in pairs])


def difference_of(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], figure: str
) -> Spread:
    """Ours minus theirs, round by round."""
    return Spread.of([a[figure] - b[figure] for a, b in zip(ours, theirs, strict=True)])


class Report:
    """Rows of one benchmark; printed as a table and as one line of JSON."""

    def __init__(self, name: str, about: str, facts: Mapping[str, Any] | None = None) -> None:
        self._name = name
        self._facts = {"machine": machine(), **(facts or {})}
        self._rows: list[dict[str, Any]] = []
        print(f"{name}: {about}")

    def fact(self, name: str, value: Any) -> None:
        self._facts[name] = value

    def row(self, what: str, value: Spread | float, unit: str, bar: str = "") -> None:
        """One figure; `bar` says what it is meant to reach, in words."""
        spread = value if isinstance(value, Spread) else Spread(value, value, value)
        self._rows.append({"what": what, "value": spread, "unit": unit, "bar": bar})

    def show(self) -> None:
        """Print what was found."""
        for name, value in self._facts.items():
            print(f"  {name}: {value}")
        width = max((len(row["what"]) for row in self._rows), default=0)
        print(f"  {'':{width}}  median (lowest–highest round)")
        for row in self._rows:
            bar = f"   aim {row['bar']}" if row["bar"] else ""
            print(f"  {row['what']:{width}}  {row['value']} {row['unit']}{bar}")
        rows = [{**row, "value": row["value"].as_json()} for row in self._rows]
        line = {"benchmark": self._name, **self._facts, "figures": rows}
        print(json.dumps(line, ensure_ascii=False), flush=True)


def machine() -> str:
    """Cores, architecture, system and what else the machine was doing at the start."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, load average {load:.1f} at the start"
    )


@dataclass(frozen=True, slots=True)
class Options:
    """What every script is asked: rounds, seconds of each, and the script's own flags."""

    rounds: int
    seconds: float
    quick: bool
    own: argparse.Namespace


def read_options(
    about: str,
    *,
    rounds: int = 5,
    seconds: float = 3.0,
    add: Callable[[argparse.ArgumentParser], object] | None = None,
) -> Options:
    """Parse the command line.

    Flags that only other scripts know are let pass: `make bench` gives all scripts the same.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="a smoke run: one short round")
    parser.add_argument("--rounds", type=int, help=f"rounds of each side [default: {rounds}]")
    parser.add_argument("--seconds", type=float, help=f"length of one [default: {seconds:g}]")
    if add is not None:
        add(parser)
    own, _ = parser.parse_known_args()
    return Options(
        rounds=own.rounds or (1 if own.quick else rounds),
        seconds=own.seconds or (1.0 if own.quick else seconds),
        quick=own.quick,
        own=own,
    )
