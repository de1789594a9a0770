"""An answer by several Macs, wherever the ledger is kept: written, told, paid and repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from actors.accountant import Accountant
from market import keys
from market.accounting.ledger import Ledger
from market.accounting.parts import parts_text
from market.accounting.registry import unclaimed
from market.accounting.rows import CheckpointRow, Revenue, Snapshot
from market.accounting.store import LedgerStore
from market.errors import Conflict, NotFound
from market.messages import Checkpoint, Part, Settle, Settled, Void
from market.types import AccountId, MachineId, ProviderId, RequestId, Usage
from storage.pepper import load_pepper
from tests.contract.test_ledger_store import ANN, BOB, finish, first_changes, terms
from tests.support.ledger_bench import Bench
from tests.support.places import Place

Open = Callable[[], Awaitable[LedgerStore]]
CAT = AccountId("acct_cat")
PROVIDER, OTHER = AccountId("acct_provider"), AccountId("acct_other")


def part(payee: AccountId, tokens: int, ask_pct: int = 100) -> Part:
    return Part(payee, MachineId("mac_9"), ProviderId("prv_9"), tokens, ask_pct)


def finish_several(ledger: Ledger, request_id: str, *before: Part, now_ns: int = 20) -> None:
    """Seven tokens in all; Bob's Mac is the one that finished."""
    done = CheckpointRow(5, 7, 2, 1, BOB, MachineId("mac_1"), ProviderId("prv_1"), 50)
    ledger.settle(
        ledger.holds[RequestId(request_id)],
        done,
        status="settled",
        finish_reason="stop",
        attempts=2,
        ttft_ms=12.5,
        total_ms=80.25,
        now_ns=now_ns,
        before=before,
    )


# ── the store ─────────────────────────────────────────────────────────────────────────


async def test_deliveries_are_found_by_request_in_order(opened: Open) -> None:
    """With every field, those of the requests asked for and no others; ordinary ones have none."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish(ledger, "req_0", 7, 9)
    finish_several(ledger, "req_1", part(CAT, 3, 80), part(ANN, 0))
    changes = ledger.take()
    await store.commit(changes)

    found = await store.deliveries([RequestId("req_1"), RequestId("req_0"), RequestId("req_x")])

    assert found == changes.deliveries
    assert [(row.number, row.payee, row.ask_pct) for row in found] == [
        (0, CAT, 80),
        (1, ANN, 100),
        (2, BOB, 50),
    ]
    assert await store.deliveries([RequestId("req_0")]) == []
    assert await store.deliveries([]) == []
    told = {row.request_id: row.deliveries for row in await store.finished(
        [RequestId("req_0"), RequestId("req_1")]
    )}  # fmt: skip
    assert told == {"req_0": None, "req_1": 3}


async def test_the_next_incarnation_goes_on_numbering_deliveries(opened: Open) -> None:
    """A second multi-Mac answer after a restart finds its own numbers free."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    finish_several(ledger, "req_0", part(CAT, 3))
    await store.commit(ledger.take())
    store = await opened()
    again = Ledger(await store.load(), lease_ends_tick_ns=0)
    finish_several(again, "req_1", part(CAT, 2))
    await store.commit(again.take())

    found = await store.deliveries([RequestId("req_0"), RequestId("req_1")])
    assert [row.completion_tokens for row in found] == [3, 4, 2, 5]


