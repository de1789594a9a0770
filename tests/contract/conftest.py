"""Fixtures the contract suites share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from market.accounting.store import LedgerStore
from storage.ledger_store import SqliteLedgerStore
from storage.memory import MemoryLedger, MemoryLedgerStore
from storage.postgres import Address
from storage.postgres_migrations import migrate
from storage.postgres_store import PostgresLedgerStore
from storage.private_loop import PrivateLoop
from tests.support.engine_bench import ENGINES, Bench, running
from tests.support.places import Place
from tests.support.postgres import REQUIRED, Postgres, binaries, running_postgres
from tests.tiny_model import build_tiny_model

MIGRATED = "template_migrated"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the random model, built once."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=sorted(ENGINES))
async def bench(request: pytest.FixtureRequest, tiny_folder: Path) -> AsyncIterator[Bench]:
    """Each engine in turn, loaded."""
    async with running(request.param, tiny_folder) as bench:
        yield bench


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A private server, with a template that the migrations have run on."""
    if binaries() is None:
        reason = "PostgreSQL is not installed (Debian: postgresql-15)"
        pytest.fail(reason) if REQUIRED else pytest.skip(reason)
    with running_postgres(on_disk=False) as server, PrivateLoop() as loop:
        loop.run(server.prepare_role())
        loop.run(server.run(f"CREATE DATABASE {MIGRATED} OWNER coster"))
        migrate(Address.of(server.url(MIGRATED)), 0, tmp_path_factory.mktemp("backups"))
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of a database of one's own, migrated, with nothing in it."""
    with PrivateLoop() as loop:
        return postgres.url(loop.run(postgres.new_database(MIGRATED)))


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty ledger on each database."""
    on_server = request.param == "postgres"
    url = request.getfixturevalue("database") if on_server else ""
    return Place(tmp_path / "data", url)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[LedgerStore]]]:
    """Opens the same ledger again and again; each opening supersedes the one before."""
    memory = MemoryLedger()
    stores: list[LedgerStore] = []
    url = request.getfixturevalue("database") if request.param == "postgres" else ""

    async def open_store() -> LedgerStore:
        if request.param == "memory":
            store: LedgerStore = MemoryLedgerStore(memory)
        elif url:
            address = Address.of(url)
            store = await PostgresLedgerStore.open(address, tmp_path, now_ns=1, locked=False)
        else:
            store = await SqliteLedgerStore.open(tmp_path / "data", now_ns=1, locked=False)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.close()
