"""Cumulative counts of one gateway process, pushed to the router with its beats."""

from __future__ import annotations

from market.metrics import Family, Histogram

SERIES_MAX = 5_000
"""Keys one process counts under. Models, routes and codes are few; a label that is not would
otherwise grow for ever, here and in whatever scrapes it."""

LEFT_OUT = "coster_gateway_series_left_out_total"


class Counters:
    """Numbers that only grow, by the keys of `market.metrics`."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._series = 0

    def add(self, key: str, amount: float = 1.0) -> None:
        """Count; a new key beyond SERIES_MAX is left out, and that is counted."""
        before = self._values.get(key)
        if before is None and not self._room(1):
            key, before = LEFT_OUT, self._values.get(LEFT_OUT)
        self._values[key] = (before or 0.0) + amount

    def histogram(self, family: Family, **labels: str) -> Histogram:
        """The one histogram of these labels; beyond SERIES_MAX one that nobody reads."""
        name = (family.name, *labels.values())
        known = self._histograms.get(name)
        if known is None:
            known = Histogram(family, **labels)
            if self._room(len(family.bounds) + 3):
                self._histograms[name] = known
            else:
                self.add(LEFT_OUT)
        return known

    def _room(self, series: int) -> bool:
        if self._series + series > SERIES_MAX:
            return False
        self._series += series
        return True

    def snapshot(self) -> dict[str, float]:
        """Every count by its key."""
        values = dict(self._values)
        for histogram in self._histograms.values():
            values.update(histogram.samples())
        return values
