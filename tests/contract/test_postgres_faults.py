"""PostgreSQL in trouble: away, killed, frozen, unsafe, taken over. Never a lie, never a hang."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors import process
from actors.accountant import Accountant, AccountantSettings
from actors.process import begun
from market.accounting.rows import AccountRow, Changes
from market.accounting.state_rows import QuotaRow
from market.errors import MarketError, Unavailable
from market.messages import Admitted, Settled
from market.types import AccountId, RequestId
from storage import postgres as connections
from storage.database import LEDGER_FILE, Away, StorageError
from storage.opening import check_ledger, open_ledger, open_rows, verify_ledger
from storage.postgres import Address
from storage.postgres_store import PostgresLedgerStore
from storage.verify import verify_rows
from tests.support.ledger_bench import Bench, equip
from tests.support.places import Place
from tests.support.postgres import Postgres

WRITERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = $1 "
    "AND application_name LIKE 'coster accountant, pid%'"
)
ENOUGH_ACKS = 60


@pytest.fixture
def place(database: str, tmp_path: Path) -> Place:
    return Place(tmp_path / "data", database)


def name_of(place: Place) -> str:
    return place.database.rpartition("/")[2]


async def watched(place: Place, fatal: list[str]) -> Bench:
    """An accountant that tells when it must be replaced."""
    settings = AccountantSettings(place.data, database=place.database)
    accountant = Accountant(settings, on_fatal=fatal.append)
    await accountant.start()
    return await equip(accountant, place.data, 10**9)


async def test_a_second_writer_waits_and_is_told_who_is_there(place: Place) -> None:
    """The session's lock names the process that holds it, and goes with it."""
    first = await watched(place, [])
    with pytest.raises(StorageError, match=rf"in use by coster accountant, pid {os.getpid()} on"):
        await open_ledger(place.data, place.database, now_ns=1, lock_wait_s=0.2)
    opening = asyncio.create_task(open_ledger(place.data, place.database, now_ns=1))
    await asyncio.sleep(0)
    await first.accountant.stop()

    await (await opening).close()


async def test_a_lost_connection_stops_the_accountant_for_good(
    place: Place, postgres: Postgres
) -> None:
    """Without its session it has no lock: nothing more is acknowledged; the next one goes on."""
    fatal: list[str] = []
    bench = await watched(place, fatal)
    await bench.do(bench.admit("req_0"))
    assert await cut(postgres, place) == 1

    replies = await asyncio.gather(*(bench.do(bench.admit(f"req_{n}")) for n in range(1, 9)))
    assert all(isinstance(reply, Unavailable) for (reply,) in replies)
    assert [line for line in fatal if "the connection was lost" in line] == fatal
    assert len(fatal) == 1
    await bench.accountant.stop()

    bench = await place.start()
    assert isinstance((await bench.do(bench.settle("req_0")))[0], Settled)
    assert [row.request_id for row in await bench.accountant.holds(bench.consumer)] == []
    await bench.accountant.stop()
    assert place.verify().problems == []


async def cut(postgres: Postgres, place: Place) -> int:
    """End the server's side of every writing session; how many there were."""
    connection = await postgres.connect("postgres")
    found = await connection.fetch(WRITERS, name_of(place))
    for (pid,) in found:
        await connection.execute(f"SELECT pg_terminate_backend({pid})")
    await connection.close()
    return len(found)


async def test_no_acknowledged_settlement_is_lost_when_the_server_is_killed(
    place: Place, postgres: Postgres
) -> None:
    """SIGKILL for every process of it in the middle of commits; then it comes back."""
    fatal: list[str] = []
    bench = await watched(place, fatal)
    acknowledged: dict[str, int] = {}
    enough = asyncio.Event()

    async def lane(name: int) -> None:
        for count in range(10**6):
            request = f"req_{name}_{count}"
            await bench.do(bench.admit(request))
            (paid,) = await bench.do(bench.settle(request))
            if not isinstance(paid, Settled):
                return
            acknowledged[request] = paid.cost_nano
            if len(acknowledged) >= ENOUGH_ACKS:
                enough.set()

    lanes = [asyncio.create_task(lane(name)) for name in range(8)]
    await enough.wait()
    await asyncio.to_thread(postgres.kill)
    await asyncio.gather(*lanes)
    await bench.accountant.stop()
    await asyncio.to_thread(postgres.start)

    store = await open_ledger(place.data, place.database, now_ns=1)
    rows = await store.finished([RequestId(request) for request in acknowledged])
    await store.close()
    assert {row.request_id: row.cost_nano for row in rows} == acknowledged
    assert len(fatal) == 1
    assert place.verify().problems == []


