"""Cumulative counters of one gateway process, pushed to the router with its beats."""

from __future__ import annotations

from collections import defaultdict


class Counters:
    """Numbers that only grow, by metric name; a name may carry Prometheus labels."""

    def __init__(self) -> None:
        self._values: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1.0) -> None:
        self._values[name] += amount

    def snapshot(self) -> dict[str, float]:
        return dict(self._values)
