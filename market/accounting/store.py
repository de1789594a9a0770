"""The port of whatever keeps the ledger. Nothing here knows SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from market.accounting.histories import HistoryStore
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


class LedgerStore(Protocol):
    """Where the ledger is kept. One writer; `commit` is durable when it returns.

    Laws, held by `tests/contract/test_ledger_store.py` for each implementation: what was
    committed is what `load` returns after reopening; a commit is all or nothing; a store
    whose epoch has been superseded commits nothing and raises.
    """

    kept_in: str
    """Which database of which version it is, and where, without a password."""

    @property
    def histories(self) -> HistoryStore:
        """The past: sums by time, and pages of requests."""
        ...

    async def load(self) -> Snapshot:
        """The present state, read once at start."""
        ...

    async def commit(self, changes: Changes) -> None:
        """Write all of it durably. Any exception means: unknown outcome, stop."""
        ...

    async def finished(self, request_ids: Sequence[RequestId]) -> list[RequestRow]:
        """Those of these requests that have ended, in no particular order."""
        ...

    async def deliveries(self, request_ids: Sequence[RequestId]) -> list[DeliveryRow]:
        """What is written of each Mac's delivery of these requests, in the order of delivery."""
        ...

    async def transfers(self, ids: Sequence[str]) -> list[TransferRow]:
        """The postings with these ids, by id and leg. Sees committed ones only."""
        ...

    async def usage(self, owner: AccountId, limit: int) -> list[RequestRow]:
        """The owner's finished requests that were charged, newest first."""
        ...

    async def promo_paid(self, owner: AccountId, payee: AccountId) -> int:
        """What this owner's promo credit has ever paid to that payee, in nano-USD.

        Whether they finished the request or were one of several who delivered it.
        """
        ...

    async def earned(self, payees: Sequence[AccountId], limit: int) -> Earned:
        """What these accounts were paid for requests, with the newest `limit` of those.

        Of a request with deliveries that is what their own Macs delivered.
        """
        ...

    async def rows(
        self,
        kind: type[Row],
        *,
        limit: int = 100,
        before_ns: int | None = None,
        by: str = "",
        **equal: Cell,
    ) -> list[Row]:
        """State rows whose columns have these values, newest first by `created_ns`.

        `before_ns` pages back: only rows created before it. `by` names another column for
        both. Sees committed rows only.
        """
        ...

    async def revenue(self, since_ns: int, limit: int) -> list[Revenue]:
        """Who earned from whom since then, over at most the `limit` newest requests.

        Unfinished business is not counted, a request with deliveries by who delivered it. In no
        particular order.
        """
        ...

    async def close(self) -> None:
        """Release the files. Idempotent."""
        ...
