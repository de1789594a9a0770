"""One random life of a market on both stores: the chain they end with is the same.

By default 1,200 acts; COSTER_LONG=1 lives 100,000.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from storage.database import LEDGER_FILE, migrate
from storage.ledger_store import SqliteLedgerStore
from storage.verify import verify
from tests.support.books import portrait
from tests.support.fuzz import Life
from tests.support.sqlite_lab import plain_connection, store_over

ACTS = 100_000 if os.environ.get("COSTER_LONG") == "1" else 1_200
SEED = int(os.environ.get("COSTER_SEED", "4"))


def test_memory_and_disk_end_with_the_same_chain(tmp_path: Path) -> None:
    """Same acts, same hash, same books, whether the rows went to memory or to SQLite."""
    path = tmp_path / LEDGER_FILE
    migrate(path, 1)
    connections: list[sqlite3.Connection] = []
    stores: list[SqliteLedgerStore] = []

    def reopen() -> SqliteLedgerStore:
        for connection in connections:
            connection.close()
        connections.append(plain_connection(path))
        stores.append(store_over(connections[-1], path))
        return stores[-1]

    on_disk, in_memory = Life(SEED, reopen), Life(SEED)
    for life in (on_disk, in_memory):
        life.live(ACTS, commit_every=23, check_every=97)

    assert len(stores) > 2  # it was restarted on the way
    assert stores[-1].head.hash == in_memory.twin.disk.head.hash
    assert portrait(on_disk.twin.books) == portrait(in_memory.twin.books)
    connections[-1].close()
    assert verify(tmp_path).problems == []
