"""One suite for every place the ledger can be kept: in memory, on SQLite, on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from market.accounting.chart import Code, Posting
from market.accounting.laws import broken_laws
from market.accounting.ledger import Ledger, funding_of
from market.accounting.rows import (
    Changes,
    CheckpointRow,
    HoldRow,
    OperationRow,
    Revenue,
    Snapshot,
)
from market.accounting.state_rows import (
    EventRow,
    KeyRow,
    OutcomeRow,
    OwnerRow,
    PriceRow,
    QuotaRow,
)
from market.accounting.store import LedgerStore
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId
from storage.database import Fenced

ANN, BOB = AccountId("acct_ann"), AccountId("acct_bob")
Open = Callable[[], Awaitable[LedgerStore]]


def terms(ledger: Ledger, request_id: str, max_tokens: int = 10) -> HoldRow:
    amount = 5 * 100 + max_tokens * 780
    funding = funding_of(ledger.available(ANN), amount)
    assert funding is not None
    return HoldRow(
        RequestId(request_id), ANN, KeyId("key_1"), ModelId("m"), 5, None, 100, 1, max_tokens,
        funding.promo_nano, funding.cash_nano, funding.earnings_nano, 100, 780, 500, 7,
    )  # fmt: skip


def finish(ledger: Ledger, request_id: str, tokens: int, now_ns: int) -> None:
    done = CheckpointRow(5, tokens, 2, 1, BOB, MachineId("mac_1"), ProviderId("prv_1"))
    ledger.settle(
        ledger.holds[RequestId(request_id)],
        done,
        status="settled",
        finish_reason="stop",
        attempts=2,
        ttft_ms=12.5,
        total_ms=80.25,
        now_ns=now_ns,
    )


KEY = KeyRow(KeyId("key_1"), ANN, b"h" * 32, "", "sk-coster-abcd", "inference", 3, None, None)


def first_changes(ledger: Ledger) -> Changes:
    """Two owners, a key, promo credit, an operation and two holds."""
    ledger.changes.put(OwnerRow(ANN, "Ann", "free", 1))
    ledger.changes.put(OwnerRow(BOB, "Böb 🍎", "paid", 2))
    ledger.changes.put(KEY)
    ledger.changes.operations.append(OperationRow("k", "f", "r", 4))
    ledger.grant_promo(ANN, 10**9, 5)
    for number in range(2):
        ledger.hold(terms(ledger, f"req_{number}"), lease_ends_tick_ns=0)
    changes = ledger.take()
    changes.last_ts_ns = 5
    return changes


async def test_what_was_committed_is_what_is_loaded(opened: Open) -> None:
    """Owners, keys, accounts, holds with their checkpoints, operations and the clock."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish(ledger, "req_0", 7, 9)
    progress = CheckpointRow(5, 3, 0, 0, BOB, MachineId("mac_1"), ProviderId("prv_1"))
    ledger.checkpoint(ledger.holds[RequestId("req_1")], progress, 0)
    changes = ledger.take()
    changes.put(QuotaRow(ANN, 20_000, 12))
    changes.put(KEY._replace(revoked_ns=8))
    changes.last_ts_ns = 9
    await store.commit(changes)

    loaded = await (await opened()).load()

    assert [owner.name for owner in loaded.rows(OwnerRow)] == ["Ann", "Böb 🍎"]
    assert [(key.hash, key.revoked_ns) for key in loaded.rows(KeyRow)] == [(b"h" * 32, 8)]
    assert [(hold.request_id, at) for hold, at in loaded.holds] == [("req_1", progress)]
    assert loaded.operations == (OperationRow("k", "f", "r", 4),)
    assert loaded.rows(QuotaRow) == [QuotaRow(ANN, 20_000, 12)]
    assert loaded.last_ts_ns == 9
    again = Ledger(loaded, lease_ends_tick_ns=0)
    assert broken_laws(again) == []
    for owner in (ANN, BOB):
        assert again.available(owner) == ledger.available(owner)
        assert again.held(owner) == ledger.held(owner)
    assert again.account(Code.PLATFORM_FEE).cpo == (5 * 100 + 7 * 780) * 500 // 10_000


