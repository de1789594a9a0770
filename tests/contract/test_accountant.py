"""The accountant on real databases: concurrency, restarts, kills, fences and refusals."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.accountant import Accountant, AccountantSettings, Clock
from market import keys
from market.errors import Conflict, InvalidRequest, MarketError, NotFound, Unavailable
from market.messages import (
    Admitted,
    Checkpoint,
    KeyRecord,
    ResolveKey,
    Settled,
    Void,
    Voided,
)
from market.types import MachineId, ProviderId, RequestId, Usage
from storage.database import LEDGER_FILE, StorageError
from storage.ledger_store import SqliteLedgerStore
from storage.pepper import load_pepper
from storage.verify import verify
from tests.support.ledger_bench import HOLD_NANO, Bench, equip, start
from tests.support.places import Place

ROOT = Path(__file__).resolve().parents[2]
LIVES = int(os.environ.get("COSTER_LEDGER_KILLS", "24"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def bench(data: Path) -> AsyncIterator[Bench]:
    bench = await start(data)
    yield bench
    await bench.accountant.stop()
    assert verify(data).problems == []


async def test_a_new_account_gets_promo_credit_and_a_management_key(bench: Bench) -> None:
    """Its first key manages keys and reads bills, and cannot spend."""
    account, key, secret = await bench.accountant.create_account("Ann")

    record, refused = await bench.do(
        ResolveKey(keys.key_hash(secret, load_pepper(bench.accountant._settings.data))),
        replace(
            bench.admit("req_x"),
            key_hash=keys.key_hash(secret, load_pepper(bench.accountant._settings.data)),
        ),
    )
    assert isinstance(record, KeyRecord)
    assert record == key
    assert (key.account, key.scopes, key.tier) == (account, keys.MANAGEMENT_SCOPES, "free")
    assert isinstance(refused, MarketError)
    assert refused.status == 403
    balance = await bench.accountant.balance(account)
    assert (balance.balance_nano, balance.withdrawable_nano) == (10_000_000_000, 0)


async def test_keys_are_listed_revoked_and_kept_apart(bench: Bench) -> None:
    """A list shows prefixes, a revoked key is refused at once, others' keys do not exist."""
    accountant = bench.accountant
    record, secret = await accountant.create_key(bench.consumer, "laptop")
    hashed = keys.key_hash(secret, load_pepper(accountant._settings.data))
    assert (await bench.do(ResolveKey(hashed)))[0] == record

    with pytest.raises(NotFound):
        await accountant.revoke_key(bench.provider, record.key_id)
    revoked = await accountant.revoke_key(bench.consumer, record.key_id)

    assert revoked.revoked_s is not None
    assert (await bench.do(ResolveKey(hashed)))[0].code == "revoked_api_key"  # type: ignore[attr-defined]
    listed = await accountant.list_keys(bench.consumer)
    assert [(key.name, key.prefix) for key in listed][-1] == ("laptop", secret[:14])


async def test_an_idempotency_key_creates_one_account(place: Place) -> None:
    """A repetition, even after a restart, gives the same account, key and secret."""
    bench = await place.start()
    first = await bench.accountant.create_account("Ann", idempotency="once")
    await bench.accountant.stop()
    bench = await place.start()
    try:
        second = await bench.accountant.create_account("Ann", idempotency="once")
        other = await bench.accountant.create_account("Ann", idempotency="twice")
        with pytest.raises(Conflict) as reused:
            await bench.accountant.create_account("Bob", idempotency="once")
    finally:
        await bench.accountant.stop()

    assert second == first
    assert other[0] != first[0]
    assert reused.value.code == "idempotency_key_reused"


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "x" * 101])
async def test_a_name_that_cannot_be_stored_is_refused(bench: Bench, name: str) -> None:
    """Odd names are the caller's fault and do not stop the ledger."""
    with pytest.raises(InvalidRequest):
        await bench.accountant.create_account(name)
    assert await bench.accountant.create_account("fine")


async def test_money_for_k_admits_exactly_k_of_many(place: Place) -> None:
    """Two hundred parallel requests with money for 17: 17 pass, the rest are told why."""
    bench = await place.start(promo_nano=17 * HOLD_NANO + HOLD_NANO - 1)
    try:
        replies = await asyncio.gather(*(bench.do(bench.admit(f"req_{n}")) for n in range(200)))
        admitted = [reply for (reply,) in replies if isinstance(reply, Admitted)]
        refused = [reply for (reply,) in replies if isinstance(reply, MarketError)]

        assert len(admitted) == 17
        assert {error.code for error in refused} == {"in_flight_budget"}
        await bench.do(*(bench.settle(reply.request_id) for reply in admitted))
        (broke,) = await bench.do(bench.admit("req_late"))
        assert isinstance(broke, MarketError)
        assert (broke.code, broke.retry) == ("insufficient_balance", False)
    finally:
        await bench.accountant.stop()
    assert place.verify().problems == []


