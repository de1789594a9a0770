"""What the books are bound to: limits told with refusals, machines, the payment processor."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from market import keys
from market.accounting.registry import unclaimed
from market.errors import Conflict, MarketError, NotFound
from market.messages import RateState
from market.types import MachineId
from storage.pepper import load_pepper
from tests.support.ledger_bench import Bench, start

MACHINE = MachineId("mac_1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def bench(data: Path) -> AsyncIterator[Bench]:
    bench = await start(data)
    yield bench
    await bench.accountant.stop()


async def test_a_refusal_tells_the_callers_limits_too(data: Path) -> None:
    """The 61st request of a minute is refused with the same state that an answer carries."""
    bench = await start(data)
    account, _, _ = await bench.accountant.create_account("Ann")
    _, secret = await bench.accountant.create_key(account, "k")
    hashed = keys.key_hash(secret, load_pepper(data))
    replies = [
        (await bench.do(replace(bench.admit(f"req_{n}"), key_hash=hashed)))[0] for n in range(61)
    ]
    await bench.accountant.stop()

    refused = replies[-1]
    assert isinstance(refused, MarketError)
    assert refused.code == "requests_per_minute"
    assert isinstance(refused.rate, RateState)
    assert (refused.rate.limit_requests, refused.rate.remaining_requests) == (60, 0)
    assert pickle.loads(pickle.dumps(refused)).rate == refused.rate


async def test_a_linked_machine_earns_for_its_account_whatever_its_label(bench: Bench) -> None:
    """Linked: the account. Unlinked again: as its label says; and both are in the journal."""
    accountant = bench.accountant
    ann, _, _ = await accountant.create_account("Ann")
    earned = []
    for number in range(3):
        if number == 1:
            await accountant.link_machine(MACHINE, ann, "op")
        if number == 2:
            assert await accountant.unlink_machine(MACHINE, "op") == ann
        await bench.do(bench.admit(f"req_{number}"))
        await bench.do(bench.settle(f"req_{number}"))
        balances = [await accountant.balance(owner) for owner in (bench.provider, ann)]
        earned.append([balance.earnings_nano for balance in balances])
    with pytest.raises(NotFound):
        await accountant.unlink_machine(MACHINE, "op")

    (one, none), (still, first), (two, last) = earned
    assert (none, still, first, two, last) == (0, one, one, 2 * one, one)
    assert unclaimed(MACHINE) not in accountant._books.customers


async def test_books_that_have_met_one_processor_meet_no_other(data: Path) -> None:
    """Also after a restart; the one they have met is welcome as often as it comes."""
    bench = await start(data)
    await bench.accountant.bind_processor("test")
    await bench.accountant.stop()
    bench = await start(data)
    try:
        await bench.accountant.bind_processor("test")
        with pytest.raises(Conflict) as refused:
            await bench.accountant.bind_processor("stripe")
    finally:
        await bench.accountant.stop()

    assert refused.value.code == "other_processor"
    assert "test payments" in refused.value.message
