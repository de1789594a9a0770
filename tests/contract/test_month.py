"""A month of settled requests through the real accountant: every sum is the journal's.

By default a few thousand requests on each database; COSTER_LONG=1 lives a million on SQLite
and a hundred thousand on PostgreSQL.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from market.accounting.asking import RequestsAsked, SumsAsked
from market.accounting.periods import WINDOWS, Latest, Rolling
from market.accounting.rollups import Work
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.statistics import UseQuestion, WorkQuestion
from market.errors import Unavailable
from market.types import AccountId, MachineId, ModelId
from storage.database import StorageError
from storage.opening import open_rows, verify_ledger
from tests.support.month import MODELS, NS, Month
from tests.support.places import Place

LONG = os.environ.get("COSTER_LONG") == "1"
SEED = int(os.environ.get("COSTER_SEED", "20280229"))
DAY_S = 86_400


def size(place: Place) -> int:
    return (100_000 if place.database else 1_000_000) if LONG else 2_500


def ended(place: Place) -> Iterator[tuple[RequestRow, list[DeliveryRow]]]:
    """Every ended request with its deliveries, streamed from the journal itself."""
    rows = open_rows(place.data, place.database)
    parts = rows.journal("delivery")
    try:
        for _, *fields, _batch, _crc in rows.journal("request"):
            row = RequestRow(*fields)
            own = [DeliveryRow(*next(parts)[1:-2]) for _ in range(row.deliveries or 0)]
            yield row, own
        assert next(parts, None) is None
    finally:
        rows.close()


async def test_every_figure_of_a_month_is_the_journal_s(place: Place) -> None:
    """After cancels, failures, several Macs, expiries, restarts, jumps and folding at any moment.

    A full recount finds nothing, and the figures of windows, models and accounts are those that
    the journal gives when it is read from one end to the other.
    """
    month = Month(place.data, random.Random(SEED), place.database)
    await month.open()
    await month.live(size(place), 40 * DAY_S)
    while await month.accountant.fold():
        pass
    report = verify_ledger(place.data, place.database)
    assert report.problems == []
    assert report.sums is not None

    accountant = month.accountant
    now_s = max(month.now_ns, accountant._books.last_ts_ns) // NS
    sums: Counter[tuple[str, str]] = Counter()
    models: Counter[tuple[str, str]] = Counter()
    served = statuses = 0
    seen: set[str] = set()
    for row, parts in ended(place):
        seen.add(row.status)
        statuses += 1
        if row.status != "settled" and row.cost_nano == 0:
            continue
        served += 1
        age_s = now_s - row.finished_ns // NS
        for window, long_s in WINDOWS.items():
            # To the minute: what shares one with the window's beginning is out.
            begin_s = 0 if long_s is None else -(-(now_s - long_s) // 60) * 60
            if row.finished_ns // NS >= begin_s:
                sums[window, "requests"] += 1
                sums[window, "earned"] += row.provider_nano
                sums[window, "tokens"] += row.prompt_tokens + row.completion_tokens
                models[window, row.model] += row.completion_tokens
            else:
                assert age_s > (long_s or 0) - 60
        for part in parts or [row]:
            account = accountant._account_of(AccountId(str(part.payee)))
            sums["account", account] += part.provider_nano
    assert seen == {"settled", "voided", "expired"}

    for window in WINDOWS:
        told = await accountant.worked(WorkQuestion(Rolling(window), by=("model",)))
        works = [figure.work for figure in told.figures]
        whole = Work(*map(sum, zip(*works, strict=True)))
        assert whole.requests == sums[window, "requests"]
        assert whole.earned_nano == sums[window, "earned"]
        assert whole.tokens == sums[window, "tokens"]
        assert {figure.model: figure.work.completion_tokens for figure in told.figures} == {
            model: count for (one, model), count in models.items() if one == window
        }
    by_account = await accountant.worked(WorkQuestion(by=("account",)))
    assert {figure.account: figure.work.earned_nano for figure in by_account.figures} == {
        account: nano for (kind, account), nano in sums.items() if kind == "account"
    }
    (used,) = (await accountant.used(UseQuestion())).figures
    assert used.use.requests == served
    assert used.use.requests + used.use.failures == statuses
    days = await accountant.worked(WorkQuestion(Latest(DAY_S, 60), bucket_s=DAY_S))
    assert sum(figure.work.requests for figure in days.figures) == served
    await accountant.stop()


async def test_what_an_unlinked_machine_earned_is_its_owner_s_once_linked(place: Place) -> None:
    """Figures by account follow the link; in all they stay what they were."""
    month = Month(place.data, random.Random(1), place.database, machines=2, owners=2)
    await month.open()
    for _ in range(3):
        await month.batch()
    alone, machine = month.payee(1), month.machine(1)
    question = WorkQuestion(by=("account",))
    before = {f.account: f.work for f in (await month.accountant.worked(question)).figures}
    assert set(before) == {month.owner(0), alone}

    await month.accountant.link_machine(machine, month.owner(1), "op")

    after = {f.account: f.work for f in (await month.accountant.worked(question)).figures}
    assert after == {month.owner(0): before[month.owner(0)], month.owner(1): before[alone]}
    mine = await month.accountant.worked(WorkQuestion(accounts=frozenset({month.owner(1)})))
    assert mine.figures[0].work == before[alone]
    others = WorkQuestion(by=("machine",), without_machines=frozenset({machine}))
    assert [f.machine for f in (await month.accountant.worked(others)).figures] == [
        month.machine(0)
    ]
    one = WorkQuestion(
        models=frozenset({ModelId(MODELS[0])}), machines=frozenset({MachineId("mac_000")})
    )
    (figure,) = (await month.accountant.worked(one)).figures
    assert figure[:4] == (0, "", "", "")
    await month.accountant.stop()


@pytest.mark.parametrize("jump_s", [-3 * DAY_S, -3_600, 3_600, 3 * DAY_S, 400 * DAY_S])
async def test_a_clock_that_jumps_loses_and_doubles_nothing(place: Place, jump_s: int) -> None:
    """There and back again, with folding on both sides and a restart in between."""
    month = Month(place.data, random.Random(2), place.database, machines=2, owners=1)
    await month.open()
    for back in (jump_s, -jump_s, 0):
        await month.batch()
        await month.accountant.fold()
        month.now_ns += back * NS
        await month.batch()
        await month.accountant.stop()
        await month.open()
        while await month.accountant.fold():
            pass
    told = await month.accountant.worked(WorkQuestion(Rolling("all")))
    (figure,) = told.figures
    assert figure.work.requests == month.settled
    assert told.now_s * NS >= month.accountant._books.last_ts_ns - NS
    today = await month.accountant.worked(WorkQuestion(Rolling("24h")))
    assert today.figures, "what was just settled is of today, by the ledger's own clock"
    await month.accountant.stop()
    assert verify_ledger(place.data, place.database).problems == []


async def test_a_past_that_cannot_be_read_is_unavailable_and_hinders_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures and pages say so, folding waits, and requests are settled all the same."""
    month = Month(place.data, random.Random(3), place.database, machines=1, owners=1)
    await month.open()
    await month.batch()
    histories = month.accountant._store.histories

    async def away(*_: object) -> None:
        raise StorageError("the disk is gone")

    for name in ("work", "use", "usage", "jobs", "bounds", "minutes_within"):
        monkeypatch.setattr(histories, name, away)
    month.now_ns += 600 * NS
    owner = month.owner(0)
    reads: list[Callable[[], object]] = [
        lambda: month.accountant.worked(WorkQuestion()),
        lambda: month.accountant.used(UseQuestion()),
        lambda: month.accountant.usage_page(owner, RequestsAsked()),
        lambda: month.accountant.job_page(owner, RequestsAsked()),
        lambda: month.accountant.use_page(owner, SumsAsked()),
    ]
    for read in reads:
        with pytest.raises(Unavailable) as refused:
            await read()  # type: ignore[misc]
        assert refused.value.code == "history_unavailable"
    assert await month.accountant.fold()
    settled = month.settled
    await month.batch()
    assert month.settled > settled
    monkeypatch.undo()
    assert not await month.accountant.fold()
    (figure,) = (await month.accountant.worked(WorkQuestion())).figures
    assert figure.work.requests == month.settled
    await month.accountant.stop()