async def test_a_server_that_is_away_is_waited_for_and_not_an_error_of_the_books(
    place: Place, postgres: Postgres
) -> None:
    """Opening and verifying say that it is away; what was begun before begins when it is back."""
    await (await place.start()).accountant.stop()
    rows = open_rows(place.data, place.database)
    accountant = Accountant(AccountantSettings(place.data, database=place.database))
    await asyncio.to_thread(postgres.kill)
    try:
        with pytest.raises(Away, match="nobody answers there"):
            await accountant.start()
        with pytest.raises(Away, match="nobody answers there"):
            place.verify()
        with pytest.raises(Away, match="the connection was lost"):
            verify_rows(rows, "it")
        rows.close()
    finally:
        await asyncio.to_thread(postgres.start)

    await begun(accountant.start)
    await accountant.stop()
    assert place.verify().problems == []


async def test_a_start_is_tried_again_while_the_server_is_away(
    place: Place, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A market whose server is away begins when it comes; any other error rises at once."""
    monkeypatch.setattr(process, "AWAY_S", 0.01)
    accountant = Accountant(AccountantSettings(place.data, database=place.database))
    tries = 0

    async def start() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            await asyncio.to_thread(postgres.start)
        await accountant.start()

    await asyncio.to_thread(postgres.kill)
    await begun(start)
    await accountant.stop()
    assert tries == 3

    wrong = AccountantSettings(place.data, database=postgres.url("nowhere"))
    with pytest.raises(StorageError, match="no such database"):
        await begun(Accountant(wrong).start)


@pytest.fixture
async def impatient(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresLedgerStore]:
    """A store whose limits are short."""
    monkeypatch.setattr(connections, "STATEMENT_S_MAX", 0.3)
    monkeypatch.setattr(connections, "ANSWER_S_MAX", 0.5)
    monkeypatch.setattr(connections, "CONNECT_S_MAX", 0.5)
    store = await PostgresLedgerStore.open(Address.of(place.database), place.data, now_ns=1)
    yield store
    await store.close()


def some_changes() -> Changes:
    changes = Changes(last_ts_ns=1)
    changes.put(QuotaRow(AccountId("acct_ann"), 1, 1))
    return changes


async def test_a_server_that_hangs_is_an_error_and_not_a_wait(
    impatient: PostgresLedgerStore, place: Place, postgres: Postgres
) -> None:
    """Writing, reading, looking and opening all give up, and say so."""
    postgres.freeze()
    try:
        with pytest.raises(StorageError, match="written: the server did not answer in time"):
            await impatient.commit(some_changes())
        with pytest.raises(StorageError, match="read: the server did not answer in time"):
            await impatient.rows(QuotaRow)
        with pytest.raises(StorageError, match="opened: the server did not answer in time"):
            await asyncio.to_thread(check_ledger, place.data, place.database)
        await impatient.close()
    finally:
        postgres.thaw()


async def test_a_table_that_somebody_locks_is_an_error_and_not_a_wait(
    impatient: PostgresLedgerStore, place: Place, postgres: Postgres
) -> None:
    """The server's own limit ends the statement; nothing of the batch is kept."""
    intruder = await postgres.connect(name_of(place))
    await intruder.execute("BEGIN")
    await intruder.execute("LOCK TABLE quota")
    with pytest.raises(StorageError, match="written: the server did not answer in time"):
        await impatient.commit(some_changes())
    await intruder.execute("ROLLBACK")

    assert await intruder.fetchval("SELECT count(*) FROM quota") == 0
    assert await intruder.fetchval("SELECT last_ts_ns FROM meta") == 0
    await intruder.close()


UNSAFE = ("fsync", "full_page_writes")


@pytest.mark.parametrize("setting", UNSAFE)
async def test_a_server_that_may_forget_is_refused(
    place: Place, postgres: Postgres, setting: str
) -> None:
    """Without the settings that make a commit durable the ledger is not opened; verify tells."""
    await set_on_server(postgres, setting, "off")
    try:
        with pytest.raises(StorageError, match=f"cannot be opened safely.*{setting}=off"):
            check_ledger(place.data, place.database)
        with pytest.raises(StorageError, match="may lose what it acknowledged"):
            await open_ledger(place.data, place.database, now_ns=1)
        problems = place.verify().problems
        assert f"The server has {setting}=off: it may lose what it has acknowledged." in problems
    finally:
        await set_on_server(postgres, setting, "on")


async def set_on_server(postgres: Postgres, name: str, value: str) -> None:
    """Change a setting of the whole server, and wait until it is so."""
    await postgres.run(f"ALTER SYSTEM SET {name} = {value}", "SELECT pg_reload_conf()")
    connection = await postgres.connect("postgres")
    while await connection.fetchval("SELECT current_setting($1)", name) != value:
        await asyncio.sleep(0.01)
    await connection.close()


async def test_a_database_of_somebody_else_is_refused(place: Place, postgres: Postgres) -> None:
    """A role that may only use a database could neither migrate nor audit it."""
    name = name_of(place)
    await postgres.run(f"ALTER DATABASE {name} OWNER TO root")

    with pytest.raises(StorageError, match="make it the database's owner"):
        check_ledger(place.data, place.database)


async def test_our_sessions_are_durable_whatever_the_server_says(
    place: Place, postgres: Postgres
) -> None:
    """A server on which commits do not wait is told, for our session, that ours do."""
    name = name_of(place)
    await postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = await open_ledger(place.data, place.database, now_ns=1)
    assert isinstance(store, PostgresLedgerStore)

    assert await store._writer.fetchval("SHOW synchronous_commit") == "on"
    await store.close()


async def test_what_is_wrong_with_an_address_is_told_without_its_password(
    place: Place, postgres: Postgres, subtests: pytest.Subtests
) -> None:
    """Wrong password, no such database, nobody there: each says so and what to do."""
    with socket.socket() as bound:  # a port that is taken and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        name = name_of(place)
        wrong = {
            postgres.url(name, password="wr0ng-w0rd"): "not accept this user with this password",
            postgres.url("nowhere"): "there is no such database. Make it first: createdb",
            postgres.url(name, port=port): "nobody answers there",
            place.database.replace("127.0.0.1", "nowhere.invalid"): "nobody answers there",
            place.database.replace("+asyncpg", ""): "--database must look like",
            place.database.replace(f"/{name}", ""): "names no database",
            f"host=127.0.0.1 password={postgres.password}": "--database is not a URL",
        }
        for url, sentence in wrong.items():
            for ask in (check_ledger, verify_ledger):
                with subtests.test(sentence, ask=ask.__name__):
                    with pytest.raises(StorageError, match=sentence) as told:
                        ask(place.data, url)
                    assert "wr0ng-w0rd" not in repr(told.value)
                    assert postgres.password not in repr(told.value)
            with subtests.test(sentence, ask="open"), pytest.raises(StorageError, match=sentence):
                await open_ledger(place.data, url, now_ns=1)


async def test_a_failed_write_quotes_no_row(place: Place) -> None:
    """A constraint is named; what the row holds is not: it may be a key's hash or an answer."""
    store = await open_ledger(place.data, place.database, now_ns=1)
    changes = Changes(last_ts_ns=1)
    for number in (1, 2):
        changes.accounts.append(AccountRow(number, 2100, "acct_s3cret"))

    with pytest.raises(StorageError, match="uq_account_code_owner") as told:
        await store.commit(changes)
    assert "s3cret" not in str(told.value)
    await store.close()


async def test_a_store_that_failed_writes_no_more_and_lets_go(place: Place) -> None:
    """Its memory may be ahead of the database: the next one may have the lock at once."""
    store = await open_ledger(place.data, place.database, now_ns=1)
    changes = some_changes()
    changes.counters[9] = (-1, 0, 0, 0)
    changes.accounts.append(AccountRow(9, 2100, "acct_ann"))
    with pytest.raises(StorageError, match="ck_account_counters"):
        await store.commit(changes)
    with pytest.raises(StorageError):
        await store.commit(some_changes())

    following = await open_ledger(place.data, place.database, now_ns=1, lock_wait_s=1)
    assert (await following.load()).state == ()
    await following.close()
    await store.close()


async def test_settings_do_not_show_the_password(place: Place, postgres: Postgres) -> None:
    """Neither the settings nor what an accountant says of itself."""
    settings = AccountantSettings(place.data, database=place.database)
    bench = await watched(place, [])
    said = await bench.accountant.describe()
    await bench.accountant.stop()

    assert "PostgreSQL 1" in str(said["books"])
    assert postgres.password not in repr((settings, said, Address.of(place.database)))


def test_a_folder_with_books_of_its_own_is_not_given_a_database(place: Place) -> None:
    """Nothing would move there, and every balance would seem to be gone."""
    place.data.mkdir()
    (place.data / LEDGER_FILE).write_bytes(b"")

    with pytest.raises(StorageError, match="already holds books of its own"):
        check_ledger(place.data, place.database)


async def test_an_error_is_an_answer_and_not_an_end(place: Place) -> None:
    """Refusals of the rules leave the session as it is."""
    bench = await watched(place, [])
    (refused,) = await bench.do(bench.settle("req_unheard_of"))
    (admitted,) = await bench.do(bench.admit("req_1"))
    await bench.accountant.stop()

    assert isinstance(refused, MarketError)
    assert isinstance(admitted, Admitted)
