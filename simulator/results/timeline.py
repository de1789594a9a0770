"""How many at a time: waiting, running, busy Macs, over a run; exactly, from when each began.

Everything is a count of intervals: requests that wait, that are inside, that run on a Mac.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simulator.results.columns import AnyArray, BoolArray, FloatArray, Requests

BINS = 120
"""Points of a curve over time: as many as a page has room for."""


@dataclass(frozen=True)
class Spans:
    """Intervals of time, from `starts_s` to `ends_s`, which is not before it."""

    starts_s: FloatArray
    ends_s: FloatArray

    @cached_property
    def _starts(self) -> FloatArray:
        return np.sort(self.starts_s)

    @cached_property
    def _ends(self) -> FloatArray:
        return np.sort(self.ends_s)

    def at(self, times_s: FloatArray) -> AnyArray:
        """How many are open at each of these moments."""
        opened = np.searchsorted(self._starts, times_s, side="right")
        return opened - np.searchsorted(self._ends, times_s, side="right")

    def means(self, edges_s: FloatArray) -> FloatArray:
        """How many were open on average between each two edges."""
        total = _passed(self._starts, edges_s) - _passed(self._ends, edges_s)
        means: FloatArray = np.diff(total) / np.diff(edges_s)
        return means

    def mean(self, from_s: float, until_s: float) -> float:
        """How many were open on average."""
        return float(self.means(np.array([from_s, until_s]))[0]) if until_s > from_s else 0.0


def _passed(moments: FloatArray, edges_s: FloatArray) -> FloatArray:
    """At each edge the sum of the times that have passed since the moments before it."""
    sums = np.concatenate(([0.0], np.cumsum(moments)))
    before = np.searchsorted(moments, edges_s, side="right")
    passed: FloatArray = before * edges_s - sums[before]
    return passed


def inside(requests: Requests) -> Spans:
    """From arrival to end; who has no end was inside for no time that is known."""
    at_s = requests["at_s"]
    return Spans(at_s, at_s + np.nan_to_num(requests["e2e_s"], nan=0.0))


def waiting(requests: Requests) -> Spans:
    """In the router's queue, as far as a request waited there before its last attempt; of whom
    that is not known, nothing.
    """
    known = np.isfinite(requests["wait_s"])
    at_s = requests["at_s"][known]
    return Spans(at_s, at_s + requests["wait_s"][known])


def running(requests: Requests, mac: int | None = None) -> Spans:
    """On a Mac, or on this one: from the end of the wait to the end. A client does not see how
    long it waited, and counts it to the Mac: no Mac is called idle that may have worked.
    """
    rows: BoolArray = requests["mac"] >= 0 if mac is None else requests["mac"] == mac
    at_s = requests["at_s"][rows]
    start_s = at_s + np.nan_to_num(requests["wait_s"][rows], nan=0.0)
    end_s = at_s + np.nan_to_num(requests["e2e_s"][rows], nan=0.0)
    return Spans(start_s, np.maximum(start_s, end_s))


def overdue(requests: Requests, patience_s: FloatArray) -> Spans:
    """Without a first token although `patience_s` has passed since the arrival."""
    at_s = requests["at_s"]
    first_s = requests["ttft_s"]
    heard_s = np.where(np.isnan(first_s), np.nan_to_num(requests["e2e_s"], nan=0.0), first_s)
    late = heard_s > patience_s
    return Spans((at_s + patience_s)[late], (at_s + heard_s)[late])


def edges_of(until_s: float, bins: int = BINS) -> FloatArray:
    """The run from 0, cut into equal parts."""
    return np.linspace(0.0, max(until_s, 1e-9), bins + 1)


def rate(moments_s: FloatArray, edges_s: FloatArray, weights: AnyArray | None = None) -> FloatArray:
    """Events a second between each two edges; weighted, the sum of the weights a second."""
    counts, _ = np.histogram(moments_s, bins=edges_s, weights=weights)
    rates: FloatArray = counts / np.diff(edges_s)
    return rates
