"""The ledger without a disk: the same port, for the lab and for tests of what is above it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from market.accounting import histories
from market.accounting.chain import Head, Sealed, seal
from market.accounting.chart import LEGS_PER_MAC
from market.accounting.ledger import PROMO_LEG
from market.accounting.reading import UNFOLDED
from market.accounting.rows import (
    AccountRow,
    Changes,
    CheckpointRow,
    DeliveryRow,
    Earned,
    HoldRow,
    OperationRow,
    RequestRow,
    Revenue,
    Snapshot,
    TransferRow,
)
from market.accounting.state_rows import (
    ENDED,
    KEY_FIELDS,
    LOADED,
    Cell,
    FoldedRow,
    Row,
    StateKey,
    StateRow,
    newest,
)
from market.types import AccountId, RequestId
from storage.database import Fenced
from storage.memory_rollups import MemoryRollups


class MemoryLedger:
    """What a disk would hold; give it to one store after another to reopen it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.head = Head()
        self.last_ts_ns = 0
        self.state: dict[type[StateRow], dict[StateKey, StateRow]] = {
            kind: {} for kind in KEY_FIELDS
        }
        self.accounts: dict[int, AccountRow] = {}
        self.counters: dict[int, tuple[int, int, int, int]] = {}
        self.holds: dict[RequestId, tuple[HoldRow, CheckpointRow]] = {}
        self.requests: dict[RequestId, RequestRow] = {}
        self.deliveries: dict[RequestId, list[DeliveryRow]] = {}
        self.transfers: dict[tuple[str, int], TransferRow] = {}
        self.operations: list[OperationRow] = []
        self.sealed: list[Sealed] = []
        self.rollups = MemoryRollups(self.requests, self.deliveries, self._folded)

    def _folded(self) -> FoldedRow:
        (row,) = self.state[FoldedRow].values() or (UNFOLDED,)
        assert isinstance(row, FoldedRow)
        return row


class MemoryLedgerStore:
    """The `LedgerStore` port over a MemoryLedger."""

    def __init__(self, ledger: MemoryLedger | None = None) -> None:
        """Claims a new epoch: an earlier store over the same ledger is fenced from now on."""
        self._ledger = MemoryLedger() if ledger is None else ledger
        self._ledger.epoch += 1
        self.kept_in = "memory"
        self.epoch = self._ledger.epoch
        self.histories = self._ledger.rollups

    async def load(self) -> Snapshot:
        ledger = self._ledger
        return Snapshot(
            state=tuple(
                row
                for kind in LOADED
                for row in ledger.state[kind].values()
                if getattr(row, "state", "") not in ENDED.get(kind, ())
            ),
            accounts=tuple(
                (row, ledger.counters.get(number, (0, 0, 0, 0)))
                for number, row in ledger.accounts.items()
            ),
            holds=tuple(ledger.holds.values()),
            operations=tuple(ledger.operations),
            last_ts_ns=ledger.last_ts_ns,
        )

    async def commit(self, changes: Changes) -> None:
        ledger = self._ledger
        if ledger.epoch != self.epoch:
            raise Fenced(f"The ledger was taken over; epoch {self.epoch} may not write.")
        clash = [row.request_id for row in changes.requests if row.request_id in ledger.requests]
        if clash:
            raise ValueError(f"finished twice: {clash[0]}")
        twice = [row.id for row in changes.transfers if (row.id, row.leg) in ledger.transfers]
        if twice:
            raise ValueError(f"posted twice: {twice[0]}")
        sealed = seal(changes, ledger.head, self.epoch)
        if sealed.batch is not None:
            ledger.sealed.append(sealed)
        ledger.head = sealed.head
        ledger.last_ts_ns = changes.last_ts_ns
        for kind, rows in changes.state.items():
            for key, state_row in rows.items():
                if state_row is None:
                    ledger.state[kind].pop(key, None)
                else:
                    ledger.state[kind][key] = state_row
        ledger.accounts.update((row.number, row) for row in changes.accounts)
        ledger.counters.update(changes.counters)
        for request_id, terms in changes.opened.items():
            ledger.holds[request_id] = (terms, CheckpointRow())
        for request_id, progress in changes.checkpoints.items():
            ledger.holds[request_id] = (ledger.holds[request_id][0], progress)
        for request_id in changes.closed:
            del ledger.holds[request_id]
        ledger.requests.update((row.request_id, row) for row in changes.requests)
        for row in changes.deliveries:
            ledger.deliveries.setdefault(row.request_id, []).append(row)
        ledger.transfers.update(((row.id, row.leg), row) for row in changes.transfers)
        ledger.operations.extend(changes.operations)
        ledger.rollups.write(changes)

    async def finished(self, request_ids: Sequence[RequestId]) -> list[RequestRow]:
        found = self._ledger.requests
        return [found[request_id] for request_id in request_ids if request_id in found]

    async def deliveries(self, request_ids: Sequence[RequestId]) -> list[DeliveryRow]:
        known = self._ledger.deliveries
        return [row for request_id in request_ids for row in known.get(request_id, ())]

    async def transfers(self, ids: Sequence[str]) -> list[TransferRow]:
        wanted = set(ids)
        return sorted(row for key, row in self._ledger.transfers.items() if key[0] in wanted)

    async def usage(self, owner: AccountId, limit: int) -> list[RequestRow]:
        rows = [
            row
            for row in reversed(self._ledger.requests.values())
            if row.owner == owner and (row.status == "settled" or row.cost_nano > 0)
        ]
        return rows[: max(0, limit)]

    def _shares(self) -> Iterator[tuple[RequestRow, DeliveryRow | None]]:
        """Every charged request for each of its Macs, with what is written of that Mac.

        In the order of their ends. A Mac that was lost before its first token is left out.
        """
        for row in self._ledger.requests.values():
            if row.status != "settled" and row.cost_nano == 0:
                continue
            if row.deliveries is None:
                yield row, None
                continue
            for part in self._ledger.deliveries[row.request_id]:
                if part.completion_tokens > 0 or part.number == row.deliveries - 1:
                    yield row, part

    async def promo_paid(self, owner: AccountId, payee: AccountId) -> int:
        transfers, paid_nano = self._ledger.transfers, 0
        for row, part in self._shares():
            if (row.owner, (part or row).payee) == (owner, payee):
                leg = (part.number if part else 0) * LEGS_PER_MAC + PROMO_LEG
                transfer = transfers.get((row.request_id, leg))
                paid_nano += transfer.amount_nano if transfer else 0
        return paid_nano

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
        order = by or newest(kind)
        found = [
            row
            for row in self._ledger.state[kind].values()
            if isinstance(row, kind)
            and all(getattr(row, name) == value for name, value in equal.items())
            and (before_ns is None or getattr(row, order) < before_ns)
        ]
        found.sort(key=lambda row: (getattr(row, order), row[0]), reverse=True)
        return found[: max(0, limit)]

    async def revenue(self, since_ns: int, limit: int) -> list[Revenue]:
        newest = set(list(self._ledger.requests)[-limit:] if limit > 0 else ())
        sums: Counter[tuple[AccountId, AccountId]] = Counter()
        for row, part in self._shares():
            paid = part or row
            late = row.request_id in newest and row.finished_ns >= since_ns
            if late and paid.payee is not None and paid.provider_nano:
                sums[paid.payee, row.owner] += paid.provider_nano
        return [Revenue(payee, owner, nano) for (payee, owner), nano in sums.items()]

    async def close(self) -> None:
        return
