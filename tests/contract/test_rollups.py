"""Sums by time, wherever the ledger is kept: always those of the journal, however it is asked."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, get_args

import pytest

from market.accounting import reading
from market.accounting.folding import Folding
from market.accounting.histories import (
    EVER_S,
    UseColumn,
    UseWhere,
    WorkColumn,
    WorkWhere,
)
from market.accounting.periods import Between, Rolling, Stretch, buckets, stretch_of
from market.accounting.rollups import MINUTE_S, Use, Work
from market.accounting.rows import Changes
from market.accounting.state_rows import FoldedRow
from market.accounting.store import LedgerStore
from market.errors import InvalidRequest
from tests.support.past import BEGIN_S, KEYS, MACHINES, MODELS, NS, OWNERS, PAYEES, Past

Open = Callable[[], Awaitable[LedgerStore]]
DAY_S, HOUR_S = 86_400, 3_600


class Kept:
    """A past that is written batch by batch, with folding and forgetting in between."""

    def __init__(self, open_store: Open, seed: int) -> None:
        self._open = open_store
        self.rng = random.Random(seed)
        self.past = Past(self.rng)

    async def live(self, batches: int, gap_s: float) -> None:
        """Write so many batches; at times fold, forget or reopen in between."""
        self.store = await self._open()
        for _ in range(batches):
            changes = self.past.batch(self.rng.randrange(1, 12), gap_s)
            act = self.rng.random()
            if act < 0.3:
                await self.tidy(changes)
            await self.store.commit(changes)
            if act > 0.9:
                self.store = await self._open()

    async def tidy(self, changes: Changes) -> None:
        """Fold some of what is over, and forget some of what is old, in this commit."""
        folding = Folding((await self.store.load()).rows(FoldedRow))
        now_s = self.past.now_ns // NS
        from_s, to_s = folding.to_fold(now_s)
        if from_s < to_s:
            rows = self.rng.choice([0, 1, 5, 10**6])
            folding.fold(await self.store.histories.minutes_within(from_s, to_s, rows), changes)
        from_s, to_s = folding.to_forget(now_s)
        if from_s < to_s:
            rows = self.rng.choice([0, 3, 10**6])
            before_s = await self.store.histories.minutes_within(from_s, to_s, rows)
            folding.forget(before_s, changes)

    def stretch(self, grain_s: int) -> Stretch:
        """Some stretch of this past, or one that reaches beyond it."""
        ends = [self.rng.uniform(BEGIN_S - HOUR_S, self.past.now_ns / NS + HOUR_S) for _ in "ab"]
        begin_s, end_s = sorted(int(end) // grain_s * grain_s for end in ends)
        return Stretch(begin_s, end_s) if self.rng.random() < 0.8 else Stretch(None, EVER_S)

    def some(self, values: list[Any]) -> list[Any]:
        return self.rng.sample(values, self.rng.randint(0, 2))


@pytest.fixture(params=[1, 2, 3])
async def kept(opened: Open, request: pytest.FixtureRequest) -> Kept:
    """Three days and three months of requests, and one hour of many."""
    kept = Kept(opened, request.param)
    await kept.live(60, {1: 700.0, 2: 20_000.0, 3: 10.0}[request.param])
    return kept


async def test_every_question_about_work_is_answered_as_counted(kept: Kept) -> None:
    """Any stretch, told apart by anything, in any buckets, of anybody: to the token and the nano.

    Only minutes that were forgotten are refused, and then in words.
    """
    rng, refused = kept.rng, 0
    for _ in range(60):
        stretch = kept.stretch(rng.choice([MINUTE_S, HOUR_S, DAY_S]))
        by = [name for name in get_args(WorkColumn) if rng.random() < 0.5]
        sizes = [0, MINUTE_S, 5 * MINUTE_S, HOUR_S, 6 * HOUR_S, DAY_S]
        bucket_s = rng.choice(sizes) if stretch.begin_s is not None else 0
        where = WorkWhere(*map(kept.some, (MODELS, [*MACHINES, ""], PAYEES, MACHINES)))
        begin_s, end_s = stretch.begin_s or 0, stretch.end_s
        try:
            sums = await kept.store.histories.work(stretch, by, bucket_s, where)
        except InvalidRequest as error:
            refused += error.code == "too_fine"
            continue
        found = {tuple(one[:4]): one.work for one in sums}
        assert len(found) == len(sums)
        assert found == kept.past.work(
            begin_s,
            end_s,
            by,
            bucket_s,
            lambda piece, where=where: (  # type: ignore[misc]
                (not where.models or piece.model in where.models)
                and (not where.machines or piece.machine in where.machines)
                and (not where.payees or piece.payee in where.payees)
                and piece.machine not in where.without_machines
            ),
        )
    assert refused < 30


async def test_every_question_about_use_is_answered_as_counted(kept: Kept) -> None:
    """The same of callers, to the hour, failures too."""
    rng = kept.rng
    for _ in range(60):
        stretch = kept.stretch(rng.choice([HOUR_S, DAY_S]))
        by = [name for name in get_args(UseColumn) if rng.random() < 0.5]
        sizes = [0, HOUR_S, 6 * HOUR_S, DAY_S]
        bucket_s = rng.choice(sizes) if stretch.begin_s is not None else 0
        keys = [key for keys in KEYS.values() for key in keys]
        where = UseWhere(*map(kept.some, (MODELS, keys, OWNERS)))
        sums = await kept.store.histories.use(stretch, by, bucket_s, where)
        found = {tuple(one[:4]): one.use for one in sums}
        assert len(found) == len(sums)
        assert found == kept.past.use(
            stretch.begin_s or 0,
            stretch.end_s,
            by,
            bucket_s,
            lambda row, where=where: (  # type: ignore[misc]
                (not where.models or row.model in where.models)
                and (not where.keys or row.key_id in where.keys)
                and (not where.owners or row.owner in where.owners)
            ),
        )


async def test_sums_over_any_partition_are_the_total(kept: Kept) -> None:
    """By bucket, by model, by machine, by payee, by all of them: always the same in all."""
    stretch = stretch_of(Between(None, None), kept.past.now_ns // NS, MINUTE_S)
    store = kept.store.histories
    (whole,) = await store.work(stretch, (), 0, WorkWhere())
    served = [row for row in kept.past.rows if row.status == "settled" or row.cost_nano]
    assert whole.work.requests == len(served)
    assert whole.work.cost_nano == sum(row.cost_nano for row in served)
    assert whole.work.earned_nano == sum(row.provider_nano for row in served)
    assert whole.work.tokens == sum(row.prompt_tokens + row.completion_tokens for row in served)
    since = Stretch(BEGIN_S, stretch.end_s)
    for asked, by, bucket_s in (
        (stretch, ["model"], 0),
        (stretch, ["machine", "payee"], 0),
        (since, [], DAY_S),
        (since, ["model", "machine", "payee"], HOUR_S),
    ):
        parts = await store.work(asked, by, bucket_s, WorkWhere())
        assert Work(*map(sum, zip(*(one.work for one in parts), strict=True))) == whole.work
        assert all(one.work.cached_tokens <= one.work.prompt_tokens for one in parts)
        assert all(one.work.reasoning_tokens <= one.work.completion_tokens for one in parts)
    (used,) = await store.use(stretch_of(Between(None, None), 2**33, HOUR_S), (), 0, UseWhere())
    assert used.use.requests + used.use.failures == len(kept.past.rows)
    assert used.use.cost_nano == whole.work.cost_nano
    assert used.use.tokens == whole.work.tokens


async def test_minutes_are_forgotten_only_when_they_are_old(opened: Open) -> None:
    """After 31 days and not before; then their hours answer, and nothing finer is made up."""
    kept = Kept(opened, 4)
    kept.store = await opened()
    await kept.store.commit(kept.past.batch(20, 60))
    kept.past.now_ns += (reading.MINUTES_DAYS - 1) * DAY_S * NS
    for _ in range(3):
        changes = kept.past.batch(1, 1)
        while True:
            before = (await kept.store.load()).rows(FoldedRow)
            await kept.tidy(changes)
            await kept.store.commit(changes)
            changes = Changes(last_ts_ns=kept.past.now_ns)
            if before == (await kept.store.load()).rows(FoldedRow):
                break
        (row,) = before
        young = [one for one in kept.past.rows if one.finished_ns // NS >= row.minutes_from_s]
        assert row.minutes_from_s <= max(0, kept.past.now_ns // NS - 31 * DAY_S)
        found = await kept.store.histories.work(
            Stretch(row.minutes_from_s, EVER_S), (), 0, WorkWhere()
        )
        served = [one for one in young if one.status == "settled" or one.cost_nano]
        assert sum(one.work.requests for one in found) == len(served)
        kept.past.now_ns += DAY_S * NS
    assert row.minutes_from_s > BEGIN_S
    with pytest.raises(InvalidRequest, match="known by the hour"):
        await kept.store.histories.work(Stretch(BEGIN_S + MINUTE_S, EVER_S), (), 0, WorkWhere())
    whole = Stretch(BEGIN_S, BEGIN_S + HOUR_S)
    with pytest.raises(InvalidRequest, match="known by the hour"):
        await kept.store.histories.work(whole, (), MINUTE_S, WorkWhere())


async def test_a_job_of_25_hours_ago_is_in_the_week_and_not_in_the_day(opened: Open) -> None:
    """Nothing that is older than its window is in it, and nothing younger is left out."""
    store, past = await opened(), Past(random.Random(5))
    await store.commit(_one(past))
    for age_s, inside in (
        (0, ("24h", "7d", "30d", "all")),
        (DAY_S - MINUTE_S, ("24h", "7d", "30d", "all")),
        (25 * HOUR_S, ("7d", "30d", "all")),
        (8 * DAY_S, ("30d", "all")),
        (31 * DAY_S, ("all",)),
    ):
        now_s = past.now_ns // NS + age_s
        for window in ("24h", "7d", "30d", "all"):
            stretch = stretch_of(Rolling(window), now_s, MINUTE_S)
            found = await store.histories.work(stretch, (), 0, WorkWhere())
            assert bool(found) == (window in inside), (age_s, window)


def _one(past: Past) -> Changes:
    """One request that was served."""
    while True:
        changes = past.batch(1, 0)
        if changes.requests[0].status == "settled":
            return changes
        past.rows.clear()


async def test_a_restored_or_crashed_fold_is_done_once(opened: Open) -> None:
    """A fold and the note of how far it has come are in one commit: never one of the two alone."""
    store, past = await opened(), Past(random.Random(6))
    await store.commit(past.batch(50, 100))
    folding = Folding(())
    lost = Changes(last_ts_ns=past.now_ns)
    folding.fold(folding.to_fold(past.now_ns // NS)[1], lost)  # and then the process is killed
    for _ in range(2):
        store = await opened()
        folding = Folding((await store.load()).rows(FoldedRow))
        changes = Changes(last_ts_ns=past.now_ns)
        folding.fold(folding.to_fold(past.now_ns // NS)[1], changes)
        await store.commit(changes)

    whole = await store.histories.work(Stretch(None, EVER_S), (), 0, WorkWhere())
    assert {(0, "", "", ""): whole[0].work} == past.work(0, 2**40, (), 0, lambda _: True)


def test_buckets_cover_a_stretch_over_midnights_and_leap_days() -> None:
    """Each second is in one bucket, and days begin at midnight UTC on every day of the year."""
    for day_s in (BEGIN_S, 951_782_400, 1_709_164_800, 1_704_067_200):  # two leap days, a new year
        for begin_s, end_s in ((day_s - HOUR_S, day_s + HOUR_S), (day_s, day_s + 2 * DAY_S)):
            for bucket_s in (MINUTE_S, HOUR_S, DAY_S):
                starts = list(buckets(Stretch(begin_s, end_s), bucket_s))
                assert starts[0] <= begin_s < starts[0] + bucket_s
                assert starts[-1] < end_s <= starts[-1] + bucket_s
                assert all(start % bucket_s == 0 for start in starts)
                assert len(starts) == (starts[-1] - starts[0]) // bucket_s + 1


def test_nothing_used_is_nothing() -> None:
    """Sums begin at zero in every measure."""
    assert not any(Work())
    assert not any(Use())