async def test_finished_requests_are_found_by_id_with_every_field(opened: Open) -> None:
    """A settlement comes back as it was written, floats and missing values included."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish(ledger, "req_0", 7, 9)
    changes = ledger.take()
    (written,) = changes.requests
    await store.commit(changes)

    found = await store.finished([RequestId(f"req_{number}") for number in range(1200)])

    assert found == [written]
    assert await store.finished([]) == []


async def test_usage_is_the_owners_newest_first_and_bounded(opened: Open) -> None:
    """Only the owner's charged requests, in the order they ended, at most `limit`."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    for number in range(2, 6):
        ledger.hold(terms(ledger, f"req_{number}"), lease_ends_tick_ns=0)
        finish(ledger, f"req_{number}", number, number)
    await store.commit(ledger.take())

    assert [row.request_id for row in await store.usage(ANN, 3)] == ["req_5", "req_4", "req_3"]
    assert await store.usage(BOB, 3) == []
    assert await store.usage(ANN, 0) == []


async def test_earnings_are_summed_over_all_and_listed_newest_first(opened: Open) -> None:
    """Sum and number are of every request that paid the accounts, the list of the newest."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish(ledger, "req_0", 7, 9)
    finish(ledger, "req_1", 4, 10)
    await store.commit(ledger.take())

    found = await store.earned([BOB, AccountId("acct_nobody")], 1)

    costs = [5 * 100 + tokens * 780 for tokens in (7, 4)]
    assert found.total_nano == sum(cost - cost * 500 // 10_000 for cost in costs)
    assert (found.jobs, [row.request_id for row in found.recent]) == (2, ["req_1"])
    assert await store.earned([ANN], 5) == (0, 0, ())


async def test_a_hold_that_lived_within_one_batch_leaves_no_trace(opened: Open) -> None:
    """Opened and settled between two commits: the request is there, the hold never was."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    changes = first_changes(ledger)
    await store.commit(changes)
    ledger.hold(terms(ledger, "req_9"), lease_ends_tick_ns=0)
    finish(ledger, "req_9", 3, 9)
    await store.commit(ledger.take())

    loaded = await (await opened()).load()

    assert {hold.request_id for hold, _ in loaded.holds} == {"req_0", "req_1"}


async def test_a_superseded_incarnation_commits_nothing(opened: Open) -> None:
    """Once the ledger is opened again, the earlier store is fenced, and says so."""
    old, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await old.commit(first_changes(ledger))
    new = await opened()
    finish(ledger, "req_0", 7, 9)

    with pytest.raises(Fenced):
        await old.commit(ledger.take())
    assert await new.finished([RequestId("req_0")]) == []
    assert len((await new.load()).holds) == 2


