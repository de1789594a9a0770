"""Requests that somebody has made by hand, in order of time, as a source of a run."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.records import Arrival, Ended


class Given:
    """An open loop over any requests; those of a generator are taken one by one."""

    def __init__(self, arrivals: Iterable[Arrival]) -> None:
        self._arrivals = iter(arrivals)
        self._next = next(self._arrivals, None)

    @property
    def over(self) -> bool:
        return self._next is None

    def next_s(self) -> float | None:
        return None if self._next is None else self._next.at_s

    def take(self) -> Arrival:
        arrival = self._next
        assert arrival is not None
        self._next = next(self._arrivals, None)
        return arrival

    def ended(self, ended: Ended) -> None:
        pass  # An open loop asks on, whatever became of it.
