"""Where one ledger of a test is kept: in a folder, or in a database of a private server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from market.accounting.audit import VerifyReport
from market.accounting.store import LedgerStore
from storage.ledger_store import SqliteLedgerStore
from storage.opening import verify_ledger
from storage.postgres import Address
from storage.postgres_store import PostgresLedgerStore
from tests.support.ledger_bench import Bench, start


@dataclass(frozen=True)
class Place:
    """Where one ledger is kept."""

    data: Path
    database: str

    async def start(self, **settings: object) -> Bench:
        return await start(self.data, database=self.database, **settings)  # type: ignore[arg-type]

    async def usurp(self) -> LedgerStore:
        """Open the ledger as a second incarnation that has not seen the lock."""
        if not self.database:
            return await SqliteLedgerStore.open(self.data, now_ns=1, locked=False)
        address = Address.of(self.database)
        return await PostgresLedgerStore.open(address, self.data, now_ns=1, locked=False)

    def verify(self) -> VerifyReport:
        return verify_ledger(self.data, self.database)