async def test_a_checkpoint_s_parts_and_ask_are_loaded_again(opened: Open) -> None:
    """As they were said last; a hold without any has none."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    text = parts_text([part(CAT, 3, 80)])
    progress = CheckpointRow(5, 3, 0, 0, BOB, MachineId("m"), ProviderId("p"), 95, text)
    ledger.checkpoint(ledger.holds[RequestId("req_1")], progress, 0)
    await store.commit(ledger.take())

    loaded = await (await opened()).load()

    assert [at for _, at in loaded.holds] == [CheckpointRow(), progress]


async def test_a_part_counts_for_the_mac_that_delivered_it(opened: Open) -> None:
    """Earnings, revenue and promo paid: nobody gets another's share, all shares are told."""
    store, ledger = await opened(), Ledger(Snapshot(), lease_ends_tick_ns=0)
    await store.commit(first_changes(ledger))
    ledger.hold(terms(ledger, "req_2"), lease_ends_tick_ns=0)
    finish(ledger, "req_0", 7, 10)
    finish_several(ledger, "req_1", part(CAT, 3), part(ANN, 1), part(CAT, 0), now_ns=20)
    finish_several(ledger, "req_2", part(BOB, 2), now_ns=30)
    changes = ledger.take()
    await store.commit(changes)
    shares = {(row.request_id, row.number): row.provider_nano for row in changes.deliveries}
    whole = changes.requests[0].provider_nano
    cats = shares["req_1", 0]
    bobs = whole + shares["req_1", 3] + shares["req_2", 0] + shares["req_2", 1]

    by_cat, by_bob = await store.earned([CAT], 9), await store.earned([BOB], 9)
    assert (by_cat.total_nano, by_cat.jobs) == (cats, 1)
    assert (by_bob.total_nano, by_bob.jobs) == (bobs, 4)
    assert [(row.request_id, row.machine) for row in by_bob.recent] == [
        ("req_2", "mac_1"),
        ("req_2", "mac_9"),
        ("req_1", "mac_1"),
        ("req_0", "mac_1"),
    ]
    assert sum(row.provider_nano for row in by_bob.recent) == bobs
    assert [row.provider_nano for row in by_cat.recent] == [cats]
    assert [row.completion_tokens for row in (await store.earned([CAT, BOB], 2)).recent] == [5, 2]
    both = await store.earned([CAT, BOB], 0)
    assert (both.total_nano, both.jobs, both.recent) == (bobs + cats, 5, ())
    assert sorted(await store.revenue(0, 100)) == [
        Revenue(BOB, ANN, bobs),
        Revenue(CAT, ANN, cats),
    ]  # Ann's own promo credit earned her nothing
    assert await store.revenue(25, 100) == [
        Revenue(BOB, ANN, shares["req_2", 0] + shares["req_2", 1])
    ]
    assert await store.promo_paid(ANN, CAT) == cats
    assert await store.promo_paid(ANN, BOB) == bobs
    assert await store.promo_paid(ANN, ANN) == await store.promo_paid(BOB, CAT) == 0


# ── the accountant ────────────────────────────────────────────────────────────────────


def several(bench: Bench, request: str) -> Settle:
    """The other provider's Mac is lost after 100 tokens; ours goes on at 90 %."""
    done = bench.settle(request)
    return replace(done, before=(part(OTHER, 100, 95),), ask_pct=90)


COST_NANO = 100 * 741 + 412 * 90 + 87 * 702


async def test_a_settlement_with_parts_may_be_repeated_after_a_restart(place: Place) -> None:
    """The first answer again, and nobody is paid twice; another one is still refused."""
    bench = await place.start()
    await bench.do(bench.admit("req_1"))
    (first,) = await bench.do(several(bench, "req_1"))
    await bench.accountant.stop()
    bench = await place.start()
    try:
        (again,) = await bench.do(several(bench, "req_1"))
        (other,) = await bench.do(replace(several(bench, "req_1"), ask_pct=91))
        (ordinary,) = await bench.do(bench.settle("req_1"))
        paid = [await earned(bench.accountant, account) for account in (OTHER, PROVIDER)]
    finally:
        await bench.accountant.stop()

    assert isinstance(first, Settled)
    assert again == first
    assert first.cost_nano == COST_NANO
    assert [getattr(refused, "code", None) for refused in (other, ordinary)] == [
        "settled_differently"
    ] * 2
    assert isinstance(other, Conflict)
    assert paid == [(100 * 741, 1), (412 * 90 + 87 * 702, 1)]
    assert place.verify().problems == []
    assert place.verify().counts["deliveries"] == 2


