"""Payments under way, in memory, beside the ledger they move money in.

The desk knows every row that has not ended, and lately ended ones; its caller brings older
rows back from disk with `remember` before it asks about them. A change here and its postings
collect in the ledger's `Changes` and so become durable together: a row's state is what says
whether its money has been posted, and neither can be ahead of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, Literal, TypeVar

from market.accounting.chart import Account, Code, Posting
from market.accounting.registry import UNCLAIMED, Registry
from market.accounting.rows import Snapshot
from market.accounting.state_rows import (
    ENDED,
    DisputeRow,
    EventRow,
    OwnerRow,
    PayeeRow,
    PayoutRow,
    RefundRow,
    TopUpRow,
)
from market.errors import Conflict, Forbidden, InvalidRequest
from market.money import NANO_PER_CENT
from market.settings import CENTS_MAX, PaymentSettings
from market.types import AccountId

FRESH_MAX: Final = 20_000
"""Ended rows of one kind kept in memory: far more than one commit can change."""

PaymentAct = Literal["topup", "refund", "withdraw"]
"""What a caller may ask for under a key of its own."""
PaymentRow = TopUpRow | RefundRow | DisputeRow | PayoutRow | EventRow
P = TypeVar("P", TopUpRow, RefundRow, DisputeRow, PayoutRow, EventRow)


class Table(Generic[P]):
    """Rows of one kind by their id."""

    def __init__(self, kind: type[P], rows: Iterable[P]) -> None:
        self.kind: type[P] = kind
        self._open: dict[str, P] = {row.id: row for row in rows}
        self._fresh: dict[str, P] = {}

    def get(self, row_id: str) -> P | None:
        """The row, if memory has it; an older one that has ended is on disk."""
        return self._open.get(row_id) or self._fresh.get(row_id)

    def open(self) -> list[P]:
        """Every row that has not ended, oldest first."""
        return list(self._open.values())

    def __iter__(self) -> Iterator[P]:
        """Every row that memory has, ended ones too."""
        yield from self._open.values()
        yield from self._fresh.values()

    def remember(self, row: P) -> None:
        """A row as it is on disk; what memory has is newer."""
        if row.id not in self._open and row.id not in self._fresh:
            self._keep(row)

    def put(self, row: P) -> None:
        """The row as it is now."""
        self._open.pop(row.id, None)
        self._fresh.pop(row.id, None)
        self._keep(row)

    def _keep(self, row: P) -> None:
        if row.state in ENDED[self.kind]:
            self._fresh[row.id] = row
            while len(self._fresh) > FRESH_MAX:
                del self._fresh[next(iter(self._fresh))]
        else:
            self._open[row.id] = row


class Desk:
    """The tables of payments, over the ledger and the customers."""

    def __init__(self, books: Registry, snapshot: Snapshot, terms: PaymentSettings) -> None:
        self.books = books
        self.ledger = books.ledger
        self.terms = terms
        self.topups = Table(TopUpRow, snapshot.rows(TopUpRow))
        self.refunds = Table(RefundRow, snapshot.rows(RefundRow))
        self.disputes = Table(DisputeRow, snapshot.rows(DisputeRow))
        self.payouts = Table(PayoutRow, snapshot.rows(PayoutRow))
        self.events = Table(EventRow, snapshot.rows(EventRow))
        self.payees = {row.owner: row for row in snapshot.rows(PayeeRow)}

    def put(self, row: PaymentRow | PayeeRow) -> None:
        """The row as it is now, in memory and in the next commit."""
        match row:
            case TopUpRow():
                self.topups.put(row)
            case RefundRow():
                self.refunds.put(row)
            case DisputeRow():
                self.disputes.put(row)
            case PayoutRow():
                self.payouts.put(row)
            case EventRow():
                self.events.put(row)
            case PayeeRow():
                self.payees[row.owner] = row
        self.ledger.changes.put(row)

    def topup_of_intent(self, intent: str) -> TopUpRow | None:
        """The top-up in memory that a payment was booked for."""
        return next((row for row in self.topups if intent and row.intent == intent), None)

    # ── customers ─────────────────────────────────────────────────────────────────────

    def owner(self, owner: AccountId) -> OwnerRow:
        """The customer; raises NotFound."""
        return self.books.customers.get(owner).row

    def active_owner(self, owner: AccountId, what: str) -> OwnerRow:
        """A customer who may move money. Raises NotFound, Forbidden or Conflict, saying why."""
        row = self.owner(owner)
        if owner.startswith(UNCLAIMED):
            raise Conflict(
                f"No account has claimed this machine yet, so {what} is not possible: link the "
                "machine to an account first.",
                None,
                "machine_unclaimed",
                None,
                False,
            )
        if row.frozen:
            raise Forbidden(
                f"This account is frozen ({row.frozen}), so {what} is not possible. Write to the "
                "operator.",
                None,
                "account_frozen",
            )
        return row

    # ── money ─────────────────────────────────────────────────────────────────────────

    def post(
        self,
        transfer_id: str,
        leg: int,
        posting: Posting,
        debit: Account,
        credit: Account,
        amount_nano: int,
        now_ns: int,
    ) -> None:
        """Move money, if there is any to move."""
        if amount_nano:
            self.ledger.post(
                transfer_id,
                leg,
                debit=debit,
                credit=credit,
                amount_nano=amount_nano,
                posting=posting,
                ts_ns=now_ns,
            )

    def available_nano(self, code: Code, owner: AccountId) -> int:
        """What may be taken from an account now: what is there and not held."""
        account = self.ledger.find(code, owner)
        return max(0, account.available_nano) if account else 0

    def owed_nano(self, owner: AccountId) -> int:
        """What disputes have left this account owing."""
        account = self.ledger.find(Code.CONSUMER_RECEIVABLE, owner)
        return -account.posted_nano if account else 0

    @property
    def clearing(self) -> Account:
        """The platform's money at the processor."""
        return self.ledger.account(Code.STRIPE_CLEARING)


def asset_cents(account: Account | None) -> int:
    """An asset's balance in whole cents: what came in less what went out."""
    return (account.dpo - account.cpo) // NANO_PER_CENT if account else 0


def check_cents(amount_cents: object, name: str = "amount_cents") -> int:
    """A sum somebody asks for; raises InvalidRequest for anything but whole positive cents."""
    if not isinstance(amount_cents, int) or isinstance(amount_cents, bool):
        raise InvalidRequest(f"{name} must be a whole number of cents.", name)
    if not 1 <= amount_cents <= CENTS_MAX:
        raise InvalidRequest(f"{name} must be from 1 to {CENTS_MAX} cents.", name)
    return amount_cents
