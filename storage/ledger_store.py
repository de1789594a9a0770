"""The ledger on SQLite: one writer, one transaction per batch, durable when it returns.

The whole commit runs in one hop to the connection's thread: fence, insert, seal, COMMIT.
Opening takes the folder's lock, migrates, and claims a new epoch; a predecessor that is
still breathing finds its epoch gone and commits nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.accounting import histories
from market.accounting.chain import Head, Sealed, seal
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
from storage import statements as sql
from storage.database import (
    LEDGER_FILE,
    SQLITE_FAULTS,
    SQLITE_VERSION,
    Fenced,
    LedgerConnection,
    StorageError,
    migrate,
    open_reader,
    open_writer,
    prepare_folder,
    unreadable,
)
from storage.folder_lock import FolderLock
from storage.moments import SqliteMoments
from storage.reads import (
    LOAD,
    promo_paid_of,
    revenue_of,
    rows_query,
    snapshot_of,
    usage_query,
)
from storage.rollup_reads import RollupReads

LOOKUP_MAX: Final = 500  # ids per statement; SQLite allows 32,766 parameters


@dataclass(slots=True)
class _Claim:
    """What this incarnation may write with."""

    epoch: int
    head: Head


class SqliteLedgerStore:
    """The `LedgerStore` port on one file in the data folder."""

    def __init__(
        self,
        writer: LedgerConnection,
        reader: LedgerConnection,
        lock: FolderLock | None,
        claim: _Claim,
        path: Path,
        past: LedgerConnection | None = None,
    ) -> None:
        """`past` is what histories are read through, the reader when it is None."""
        self._writer = writer
        self._reader = reader
        self._past = past or reader
        self.histories = RollupReads(SqliteMoments(self._past, path))
        self._lock = lock
        self._claim = claim
        self._closed = False
        self.path = path
        self.kept_in = f"SQLite {SQLITE_VERSION} in {path}"

    @classmethod
    async def open(
        cls, folder: Path, *, now_ns: int, lock_wait_s: float = 10.0, locked: bool = True
    ) -> SqliteLedgerStore:
        """Open the ledger of a data folder for writing.

        Waits `lock_wait_s` seconds for a predecessor to let go. Raises StorageError with
        the reason and the fix. `locked=False` skips the file lock, for file systems that
        have none; the epoch still fences.
        """
        prepare_folder(folder)
        path = folder / LEDGER_FILE
        lock = FolderLock(folder) if locked else None
        if lock:
            await lock.acquire(lock_wait_s)
        try:
            await asyncio.to_thread(migrate, path, now_ns)
            opened = [await open_writer(path)]
            try:
                claim = await opened[0].run(_claim)
                opened += [await open_reader(path), await open_reader(path)]
            except BaseException:
                for connection in opened:
                    await connection.close()
                raise
        except BaseException:
            if lock:
                lock.release()
            raise
        writer, reader, past = opened
        return cls(writer, reader, lock, claim, path, past)

    @property
    def epoch(self) -> int:
        return self._claim.epoch

    @property
    def head(self) -> Head:
        """The last sealed batch."""
        return self._claim.head

    async def load(self) -> Snapshot:
        try:
            return await self._writer.run(_load)
        except SQLITE_FAULTS as error:
            raise unreadable(self.path, error) from error

    async def commit(self, changes: Changes) -> None:
        claim = self._claim

        def write(connection: sqlite3.Connection) -> None:
            sealed = seal(changes, claim.head, claim.epoch)
            _write(connection, changes, sealed, claim.epoch)
            # Here and not after the await: a cancelled caller's commit has still happened.
            claim.head = sealed.head

        try:
            await self._writer.run(write)
        except sqlite3.Error as error:
            raise StorageError(
                f"The ledger {self.path} could not be written: {error}. Check the disk's free "
                "space and health. The batch is there whole or not at all; the next start reads "
                "which."
            ) from error

    async def finished(self, request_ids: Sequence[RequestId]) -> list[RequestRow]:
        rows: list[RequestRow] = []
        for start in range(0, len(request_ids), LOOKUP_MAX):
            ids = request_ids[start : start + LOOKUP_MAX]
            found = await self._read(sql.select_requests(len(ids)), ids)
            rows.extend(RequestRow(*row) for row in found)
        return rows

    async def deliveries(self, request_ids: Sequence[RequestId]) -> list[DeliveryRow]:
        rows: list[DeliveryRow] = []
        for start in range(0, len(request_ids), LOOKUP_MAX):
            ids = request_ids[start : start + LOOKUP_MAX]
            found = await self._read(sql.select_deliveries(len(ids)), ids)
            rows.extend(DeliveryRow(*row) for row in found)
        return rows

    async def transfers(self, ids: Sequence[str]) -> list[TransferRow]:
        rows: list[TransferRow] = []
        for start in range(0, len(ids), LOOKUP_MAX):
            some = ids[start : start + LOOKUP_MAX]
            found = await self._read(sql.select_transfers(len(some)), some)
            rows.extend(TransferRow(*row) for row in found)
        return rows

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

    async def _read(self, query: str, cells: Sequence[Cell]) -> list[tuple[Any, ...]]:
        try:
            return await self._reader.run(
                lambda connection: connection.execute(query, cells).fetchall()
            )
        except sqlite3.Error as error:
            raise StorageError(f"The ledger {self.path} could not be read: {error}.") from error

    async def revenue(self, since_ns: int, limit: int) -> list[Revenue]:
        return await revenue_of(self._read, since_ns, limit)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for connection in {
            id(one): one for one in (self._past, self._reader, self._writer)
        }.values():
            await connection.close()
        if self._lock:
            self._lock.release()


def _claim(connection: sqlite3.Connection) -> _Claim:
    """Take a new epoch: from now on every older incarnation is fenced."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(sql.ENSURE_META, (bytes(32),))
        connection.execute(sql.CLAIM_EPOCH)
        epoch, number, digest, _ = connection.execute(sql.SELECT_META).fetchone()
        following = connection.execute(sql.SELECT_NEXT).fetchone()
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return _Claim(epoch, Head(number, digest, *following))


def _load(connection: sqlite3.Connection) -> Snapshot:
    return snapshot_of({query: connection.execute(query).fetchall() for query in LOAD})


def _write(connection: sqlite3.Connection, changes: Changes, sealed: Sealed, epoch: int) -> None:
    """One transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        head = sealed.head
        fenced = connection.execute(
            sql.ADVANCE, (head.number, head.hash, changes.last_ts_ns, epoch)
        )
        if fenced.rowcount != 1:
            raise Fenced(
                f"The ledger was taken over by a newer accountant; epoch {epoch} may not write. "
                "This process stops."
            )
        for statement, rows in sql.writes(changes, sealed):
            connection.executemany(statement, rows)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