async def test_a_settlement_may_be_repeated_after_a_restart(place: Place) -> None:
    """Settle, void and their conflicts read the same from the disk as from memory."""
    bench = await place.start()
    await bench.do(*(bench.admit(f"req_{n}") for n in range(4)))
    first, voided = await bench.do(bench.settle("req_0"), Void(RequestId("req_1"), "no provider"))
    await bench.accountant.stop()
    bench = await place.start()
    try:
        replies = await bench.do(
            bench.settle("req_0"),
            bench.settle("req_0", 186),
            bench.settle("req_1"),
            Void(RequestId("req_0"), "late"),
            Void(RequestId("req_1"), "no provider"),
            bench.admit("req_0"),
            Checkpoint(RequestId("req_0"), Usage(412, 1)),
            bench.settle("req_unheard_of"),
            bench.admit("req_2"),
            bench.settle("req_2"),
        )
        held = await bench.accountant.holds(bench.consumer)
    finally:
        await bench.accountant.stop()

    assert isinstance(first, Settled)
    assert isinstance(voided, Voided)
    assert replies[0] == first
    assert [getattr(reply, "code", None) for reply in replies[1:4]] == [
        "settled_differently",
        "request_voided",
        "request_settled",
    ]
    assert replies[4] == voided
    assert [getattr(reply, "code", None) for reply in replies[5:8]] == [
        "request_finished",
        None,
        "request_not_found",
    ]
    assert isinstance(replies[8], Admitted)
    assert isinstance(replies[9], Settled)
    assert [row.request_id for row in held] == ["req_3"]
    assert place.verify().problems == []


async def test_statements_show_what_was_charged(place: Place) -> None:
    """Usage lists charged requests; a generation shows its state; others see nothing."""
    bench = await place.start()
    await bench.do(bench.admit("req_0"), bench.admit("req_1"), bench.admit("req_2"))
    await bench.do(bench.settle("req_0"), Void(RequestId("req_1"), "cancelled"))
    accountant = bench.accountant

    usage = await accountant.usage(bench.consumer, 10)
    states = [
        (await accountant.generation(bench.consumer, RequestId(f"req_{n}"))).status
        for n in range(3)
    ]

    assert [(row.request_id, row.cost_nano) for row in usage] == [("req_0", HOLD_NANO)]
    assert states == ["settled", "voided", "held"]
    with pytest.raises(NotFound):
        await accountant.generation(bench.provider, RequestId("req_0"))
    balance = await accountant.balance(bench.consumer)
    assert (balance.balance_nano, balance.held_nano) == (10**9 - 2 * HOLD_NANO, HOLD_NANO)
    assert (await accountant.balance(bench.provider)).withdrawable_nano == HOLD_NANO
    await accountant.stop()


async def test_holds_expire_at_their_checkpoint_even_after_a_restart(place: Place) -> None:
    """A dead gateway's stream is paid up to its last durable checkpoint."""
    bench = await place.start()
    await bench.do(bench.admit("req_0"), bench.admit("req_1"))
    await bench.do(
        Checkpoint(
            RequestId("req_0"), Usage(412, 64), bench.provider, MachineId("m"), ProviderId("p")
        )
    )
    await bench.accountant.stop()
    ticks = iter(range(0, 10**15, 50 * 10**9))
    accountant = Accountant(
        AccountantSettings(place.data, database=place.database),
        clock=Clock(time.time_ns, lambda: next(ticks)),
    )
    await accountant.start()
    bench = await equip(accountant, place.data, 0)
    while await accountant.holds(bench.consumer):
        await accountant.sweep()
    await accountant.stop()

    row = await reopened_generation(place, "req_0")
    assert row == ("expired", 412 * 100 + 64 * 780)
    assert place.verify().problems == []


async def reopened_generation(place: Place, request: str) -> tuple[str, int]:
    accountant = Accountant(AccountantSettings(place.data, database=place.database))
    await accountant.start()
    row = await accountant.generation(None, RequestId(request))
    await accountant.stop()
    return row.status, row.cost_nano


async def test_a_second_accountant_waits_and_is_refused(data: Path) -> None:
    """The folder's lock names the process that holds it."""
    bench = await start(data)
    second = Accountant(AccountantSettings(data, lock_wait_s=0.2))
    try:
        with pytest.raises(StorageError, match=f"in use by the process {os.getpid()}"):
            await second.start()
        assert isinstance((await bench.do(bench.admit("req_0")))[0], Admitted)
    finally:
        await bench.accountant.stop()


