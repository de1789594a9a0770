"""The ledger on PostgreSQL: one writing session, one transaction per batch, durable when done.

Opening takes the writer's lock, migrates, and claims a new epoch; a predecessor that is still
breathing finds its epoch gone and commits nothing. The first failure of the writing session
ends it for good, and with it its lock: memory may then be ahead of the database, so the
process has to be replaced and reads the truth anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

from market.accounting import histories
from market.accounting.chain import GENESIS, Head, Sealed, seal
from market.accounting.rows import (
    Changes,
    DeliveryRow,
    Earned,
    RequestRow,
    Revenue,
    Snapshot,
    TransferRow,
)
from market.accounting.state_rows import Cell, Row
from market.types import AccountId, RequestId
from storage import postgres
from storage import statements as sql
from storage.database import Fenced
from storage.moments import PostgresMoments
from storage.postgres import FAULTS, Address
from storage.postgres_migrations import migrate
from storage.reads import (
    LOAD,
    promo_paid_of,
    revenue_of,
    rows_query,
    snapshot_of,
    usage_query,
)
from storage.rollup_reads import RollupReads

READERS_MAX: Final = 4
COMMIT_S_MAX: Final = 60.0
CLOSE_S_MAX: Final = 5.0
_FOUND: Final = f"SELECT {sql.REQUEST_COLUMNS} FROM request WHERE request_id = ANY($1::text[])"  # noqa: S608
_DELIVERED: Final = (
    f"SELECT {sql.DELIVERY_COLUMNS} FROM delivery "  # noqa: S608
    "WHERE request_id = ANY($1::text[]) ORDER BY seq"
)
_POSTED: Final = (
    f"SELECT {sql.TRANSFER_COLUMNS} FROM transfer WHERE id = ANY($1::text[]) "  # noqa: S608
    "ORDER BY id, leg"
)


@dataclass(slots=True)
class _Claim:
    """What this incarnation may write with."""

    epoch: int
    head: Head


class PostgresLedgerStore:
    """The `LedgerStore` port on one database."""

    def __init__(
        self,
        writer: asyncpg.Connection,
        readers: asyncpg.Pool,
        claim: _Claim,
        address: Address,
        server: str,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self.histories = RollupReads(PostgresMoments(readers, address))
        self._claim = claim
        self._address = address
        self._commits: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # one commit at a time, in the order they came
        self._closed = False
        self.kept_in = f"{server} at {address.name}"

    @classmethod
    async def open(
        cls,
        address: Address,
        backups: Path,
        *,
        now_ns: int,
        lock_wait_s: float = 10.0,
        locked: bool = True,
    ) -> PostgresLedgerStore:
        """Open the ledger for writing; `backups` is where a copy goes before a migration.

        Waits `lock_wait_s` seconds for a predecessor to let go. Raises StorageError with
        the reason and the fix. `locked=False` skips the lock; the epoch still fences.
        """
        writer = await postgres.connect(address, "accountant")
        try:
            await postgres.check_server(writer, address)
            if locked:
                await postgres.lock(writer, address, lock_wait_s)
            await asyncio.to_thread(migrate, address, now_ns, backups)
            claim = await _claim(writer)
            server = await postgres.server_of(writer)
            readers = await asyncpg.create_pool(
                min_size=0,
                max_size=READERS_MAX,
                **postgres.arguments(address, "accountant, reading", read_only=True),
            )
        except FAULTS as error:
            writer.terminate()
            raise postgres.refused(error, address, "opened") from error
        except BaseException:
            writer.terminate()
            raise
        return cls(writer, readers, claim, address, server)

    @property
    def epoch(self) -> int:
        return self._claim.epoch

    @property
    def head(self) -> Head:
        """The last sealed batch."""
        return self._claim.head

    async def load(self) -> Snapshot:
        try:
            async with self._writer.transaction(isolation="repeatable_read", readonly=True):
                return snapshot_of({query: await self._writer.fetch(query) for query in LOAD})
        except FAULTS as error:
            raise postgres.refused(error, self._address, "read") from error

    async def commit(self, changes: Changes) -> None:
        # A task of its own: a caller that is cancelled has not cancelled the commit.
        commit = asyncio.create_task(self._commit(changes), name="ledger-commit")
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        await asyncio.shield(commit)

    async def _commit(self, changes: Changes) -> None:
        claim = self._claim
        async with self._turn:
            try:
                sealed = seal(changes, claim.head, claim.epoch)
                async with asyncio.timeout(COMMIT_S_MAX):
                    await self._write(changes, sealed)
                claim.head = sealed.head
            except BaseException as error:
                # Without a session there is no transaction left and no lock held.
                self._writer.terminate()
                if isinstance(error, FAULTS):
                    raise postgres.refused(error, self._address, "written") from error
                raise

    async def _write(self, changes: Changes, sealed: Sealed) -> None:
        """One transaction."""
        writer, head, epoch = self._writer, sealed.head, self._claim.epoch
        await writer.execute("BEGIN")
        done = await writer.execute(
            sql.numbered(sql.ADVANCE), head.number, head.hash, changes.last_ts_ns, epoch
        )
        if done != "UPDATE 1":
            raise Fenced(
                f"The ledger was taken over by a newer accountant; epoch {epoch} may not write. "
                "This process stops."
            )
        for statement, rows in sql.writes(changes, sealed):
            if statement in sql.INSERTED:
                # COPY: half the time of as many INSERTs, and every guard holds for it too.
                table, columns = sql.INSERTED[statement]
                await writer.copy_records_to_table(table, records=rows, columns=columns)
            else:
                await writer.executemany(sql.numbered(statement), rows)
        await writer.execute("COMMIT")

    async def finished(self, request_ids: Sequence[RequestId]) -> list[RequestRow]:
        if not request_ids:
            return []
        return [RequestRow(*row) for row in await self._read(_FOUND, (list(request_ids),))]

    async def deliveries(self, request_ids: Sequence[RequestId]) -> list[DeliveryRow]:
        found = await self._read(_DELIVERED, (list(request_ids),))
        return [DeliveryRow(*row) for row in found]

    async def transfers(self, ids: Sequence[str]) -> list[TransferRow]:
        return [TransferRow(*row) for row in await self._read(_POSTED, (list(ids),))]

    async def usage(self, owner: AccountId, limit: int) -> list[RequestRow]:
        return [RequestRow(*row) for row in await self._read(*usage_query(owner, limit))]

    async def promo_paid(self, owner: AccountId, payee: AccountId) -> int:
        return await promo_paid_of(self._read, owner, payee)

    async def earned(self, payees: Sequence[AccountId], limit: int) -> Earned:
        return await histories.earned(self.histories, payees, limit)

    async def rows(
        self,
        kind: type[Row],
        *,
        limit: int = 100,
        before_ns: int | None = None,
        by: str = "",
        **equal: Cell,
    ) -> list[Row]:
        query, cells = rows_query(kind, limit=limit, before_ns=before_ns, by=by, equal=equal)
        return [kind(*row) for row in await self._read(query, cells)]

    async def revenue(self, since_ns: int, limit: int) -> list[Revenue]:
        return await revenue_of(self._read, since_ns, limit)

    async def _read(self, query: str, cells: Sequence[Any]) -> Sequence[Sequence[Any]]:
        try:
            async with self._readers.acquire(timeout=postgres.ANSWER_S_MAX) as reader:
                found: Sequence[Sequence[Any]] = await reader.fetch(sql.numbered(query), *cells)
                return found
        except FAULTS as error:
            raise postgres.refused(error, self._address, "read") from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*self._commits, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._readers.close()
                await self._writer.close()
        except FAULTS:
            # A server that is away has nothing to be told; our side is closed all the same.
            self._readers.terminate()
            self._writer.terminate()


async def _claim(writer: asyncpg.Connection) -> _Claim:
    """Take a new epoch: from now on every older incarnation is fenced."""
    async with writer.transaction():
        await writer.execute(sql.numbered(sql.ENSURE_META), GENESIS)
        await writer.execute(sql.CLAIM_EPOCH)
        epoch, number, digest, _ = await writer.fetchrow(sql.SELECT_META)
        following = await writer.fetchrow(sql.SELECT_NEXT)
    return _Claim(epoch, Head(number, digest, *following))
