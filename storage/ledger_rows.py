"""How a whole ledger is read, wherever it is kept: one consistent picture, never a write.

The audit, the export and the report are written against this port, so they know neither
SQLite nor PostgreSQL. Rows stream in the order they were written; memory stays small however
long the history is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from market.accounting.chain import BatchRow
from market.accounting.chart import Account
from market.accounting.rows import HoldRow, RequestRow
from market.accounting.state_rows import Row
from market.types import RequestId
from storage.rollup_statements import Side

Journal = Literal["account", "transfer", "request", "delivery", "operation"]


class OpenHold(NamedTuple):
    """A hold as stored: its terms, its checksum, and whether its request has ended already."""

    terms: HoldRow
    crc: int
    ended: bool


class Meta(NamedTuple):
    """Who may write, where the chain ends, and the last ledger time."""

    epoch: int
    head_number: int
    head_hash: bytes
    last_ts_ns: int


class LedgerRows(Protocol):
    """One read transaction over a ledger; several iterators may be open at once.

    Every method raises StorageError when the ledger cannot be read (any further): damaged,
    gone, or without one of its tables. All calls come from one thread at a time.
    """

    def revision(self) -> str | None:
        """The schema's version, None for an empty ledger.

        Raises StorageError when it is not one of ours.
        """
        ...

    def findings(self, *, full: bool) -> Iterator[str]:
        """What is wrong with the schema, and with `full` with the storage below, in sentences."""
        ...

    def accounts(self) -> Iterator[Account]:
        """Every account with its counters, by number."""
        ...

    def batches(self, after: int = 0) -> Iterator[BatchRow]:
        """The seals of the batches numbered above `after`, in order."""
        ...

    def journal(self, kind: Journal, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """A journal's rows numbered above `after`, in order: (number, fields…, batch, crc)."""
        ...

    def ended(self, request_ids: Sequence[RequestId]) -> Iterator[RequestRow]:
        """Those of these few requests that have ended, in no particular order."""
        ...

    def holds(self) -> Iterator[OpenHold]:
        """Every open hold, oldest first."""
        ...

    def state(self, kind: type[Row]) -> Iterator[Row]:
        """Every state row of a kind, ended ones too, oldest first."""
        ...

    def sums(self, side: Side, span_s: int) -> Iterator[tuple[Any, ...]]:
        """Every kept sum of one span of work or of use, in the order of their beginning."""
        ...

    def meta(self) -> Meta | None:
        """The ledger's one row about itself; None when it is gone."""
        ...

    def close(self) -> None:
        """End the transaction and the connection. Idempotent."""
        ...
