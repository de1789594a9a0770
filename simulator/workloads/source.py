"""Workloads as one sequence of requests, in order of time and numbered: what a run is fed with.

Open workloads are an iterator. Where users wait for their answers the run must say what became
of each request; then it is a `Source`, which is asked for the time of the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Protocol

from market.errors import InvalidRequest
from simulator.records import Arrival, Ended
from simulator.streams import Streams
from simulator.workloads.closed import ClosedLoop
from simulator.workloads.demand import Capacity, base_rate
from simulator.workloads.plain import begins, plain_rows
from simulator.workloads.replay import replayed_rows
from simulator.workloads.rows import Notes, Row
from simulator.workloads.spec import Replayed, Synthetic, Workload
from simulator.workloads.talks import Talks, begun, talk_rows


def arrivals(
    workloads: Sequence[Workload],
    streams: Streams,
    *,
    capacity: Capacity | None = None,
    requests: int | None = None,
    duration_s: float | None = None,
    notes: Notes | None = None,
) -> Iterator[Arrival]:
    """The requests of all workloads by time, numbered from 0; equal times in the workloads'
    order. At most so many, and only those before `duration_s`.

    Only what is drawn is in memory: a million are as good as ten. `notes` counts what was
    changed or passed over. Raises InvalidRequest where a workload is a closed loop, or cannot be.
    """
    _check_open(workloads)
    notes = Notes() if notes is None else notes
    parts = [_open_rows(each, streams, capacity, notes) for each in workloads]
    rows = parts[0] if len(parts) == 1 else _merged(parts)
    for number, row in enumerate(islice(rows, requests)):
        if duration_s is not None and row[0] >= duration_s:
            return
        yield Arrival(number, *row)


def _check_open(workloads: Sequence[Workload]) -> None:
    closed = [each.name for each in workloads if each.closed]
    if closed:
        raise InvalidRequest(
            f"The workload {closed[0]} is a closed loop: its requests depend on answers, so there "
            "is no list of them here. Take `users` and `closed` out, and give a rate.",
            "workload",
        )


def _open_rows(
    spec: Workload, streams: Streams, capacity: Capacity | None, notes: Notes
) -> Iterator[Row]:
    own = streams.within(f"workload:{spec.name}")
    if isinstance(spec, Replayed):
        return replayed_rows(spec, own, capacity, notes)
    base = base_rate(spec, own, capacity)
    if spec.sessions is None and spec.prefixes is None:
        return plain_rows(spec, own, base, notes)
    talks = Talks(spec, own, notes)
    return talk_rows(talks, begun(talks, own, begins(spec, talks.people, own, base)))


def _merged(parts: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """All rows by time; of equal times the earlier part first."""
    heap = []
    for number, part in enumerate(parts):
        row = next(part, None)
        if row is not None:
            heap.append((row[0], number, row))
    heapq.heapify(heap)
    while heap:
        _, number, row = heap[0]
        yield row
        following = next(parts[number], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], number, following))


class Part(Protocol):
    """Rows of one workload. `waiting` is whether what ends may bring about another."""

    @property
    def waiting(self) -> bool: ...

    def next_s(self) -> float | None: ...

    def take(self) -> Row: ...

    def ended(self, ended: Ended) -> None: ...


class _Open:
    """Rows that come whatever becomes of them."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    @property
    def waiting(self) -> bool:
        return False

    def next_s(self) -> float | None:
        return None if self._next is None else self._next[0]

    def take(self) -> Row:
        row = self._next
        assert row is not None
        self._next = next(self._rows, None)
        return row

    def ended(self, ended: Ended) -> None:
        pass  # An open loop asks on, whatever became of it: that is its point.


class Source:
    """All workloads of a run, closed loops among them.

    `next_s` is when the next request that is known now is sent. After `ended` it may be sooner
    than it was, never before that end. `over` is when nothing can come any more.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        streams: Streams,
        *,
        capacity: Capacity | None = None,
        requests: int | None = None,
        duration_s: float | None = None,
    ) -> None:
        """As `arrivals`. Raises InvalidRequest where a workload cannot be."""
        self.notes = Notes()
        self._left = inf if requests is None else requests
        self._duration_s = inf if duration_s is None else duration_s
        self._number = 0
        self._parts: Mapping[str, Part] = {
            each.name: self._part(each, streams, capacity) for each in workloads
        }

    def _part(self, spec: Workload, streams: Streams, capacity: Capacity | None) -> Part:
        if not spec.closed:
            return _Open(_open_rows(spec, streams, capacity, self.notes))
        assert isinstance(spec, Synthetic)
        own = streams.within(f"workload:{spec.name}")
        talks = Talks(spec, own, self.notes)
        if spec.users is not None:
            return ClosedLoop(talks, own)
        starts = begins(spec, talks.people, own, base_rate(spec, own, capacity))
        return ClosedLoop(talks, own, begun(talks, own, starts))

    @property
    def over(self) -> bool:
        """Whether no request is to come, whatever ends."""
        if self._left <= 0:
            return True
        for part in self._parts.values():
            due_s = part.next_s()
            if part.waiting or (due_s is not None and due_s < self._duration_s):
                return False
        return True

    def next_s(self) -> float | None:
        """When the next request is sent, as far as is known; None: not before something ends."""
        part = self._first()
        return None if part is None else part.next_s()

    def take(self) -> Arrival:
        """The next request, the one of `next_s`."""
        part = self._first()
        assert part is not None, "nothing is known to come"
        arrival = Arrival(self._number, *part.take())
        self._number += 1
        self._left -= 1
        return arrival

    def ended(self, ended: Ended) -> None:
        """A request of this source has ended; each must be said once, when it does."""
        self._parts[ended.arrival.kind].ended(ended)

    def _first(self) -> Part | None:
        first, first_s = None, self._duration_s
        if self._left > 0:
            for part in self._parts.values():
                due_s = part.next_s()
                if due_s is not None and due_s < first_s:
                    first, first_s = part, due_s
        return first


def budgets(workloads: Sequence[Workload]) -> dict[str, int]:
    """What consumers can spend, in nano-USD, of those that have a limit."""
    found = {}
    for each in workloads:
        budget = each.consumers.budget_nano
        if budget is not None:
            for number in range(1, each.consumers.count + 1):
                found[f"{each.name}-{number}"] = budget
    return found
