"""The seal on the journal: a checksum per row, a hash per batch, each batch on the one before.

`hash(batch) = sha256(previous hash ‖ batch head ‖ every journal row of the batch)`. The
hash makes the history tamper-evident; the CRC-32 of each row is there to *name* the row
that a flipped byte is in. Rows are written as text with separators, so that the seal can
be recomputed by any language from what any database returns.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from market.accounting.rows import Changes, RequestRow

GENESIS: Final = bytes(32)
_SEPARATOR: Final = "\x1f"
_END: Final = "\x1e"

Cell = int | str | float | None
OPTIONAL: Final = {"request": 2, "hold": 2}
"""How many last fields a row may lack: columns younger than the first rows of its table."""
_DELIVERIES_AT: Final = RequestRow._fields.index("deliveries") + 1  # after the number


class Head(NamedTuple):
    """Where the chain ends, and the next free number of each journal."""

    number: int = 0
    hash: bytes = GENESIS
    next_transfer: int = 1
    next_request: int = 1
    next_operation: int = 1
    next_delivery: int = 1


class BatchRow(NamedTuple):
    """One commit as the chain sees it; counts let a verifier see what is missing.

    How many deliveries there are say the requests they belong to.
    """

    number: int
    ts_ns: int
    epoch: int
    accounts: int
    transfers: int
    requests: int
    operations: int
    hash: bytes


@dataclass(slots=True)
class BatchContents:
    """A batch's journal rows as stored: (number, fields…, batch, crc)."""

    accounts: Sequence[tuple[Cell, ...]]
    transfers: Sequence[tuple[Cell, ...]]
    requests: Sequence[tuple[Cell, ...]]
    operations: Sequence[tuple[Cell, ...]]
    deliveries: Sequence[tuple[Cell, ...]] = ()

    @property
    def deliveries_count(self) -> int:
        """How many there are, or how many their requests say there should be, if that is more."""
        told = (row[_DELIVERIES_AT] for row in self.requests)
        return max(len(self.deliveries), sum(count for count in told if isinstance(count, int)))


@dataclass(frozen=True, slots=True)
class Sealed:
    """Rows ready to write: (number, fields…, batch, crc).

    Holds carry a checksum but are state, not journal: (fields…, crc). Without journal rows
    there is no batch, and the head stays where it was.
    """

    batch: BatchRow | None
    accounts: list[tuple[Cell, ...]]
    transfers: list[tuple[Cell, ...]]
    requests: list[tuple[Cell, ...]]
    deliveries: list[tuple[Cell, ...]]
    operations: list[tuple[Cell, ...]]
    holds: list[tuple[Cell, ...]]
    head: Head


def row_text(kind: str, fields: Iterable[Cell]) -> bytes:
    """The canonical bytes of one row; None is spelled so that it differs from ''."""
    cells = ["\x00" if cell is None else str(cell) for cell in fields]
    return (kind + _SEPARATOR + _SEPARATOR.join(cells) + _END).encode("utf-8")


def sealed_text(kind: str, fields: Sequence[Cell], *after: Cell) -> bytes:
    """A row's canonical bytes as its batch seals them; `after` is the batch's number.

    A younger column that is None was not there when the row was sealed, and is left out.
    """
    if fields[-1] is not None:
        return row_text(kind, (*fields, *after))
    keep, least = len(fields), len(fields) - OPTIONAL.get(kind, 0)
    while keep > least and fields[keep - 1] is None:
        keep -= 1
    return row_text(kind, (*fields[:keep], *after))


def crc_of(text: bytes) -> int:
    """The row's checksum. Finds accidents and names the row; the hash finds intent."""
    return zlib.crc32(text)


def batch_hash(previous: bytes, head: Sequence[Cell], rows: Iterable[bytes]) -> bytes:
    """The batch's hash over the previous one, its own head and its rows in order."""
    digest = sha256(previous)
    digest.update(row_text("batch", head))
    for row in rows:
        digest.update(row)
    return digest.digest()


def seal(changes: Changes, head: Head, epoch: int) -> Sealed:
    """Number the journal rows of one batch and close it with its hash."""
    number = head.number + 1
    texts: list[bytes] = []

    def close(kind: str, rows: Iterable[Sequence[Cell]]) -> list[tuple[Cell, ...]]:
        closed = []
        for row in rows:
            text = sealed_text(kind, row, number)
            texts.append(text)
            closed.append((*row, number, crc_of(text)))
        return closed

    accounts = close("account", changes.accounts)
    transfers = close(
        "transfer", ((n, *row) for n, row in enumerate(changes.transfers, head.next_transfer))
    )
    requests = close(
        "request", ((n, *row) for n, row in enumerate(changes.requests, head.next_request))
    )
    deliveries = close(
        "delivery", ((n, *row) for n, row in enumerate(changes.deliveries, head.next_delivery))
    )
    operations = close(
        "operation", ((n, *row) for n, row in enumerate(changes.operations, head.next_operation))
    )
    holds: list[tuple[Cell, ...]] = [
        (*row, crc_of(sealed_text("hold", row))) for row in changes.opened.values()
    ]
    if not texts:
        return Sealed(None, [], [], [], [], [], holds, head)
    counts = (len(accounts), len(transfers), len(requests), len(operations))
    batch_head = (number, changes.last_ts_ns, epoch, *counts)
    digest = batch_hash(head.hash, batch_head, texts)
    return Sealed(
        batch=BatchRow(*batch_head, digest),
        accounts=accounts,
        transfers=transfers,
        requests=requests,
        deliveries=deliveries,
        operations=operations,
        holds=holds,
        head=Head(
            number,
            digest,
            head.next_transfer + len(transfers),
            head.next_request + len(requests),
            head.next_operation + len(operations),
            head.next_delivery + len(deliveries),
        ),
    )
