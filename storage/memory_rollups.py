"""The past of a ledger in memory: the same sums and pages, from dictionaries and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from market.accounting.histories import (
    Bounds,
    Job,
    JobPage,
    UsagePage,
    UseColumn,
    UseSum,
    UseWhere,
    WorkColumn,
    WorkSum,
    WorkWhere,
)
from market.accounting.periods import Slice, Stretch
from market.accounting.reading import check_count, use_slices, work_slices
from market.accounting.rollups import (
    HOUR_S,
    LIFE_S,
    MACHINE_SPANS_S,
    MINUTE_S,
    USE_SPANS_S,
    Use,
    UseKey,
    UseSums,
    Work,
    WorkKey,
    WorkSums,
    hours_to,
    is_served,
    sums_of,
)
from market.accounting.rows import Changes, DeliveryRow, RequestRow
from market.accounting.state_rows import FoldedRow
from market.types import AccountId, KeyId, MachineId, ModelId, RequestId

Key = TypeVar("Key", WorkKey, UseKey)
_NOBODY: Final = AccountId("")


class MemoryRollups:
    """What the tables of sums would hold, and the `HistoryStore` port over it."""

    def __init__(
        self,
        requests: Mapping[RequestId, RequestRow],
        deliveries: Mapping[RequestId, Sequence[DeliveryRow]],
        folded: Callable[[], FoldedRow],
    ) -> None:
        """Over the journal of a ledger in memory, which goes on growing."""
        self.work_sums: WorkSums = {}
        self.use_sums: UseSums = {}
        self._requests = requests
        self._deliveries = deliveries
        self._folded = folded

    def write(self, changes: Changes) -> None:
        """Add what these changes bring, then fold and forget, as they say."""
        work, use = sums_of(changes.requests, changes.deliveries)
        _add(self.work_sums, work)
        _add(self.use_sums, use)
        if changes.fold is not None:
            from_s, to_s = changes.fold
            self._fold(self.work_sums, MINUTE_S, (*MACHINE_SPANS_S[1:], LIFE_S), from_s, to_s)
            hours = hours_to(from_s), hours_to(to_s)
            self._fold(self.use_sums, HOUR_S, (*USE_SPANS_S[1:], LIFE_S), *hours)
        if changes.forget_minutes_s is not None:
            for key in [key for key in self.work_sums if key.span_s == MINUTE_S]:
                if key.start_s < changes.forget_minutes_s:
                    del self.work_sums[key]

    def _fold(
        self,
        sums: dict[Key, list[int]],
        finest_s: int,
        spans_s: Sequence[int],
        from_s: int,
        to_s: int,
    ) -> None:
        fine = [
            (key, measures)
            for key, measures in sums.items()
            if key.span_s == finest_s and from_s <= key.start_s < to_s
        ]
        for span_s in spans_s:
            for key, measures in fine:
                start_s = key.start_s - key.start_s % span_s if span_s else 0
                _add(sums, {key._replace(span_s=span_s, start_s=start_s): measures})

    # ── sums ──────────────────────────────────────────────────────────────────────────

    async def work(
        self, stretch: Stretch, by: Sequence[WorkColumn], bucket_s: int, where: WorkWhere
    ) -> list[WorkSum]:
        found: dict[tuple[int, ModelId, MachineId, AccountId], list[int]] = {}
        slices = work_slices(stretch, bucket_s, self._folded())
        for key, measures in _within(self.work_sums, slices):
            wanted = (
                _named(key.model, where.models)
                and _named(key.machine, where.machines)
                and _named(key.payee, where.payees)
                and key.machine not in where.without_machines
            )
            if wanted:
                group = (
                    key.start_s - key.start_s % bucket_s if bucket_s else 0,
                    key.model if "model" in by else ModelId(""),
                    key.machine if "machine" in by else MachineId(""),
                    key.payee if "payee" in by else _NOBODY,
                )
                _plus(found, group, measures)
        check_count(len(found))
        return [WorkSum(*group, Work(*measures)) for group, measures in found.items()]

    async def use(
        self, stretch: Stretch, by: Sequence[UseColumn], bucket_s: int, where: UseWhere
    ) -> list[UseSum]:
        found: dict[tuple[int, ModelId, KeyId, AccountId], list[int]] = {}
        slices = use_slices(stretch, bucket_s, self._folded())
        for key, measures in _within(self.use_sums, slices):
            wanted = (
                _named(key.model, where.models)
                and _named(key.key_id, where.keys)
                and _named(key.owner, where.owners)
            )
            if wanted:
                group = (
                    key.start_s - key.start_s % bucket_s if bucket_s else 0,
                    key.model if "model" in by else ModelId(""),
                    key.key_id if "key_id" in by else KeyId(""),
                    key.owner if "owner" in by else _NOBODY,
                )
                _plus(found, group, measures)
        check_count(len(found))
        return [UseSum(*group, Use(*measures)) for group, measures in found.items()]

    async def work_since_s(self, payees: Sequence[AccountId]) -> int | None:
        spans_s = (HOUR_S, MINUTE_S)
        return min(
            (k.start_s for k in self.work_sums if k.payee in payees and k.span_s in spans_s),
            default=None,
        )

    async def use_since_s(self, owner: AccountId) -> int | None:
        return min(
            (k.start_s for k in self.use_sums if k.owner == owner and k.span_s == HOUR_S),
            default=None,
        )

    async def minutes_within(self, begin_s: int, end_s: int, rows: int) -> int:
        minutes = sorted(
            key.start_s
            for key in self.work_sums
            if key.span_s == MINUTE_S and begin_s <= key.start_s < end_s
        )
        if len(minutes) <= rows:
            return end_s
        return min(end_s, max(minutes[rows], begin_s + MINUTE_S))

    # ── pages ─────────────────────────────────────────────────────────────────────────

    async def bounds(self, begin_ns: int | None, end_ns: int | None) -> Bounds:
        ends = [row.finished_ns for row in self._requests.values()]
        after = sum(end < begin_ns for end in ends) if begin_ns is not None else 0
        if end_ns is None:
            return Bounds(after)
        return Bounds(after, 1 + sum(end < end_ns for end in ends))

    async def usage(
        self,
        owner: AccountId,
        bounds: Bounds,
        models: Sequence[ModelId],
        keys: Sequence[KeyId],
        limit: int,
    ) -> UsagePage:
        found = [
            Job(seq, 0, 0, row)
            for seq, row in self._numbered()
            if row.owner == owner and _named(row.model, models) and _named(row.key_id, keys)
        ]
        shown, rest = _page(found, bounds, limit)
        return UsagePage(tuple(job.row for job in shown), rest)

    async def jobs(
        self,
        payees: Sequence[AccountId],
        bounds: Bounds,
        models: Sequence[ModelId],
        machines: Sequence[MachineId],
        limit: int,
    ) -> JobPage:
        found = [
            job
            for job in self._jobs()
            if job.row.payee in payees
            and _named(job.row.model, models)
            and _named(job.row.machine, machines)
        ]
        shown, rest = _page(found, bounds, limit)
        return JobPage(tuple(shown), rest)

    def _numbered(self) -> Iterator[tuple[int, RequestRow]]:
        return ((seq, row) for seq, row in enumerate(self._requests.values(), 1) if is_served(row))

    def _jobs(self) -> Iterator[Job]:
        for seq, row in self._numbered():
            if row.deliveries is None:
                yield Job(seq, 0, 0, row)
                continue
            for part in self._deliveries[row.request_id]:
                if part.completion_tokens > 0 or part.number == row.deliveries - 1:
                    yield Job(seq, part.number, 0, part.as_request(row))


def _page(found: list[Job], at: Bounds, limit: int) -> tuple[list[Job], Bounds | None]:
    left = [
        job
        for job in found
        if job.seq > at.after and (job.seq, job.number) < (at.before, at.number)
    ]
    left.sort(key=lambda job: (job.seq, job.number), reverse=True)
    shown = left[:limit]
    if len(left) <= limit:
        return shown, None
    return shown, at._replace(before=shown[-1].seq, number=shown[-1].number) if shown else at


def _within(
    sums: Mapping[Key, list[int]], slices: Sequence[Slice]
) -> Iterator[tuple[Key, list[int]]]:
    for key, measures in sums.items():
        for piece in slices:
            if key.span_s == piece.span_s and piece.begin_s <= key.start_s < piece.end_s:
                yield key, measures


def _named(value: str | None, values: Sequence[str]) -> bool:
    return not values or value in values


def _add(sums: dict[Key, list[int]], more: Mapping[Key, list[int]]) -> None:
    for key, measures in more.items():
        _plus(sums, key, measures)


Group = TypeVar("Group", bound=tuple[object, ...])


def _plus(sums: dict[Group, list[int]], key: Group, measures: Sequence[int]) -> None:
    have = sums.get(key)
    sums[key] = (
        list(measures)
        if have is None
        else [one + other for one, other in zip(have, measures, strict=True)]
    )