async def test_a_commit_is_all_or_nothing(opened: Open) -> None:
    """When one row of a batch cannot be written, none of the others is."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish(ledger, "req_0", 7, 9)
    good = ledger.take()
    finish(ledger, "req_1", 7, 10)
    bad = ledger.take()
    bad.requests.append(good.requests[0])
    await store.commit(good)

    with pytest.raises(Exception, match=r"req_0|UNIQUE|unique"):
        await store.commit(bad)
    loaded = await (await opened()).load()
    assert [hold.request_id for hold, _ in loaded.holds] == ["req_1"]
    assert broken_laws(Ledger(loaded, lease_ends_tick_ns=0)) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_revenue_is_summed_since_a_time_and_bounded(opened: Open, limit: int) -> None:
    """By payee and consumer, over the newest requests that ended at that time or later."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    ledger.hold(terms(ledger, "req_2"), lease_ends_tick_ns=0)
    for number, tokens in enumerate((1, 2, 3)):
        finish(ledger, f"req_{number}", tokens, 100 * (number + 1))
    await store.commit(ledger.take())
    earned = {100 * n: (500 + n * 780) - (500 + n * 780) * 500 // 10_000 for n in (1, 2, 3)}

    for since_ns in (0, 1, 100, 101, 200, 300, 301):
        newest = sorted(earned)[-limit:]
        wanted = sum(earned[ns] for ns in newest if ns >= since_ns)
        found = await store.revenue(since_ns, limit)
        assert found == ([Revenue(BOB, ANN, wanted)] if wanted else []), since_ns


async def test_state_rows_are_found_paged_replaced_and_dropped(opened: Open) -> None:
    """By their columns, newest first, a page at a time; as they are now, not as they were."""
    store = await opened()
    changes = Changes(last_ts_ns=1)
    prices = [PriceRow(ModelId(f"m{n % 2}"), n, n, n, n, "op", "é \x01") for n in range(1, 9)]
    kept = OutcomeRow(RequestId("req_1"), bytes(range(256)), 5)
    for row in (*prices, kept):
        changes.put(row)
    await store.commit(changes)
    changes = Changes(last_ts_ns=2)
    changes.put(prices[7]._replace(reason="again"))
    changes.drop(prices[1])
    changes.drop(kept)
    await store.commit(changes)

    page = await store.rows(PriceRow, model=ModelId("m0"), limit=2)
    rest = await store.rows(PriceRow, model=ModelId("m0"), before_ns=page[-1].created_ns)

    assert page == [prices[7]._replace(reason="again"), prices[5]]
    assert rest == [prices[3]]
    assert await store.rows(OutcomeRow, request_id=RequestId("req_1")) == []
    assert len((await (await opened()).load()).rows(PriceRow)) == 7


async def test_what_has_ended_is_kept_but_not_loaded(opened: Open) -> None:
    """A notice that is done is history: found when asked for, absent at start."""
    store = await opened()
    changes = Changes(last_ts_ns=1)
    events = [EventRow(f"evt_{s}", "k", "s", s, 0, "", n, n) for n, s in enumerate(("new", "done"))]
    for event in events:
        changes.put(event)
    await store.commit(changes)

    assert (await (await opened()).load()).rows(EventRow) == events[:1]
    assert await store.rows(EventRow, state="done") == events[1:]


async def test_rows_may_be_asked_for_by_when_they_changed(opened: Open) -> None:
    """In that order, and before that moment, whatever date they bear themselves."""
    store = await opened()
    changes = Changes(last_ts_ns=1)
    events = [EventRow(f"evt_{n}", "k", "s", "done", 0, "", 9 - n, n) for n in range(4)]
    for event in events:
        changes.put(event)
    await store.commit(changes)

    assert await store.rows(EventRow, by="changed_ns", before_ns=3) == events[2::-1]
    assert await store.rows(EventRow, by="changed_ns", before_ns=3, limit=1) == events[2:3]
    assert await store.rows(EventRow, before_ns=8) == events[2:]


async def test_a_cancelled_commit_has_happened_all_the_same(opened: Open) -> None:
    """Its caller may be gone; the next commit follows it in the chain."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    doomed = asyncio.create_task(store.commit(first_changes(ledger)))
    await asyncio.sleep(0)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    finish(ledger, "req_0", 7, 9)
    await store.commit(ledger.take())

    loaded = await (await opened()).load()
    assert [hold.request_id for hold, _ in loaded.holds] == ["req_1"]
    assert broken_laws(Ledger(loaded, lease_ends_tick_ns=0)) == []


async def test_postings_are_found_by_their_id_with_every_leg(opened: Open) -> None:
    """Whoever asks for some ids gets all legs of these, in order, and no other posting."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    clearing, cash = ledger.account(Code.STRIPE_CLEARING), ledger.account(Code.CONSUMER_CASH, ANN)
    for name, leg, nano in (("b", 1, 3), ("b", 0, 2), ("a", 0, 1), ("c", 0, 4)):
        ledger.post(
            name,
            leg,
            debit=clearing,
            credit=cash,
            amount_nano=nano,
            posting=Posting.TOP_UP,
            ts_ns=1,
        )
    await store.commit(ledger.take())

    found = await store.transfers(["b", "a", "nobody"])

    assert [(row.id, row.leg, row.amount_nano) for row in found] == [
        ("a", 0, 1),
        ("b", 0, 2),
        ("b", 1, 3),
    ]
    assert await store.transfers([]) == []
