"""Streams the journal out in a form for other programs, whatever its size.

One read transaction, so the end is consistent with the beginning while the market goes on;
rows come and lines go one at a time, and only the accounts are held in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from market.accounting import exports
from market.accounting.chart import LEGS_PER_MAC, SETTLING, Account, Posting
from market.accounting.exports import Entry, Format, Selection
from market.accounting.rows import DeliveryRow, TransferRow
from market.errors import NotFound
from storage.database import StorageError
from storage.ledger_rows import LedgerRows

_REASONS = frozenset(int(posting) for posting in Posting)


def export_lines(rows: LedgerRows, form: Format, chosen: Selection) -> Iterator[str]:
    """The journal as text, in pieces that are whole lines.

    Raises NotFound when the chosen owner has no account, StorageError when the ledger cannot
    be read or contradicts itself.
    """
    accounts = {account.number: account for account in rows.accounts()}
    check_owner(accounts.values(), chosen)
    entries = _entries(rows, accounts)
    if form == "beancount":
        return _beancount(entries, accounts, chosen)
    return _table(entries, form, chosen)


def check_owner(accounts: Iterable[Account], chosen: Selection) -> None:
    """Raise NotFound when the chosen owner has no account."""
    if chosen.owner and not any(map(chosen.takes, accounts)):
        raise NotFound(
            f"No account of {chosen.owner[:60]!r} is in the books; nothing was ever booked on it.",
            "account",
            "account_not_found",
        )


def _table(entries: Iterator[Entry], form: Format, chosen: Selection) -> Iterator[str]:
    if form == "csv":
        yield exports.csv_head()
    line = exports.csv_entry if form == "csv" else exports.json_entry
    for entry in entries:
        if entry.transfer.ts_ns >= chosen.since_ns and _concerns(entry, chosen):
            yield line(entry)


def _beancount(
    entries: Iterator[Entry], accounts: dict[int, Account], chosen: Selection
) -> Iterator[str]:
    """Head, what was there before, the transfers, and what it must have come to.

    The other sides of one owner's transfers are named but not asserted: not all of them are
    told.
    """
    own = [account for account in accounts.values() if chosen.takes(account)]
    yield from exports.beancount_head(accounts.values(), rest=bool(chosen.owner))
    sums: defaultdict[int, int] = defaultdict(int)
    opened, last_ns = False, chosen.since_ns
    for entry in entries:
        moved = entry.transfer
        if moved.ts_ns < chosen.since_ns:
            sums[moved.debit] += moved.amount_nano
            sums[moved.credit] -= moved.amount_nano
            continue
        if not opened:
            opened = True
            yield from exports.beancount_opening(own, sums, chosen.since_ns)
        last_ns = moved.ts_ns
        if _concerns(entry, chosen):
            yield exports.beancount_entry(entry)
    if not opened:
        yield from exports.beancount_opening(own, sums, chosen.since_ns)
    yield from exports.beancount_balances(own, last_ns)


def _concerns(entry: Entry, chosen: Selection) -> bool:
    return chosen.takes(entry.debit) or chosen.takes(entry.credit)


def _entries(rows: LedgerRows, accounts: dict[int, Account]) -> Iterator[Entry]:
    deliveries = _Deliveries(rows)
    for number, *fields, batch, _ in rows.journal("transfer"):
        moved = TransferRow(*fields)
        debit, credit = accounts.get(moved.debit), accounts.get(moved.credit)
        if debit is None or credit is None or moved.code not in _REASONS:
            raise StorageError(
                f"The transfer {number} names an account or a reason that does not exist; "
                "`coster ledger verify --full` says what else is wrong."
            )
        paid = deliveries.of(moved, batch) if moved.code in SETTLING else None
        yield Entry(number, moved, debit, credit, batch, paid)


class _Deliveries:
    """The deliveries of one batch after the other, as the transfers that pay them go by."""

    def __init__(self, rows: LedgerRows) -> None:
        self._rows = rows.journal("delivery")
        self._ahead = next(self._rows, None)
        self._found: dict[tuple[str, int], DeliveryRow] = {}
        self._batch = 0

    def of(self, moved: TransferRow, batch: int) -> DeliveryRow | None:
        """The delivery that this transfer of this batch pays for, if one was written."""
        if batch != self._batch:
            self._batch, self._found = batch, {}
            while self._ahead is not None and self._ahead[-2] <= batch:
                delivery = DeliveryRow(*self._ahead[1:-2])
                self._found[delivery.request_id, delivery.number] = delivery
                self._ahead = next(self._rows, None)
        return self._found.get((moved.id, moved.leg // LEGS_PER_MAC))