async def test_a_fenced_accountant_stops_for_good(place: Place) -> None:
    """When the ledger was taken over, nothing is answered as done, and the shell is told."""
    fatal: list[str] = []
    settings = AccountantSettings(place.data, database=place.database)
    accountant = Accountant(settings, on_fatal=fatal.append)
    await accountant.start()
    bench = await equip(accountant, place.data, 10**9)
    usurper = await place.usurp()
    try:
        replies = await asyncio.gather(*(bench.do(bench.admit(f"req_{n}")) for n in range(20)))
        assert all(isinstance(reply, Unavailable) for (reply,) in replies)
        assert len(fatal) == 1
        assert accountant.failed
        assert isinstance((await bench.do(ResolveKey(bench.key_hash)))[0], Unavailable)
        with pytest.raises(Unavailable):
            await accountant.create_account("late")
        assert (await usurper.load()).holds == ()
    finally:
        await accountant.stop()
        await usurper.close()
    assert place.verify().problems == []


async def test_a_cancelled_caller_does_not_take_others_down(bench: Bench) -> None:
    """Its operation may or may not have happened; repeating it gives the truth."""
    tasks = [asyncio.create_task(bench.do(bench.admit(f"req_{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result[0], Admitted) for result in results[1::2])  # type: ignore[index]
    again = await bench.do(*(bench.admit(f"req_{n}") for n in range(50)))
    assert all(isinstance(reply, Admitted) for reply in again)


async def test_a_full_disk_stops_the_ledger_and_loses_nothing(data: Path) -> None:
    """When SQLite has no room, nobody is told yes; with room again, the books go on."""
    bench = await start(data)
    await bench.do(bench.admit("req_0"))
    store = bench.accountant._store
    assert isinstance(store, SqliteLedgerStore)
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    answers: list[object] = []
    for number in range(1, 100):
        answers += await bench.do(bench.admit(f"req_{number}"))
        if bench.accountant.failed:
            break
    assert "disk is full" in (bench.accountant.failed or "")
    assert isinstance(answers[-1], Unavailable)
    await bench.accountant.stop()
    assert verify(data).problems == []

    bench = await start(data)
    replies = await bench.do(*(bench.admit(f"req_{number}") for number in range(100)))
    held = await bench.accountant.holds(bench.consumer)
    await bench.accountant.stop()

    assert all(isinstance(reply, Admitted) for reply in replies)
    assert len(held) == 100
    assert verify(data).problems == []


def spoil_with_text(data: Path) -> None:
    data.mkdir()
    (data / LEDGER_FILE).write_bytes(b"this is not a database, " * 100)


def spoil_with_newer_schema(data: Path) -> None:
    asyncio.run(make_and_close(data))
    with sqlite3.connect(data / LEDGER_FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def spoil_with_file_for_folder(data: Path) -> None:
    data.write_text("a file")


def spoil_pepper(data: Path) -> None:
    load_pepper(data)
    (data / "secrets" / "pepper").write_bytes(b"short")


async def make_and_close(data: Path) -> None:
    await (await start(data)).accountant.stop()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_with_text, "not a database"),
        (spoil_with_newer_schema, "newer version of coster"),
        (spoil_with_file_for_folder, "cannot be used"),
        (spoil_pepper, "is damaged"),
    ],
)
async def test_data_that_cannot_be_used_is_refused_with_reason_and_fix(
    data: Path, spoil: object, message: str
) -> None:
    """Nothing is guessed, nothing is overwritten, and nothing stays open."""
    await asyncio.to_thread(spoil, data)  # type: ignore[arg-type]

    with pytest.raises(StorageError, match=message) as refused:
        await Accountant(AccountantSettings(data)).start()
    assert str(data) in str(refused.value)


async def test_the_data_folder_is_private(bench: Bench, data: Path) -> None:
    """Folders 0700, the ledger and the pepper 0600."""
    modes = {
        path.relative_to(data).as_posix(): path.stat().st_mode & 0o777
        for path in [data, data / "secrets", data / "secrets/pepper", data / LEDGER_FILE]
    }

    assert modes == {".": 0o700, "secrets": 0o700, "secrets/pepper": 0o600, LEDGER_FILE: 0o600}


def test_no_acknowledged_settlement_is_lost_by_kill_9(data: Path) -> None:
    """Killed in the middle of commits again and again: every answer given was durable."""
    nursery = subprocess.run(
        [sys.executable, "-m", "tests.support.ledger_bench", str(data), str(LIVES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    acknowledged = json.loads(nursery.stdout)

    report = verify(data)

    assert report.problems == []
    assert asyncio.run(costs_on_disk(data, list(acknowledged))) == acknowledged
    assert report.counts["requests"] >= len(acknowledged) >= LIVES


async def costs_on_disk(data: Path, requests: list[str]) -> dict[str, int]:
    store = await SqliteLedgerStore.open(data, now_ns=1)
    rows = await store.finished([RequestId(request) for request in requests])
    await store.close()
    return {row.request_id: row.cost_nano for row in rows}