async def test_who_delivered_a_request_is_told_also_after_a_restart(place: Place) -> None:
    """Each Mac once, in order; one that delivered all of it is told from the request's own row,
    with the same sums; a running or voided request, that nobody was paid; a stranger, nothing.
    """
    bench = await place.start()
    names = [RequestId(name) for name in ("req_1", "req_2", "req_3", "req_4")]
    await bench.do(*map(bench.admit, names))
    await bench.do(several(bench, names[0]), bench.settle(names[1]), Void(names[2], "gone"))
    before = [await bench.accountant.deliveries(None, name) for name in names]
    await bench.accountant.stop()
    bench = await place.start()
    try:
        after = [await bench.accountant.deliveries(bench.consumer, name) for name in names]
        rows = [await bench.accountant.generation(None, name) for name in names]
        with pytest.raises(NotFound):
            await bench.accountant.deliveries(OTHER, names[0])
    finally:
        await bench.accountant.stop()

    assert before == after
    parts, one, *none = after
    assert [(d.payee, d.completion_tokens, d.ask_pct) for d in parts] == [
        (OTHER, 100, 95),
        (PROVIDER, 87, 90),
    ]
    assert [(d.payee, d.completion_tokens, d.ask_pct) for d in one] == [(PROVIDER, 187, 100)]
    assert none == [[], []]
    for deliveries, row in zip(after, rows, strict=True):
        for name in ("cost_nano", "provider_nano", "fee_nano", "promo_nano"):
            paid = sum(getattr(delivery, name) for delivery in deliveries)
            assert paid == (getattr(row, name) if deliveries else 0)


async def earned(accountant: Accountant, account: AccountId) -> tuple[int, int]:
    statement = await accountant.earnings(account)
    assert statement.balance.earnings_nano == statement.earned.total_nano
    return statement.earned.total_nano, statement.earned.jobs


async def test_a_lease_with_parts_expires_for_each_mac_even_after_a_restart(place: Place) -> None:
    """What the dead gateway said last is what each Mac is paid for, by the next accountant."""
    bench = await place.start()
    await bench.do(bench.admit("req_1"))
    done = several(bench, "req_1")
    told = Checkpoint(
        done.request_id, Usage(412, 120), done.payee, done.machine, done.provider, 90, done.before
    )
    assert await bench.do(told) == [None]
    await bench.accountant.stop()
    bench = await place.start(lease_ttl_s=0.0)
    try:
        (row,) = await bench.accountant.sweep()
        paid = [await earned(bench.accountant, account) for account in (OTHER, PROVIDER)]
    finally:
        await bench.accountant.stop()

    assert (row.status, row.completion_tokens, row.deliveries) == ("expired", 120, 2)
    assert paid == [(100 * 741, 1), (412 * 90 + 20 * 702, 1)]
    assert place.verify().problems == []


@pytest.mark.parametrize("lost", [True, False], ids=["as a part", "as the finisher"])
async def test_linking_a_machine_takes_back_own_promo_of_a_part_too(
    place: Place, *, lost: bool
) -> None:
    """Ann's promo credit paid an unlinked Mac for a piece of an answer; she links it: it goes."""
    bench = await place.start()
    accountant, machine = bench.accountant, MachineId("mac_new")
    ann, _, _ = await accountant.create_account("Ann")
    _, secret = await accountant.create_key(ann, "k")
    hashed = keys.key_hash(secret, load_pepper(place.data))
    try:
        for request, key_hash in (("req_ann", hashed), ("req_other", bench.key_hash)):
            await bench.do(replace(bench.admit(request), key_hash=key_hash))
            mine, theirs = (unclaimed(machine), machine), (PROVIDER, MachineId("mac_1"))
            first, last = (mine, theirs) if lost else (theirs, mine)
            op = replace(
                bench.settle(request),
                payee=last[0],
                machine=last[1],
                before=(Part(*first, ProviderId("prv_9"), 100),),
            )
            (done,) = await bench.do(op)
            assert isinstance(done, Settled)
        piece = 78_000 if lost else 109_060

        assert await earned(accountant, unclaimed(machine)) == (2 * piece, 2)
        assert await accountant.link_machine(machine, ann, "op") == piece
        assert (await accountant.balance(ann)).earnings_nano == piece
        assert (await accountant.balance(PROVIDER)).earnings_nano == 2 * (187_060 - piece)
    finally:
        await accountant.stop()
    assert place.verify().problems == []
