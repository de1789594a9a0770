"""Pages of the past, wherever the ledger is kept: each request once, in order, and bounded."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from market.accounting.histories import EXAMINED_MAX, Bounds, earned
from market.accounting.rows import RequestRow
from market.accounting.store import LedgerStore
from storage import history_pages
from tests.support.past import BEGIN_S, KEYS, MACHINES, MODELS, NS, OWNERS, PAYEES, Past

Open = Callable[[], Awaitable[LedgerStore]]
EXAMINED = 25
"""A page looks at so few rows here that most of them end for that reason."""


@pytest.fixture
async def written(opened: Open, monkeypatch: pytest.MonkeyPatch) -> tuple[LedgerStore, Past]:
    """Four hundred requests, a third of them by several Macs."""
    monkeypatch.setattr(history_pages, "EXAMINED_MAX", EXAMINED)
    store, past = await opened(), Past(random.Random(21))
    for _ in range(20):
        await store.commit(past.batch(20, 400))
    return store, past


def span(past: Past) -> tuple[int | None, int | None]:
    """Some moments of this past, at times those of a request itself."""
    rng = past.rng
    moments: list[int | None] = [
        rng.choice([rng.randrange(BEGIN_S * NS, past.now_ns), rng.choice(past.rows).finished_ns])
        for _ in "ab"
    ]
    moments.sort()
    return moments[0] if rng.random() < 0.7 else None, moments[1] if rng.random() < 0.7 else None


def within(row: RequestRow, begin_ns: int | None, end_ns: int | None) -> bool:
    return (begin_ns or 0) <= row.finished_ns < (end_ns or 2**63)


def ended(row: RequestRow) -> int:
    return row.finished_ns


def told(row: RequestRow) -> str:
    return repr(row)


async def test_paging_tells_each_charged_request_once_newest_first(
    written: tuple[LedgerStore, Past],
) -> None:
    """Whatever the dates, models, keys and page sizes, while new requests go on ending."""
    store, past = written
    rng = past.rng
    for _ in range(12):
        owner, (begin_ns, end_ns) = rng.choice(OWNERS), span(past)
        models = rng.sample(MODELS, rng.randint(0, 2))
        keys = rng.sample(KEYS[owner], rng.randint(0, 1))
        wanted = [
            row
            for row in reversed(past.rows)
            if row.owner == owner
            and (row.status == "settled" or row.cost_nano)
            and within(row, begin_ns, end_ns)
            and (not models or row.model in models)
            and (not keys or row.key_id in keys)
        ]
        found: list[RequestRow] = []
        rest: Bounds | None = await store.histories.bounds(begin_ns, end_ns)
        first = True
        while rest is not None:
            limit = rng.choice([1, 3, 50])
            page = await store.histories.usage(owner, rest, models, keys, limit)
            assert len(page.rows) <= limit
            assert page.rest is None or page.rest.before < rest.before
            found += page.rows
            rest = page.rest
            if first:
                first = False
                await store.commit(past.batch(3, 1))
        assert found == wanted


async def test_paging_tells_each_job_of_a_payee_once_newest_first(
    written: tuple[LedgerStore, Past],
) -> None:
    """Of one payee or several, whole answers and pieces, in the order of request and Mac."""
    store, past = written
    rng = past.rng
    for _ in range(40):
        payees, (begin_ns, end_ns) = rng.sample(PAYEES, rng.randint(1, 3)), span(past)
        models = rng.sample(MODELS, rng.randint(0, 2))
        machines = rng.sample(MACHINES, rng.randint(0, 2))
        wanted = [
            piece.row
            for piece in past.pieces()
            if piece.payee in payees
            and within(piece.row, begin_ns, end_ns)
            and (not models or piece.model in models)
            and (not machines or piece.machine in machines)
        ]
        found: list[RequestRow] = []
        rest: Bounds | None = await store.histories.bounds(begin_ns, end_ns)
        pages = 0
        while rest is not None:
            limit, pages = rng.choice([1, 3, 50]), pages + 1
            page = await store.histories.jobs(payees, rest, models, machines, limit)
            assert len(page.jobs) <= limit
            places = [(job.seq, job.number) for job in page.jobs]
            assert places == sorted(places, reverse=True)
            if places:
                assert places[0] < (rest.before, rest.number)
            found += [job.row for job in page.jobs]
            rest = page.rest
        assert [row.request_id for row in found] == [
            row.request_id for row in sorted(wanted, key=ended, reverse=True)
        ]
        assert sorted(found, key=told) == sorted(wanted, key=told)
        assert pages <= 2 * len(past.rows)


async def test_a_moment_is_found_among_requests_and_deliveries(
    written: tuple[LedgerStore, Past],
) -> None:
    """To the nanosecond: who ended at it is in, who ended before it is not."""
    store, past = written
    ends = [row.finished_ns for row in past.rows]
    for at_ns in (0, ends[0], ends[0] + 1, ends[57], ends[57] - 1, ends[-1], ends[-1] + 1, 2**62):
        found = await store.histories.bounds(at_ns, at_ns)
        before = sum(end < at_ns for end in ends)
        assert (found.after, found.before) == (before, before + 1)
    assert await store.histories.bounds(None, None) == Bounds()


async def test_earnings_are_those_of_the_pages(written: tuple[LedgerStore, Past]) -> None:
    """Total and number from the sums, the newest from the pages, however many are asked for."""
    store, past = written
    for payees in ([PAYEES[0]], PAYEES, []):
        pieces = [piece for piece in past.pieces() if piece.payee in payees]
        for limit in (0, 1, 60, 10_000):
            sums = await earned(store.histories, payees, limit)
            assert sums.jobs == len(pieces)
            assert sums.total_nano == sum(piece.work.earned_nano for piece in pieces)
            assert len(sums.recent) == min(limit, len(pieces))


def test_a_page_looks_at_more_than_one_answer_can_have() -> None:
    """Or a page could end within one request's deliveries again and again."""
    assert EXAMINED_MAX > 1_000
