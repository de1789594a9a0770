"""The accounts and the one way to move money between them.

Pure: the state changes in memory at once and the rows to write collect in `Changes`; the
caller answers nobody before those are durable. Every method either applies whole or raises
before it touched anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.accounting.chart import (
    NO_NEGATIVE,
    SHAPES,
    SPENDING_ORDER,
    Account,
    Code,
    Posting,
)
from market.accounting.rows import AccountRow, Changes, Snapshot, TransferRow
from market.types import AccountId

_EMPTY_PURSE: Final[list[Account | None]] = [None] * len(SPENDING_ORDER)


class Accounts:
    """Every account, and the changes not yet handed to the store."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._accounts: dict[int, Account] = {}
        self._named: dict[tuple[int, str], Account] = {}
        self._purses: dict[str, list[Account | None]] = {}
        for account in snapshot.account_objects():
            self._know(account)
        self.changes = Changes()
        self._touched: set[Account] = set()

    def take(self) -> Changes:
        """Everything changed since the last call, ready for one commit."""
        changes, self.changes = self.changes, Changes()
        changes.counters = {account.number: account.counters() for account in self._touched}
        self._touched.clear()
        return changes

    def account(self, code: Code, owner: str = "") -> Account:
        """The account of this name, opened at zero when it is new."""
        account = self._named.get((code, owner))
        if account is None:
            account = Account(len(self._accounts) + 1, code, owner)
            self._know(account)
            self.changes.accounts.append(AccountRow(account.number, int(code), owner))
        return account

    def _know(self, account: Account) -> None:
        self._accounts[account.number] = account
        self._named[account.code, account.owner] = account
        if account.code in SPENDING_ORDER:
            purse = self._purses.setdefault(account.owner, [None] * len(SPENDING_ORDER))
            purse[SPENDING_ORDER.index(account.code)] = account

    def find(self, code: Code, owner: str = "") -> Account | None:
        """The account of this name, or None when nothing was ever booked on it."""
        return self._named.get((code, owner))

    def accounts(self) -> Iterable[Account]:
        """Every account there is."""
        return self._accounts.values()

    def owned(self, code: Code) -> list[Account]:
        """Every account of this kind."""
        return [account for (kind, _), account in self._named.items() if kind is code]

    def available(self, owner: AccountId) -> tuple[int, int, int]:
        """What a new hold may take from (promo, cash, earnings), in nano-USD."""
        promo, cash, earnings = self._purses.get(owner, _EMPTY_PURSE)
        return (
            promo.cpo - promo.dpo - promo.dp if promo else 0,
            cash.cpo - cash.dpo - cash.dp if cash else 0,
            earnings.cpo - earnings.dpo - earnings.dp if earnings else 0,
        )

    def purse(self, owner: AccountId) -> list[Account | None]:
        """The accounts an owner spends from, in SPENDING_ORDER; None where nothing was booked."""
        return self._purses.get(owner, _EMPTY_PURSE)

    def held(self, owner: AccountId) -> int:
        """What open holds reserve of this owner's money."""
        promo, cash, earnings = self._purses.get(owner, _EMPTY_PURSE)
        return (
            (promo.dp if promo else 0) + (cash.dp if cash else 0) + (earnings.dp if earnings else 0)
        )

    def post(
        self,
        transfer_id: str,
        leg: int,
        *,
        debit: Account,
        credit: Account,
        amount_nano: int,
        posting: Posting,
        ts_ns: int,
    ) -> None:
        """Move money. The debit side must cover it when it may not go below zero."""
        assert amount_nano > 0
        assert (debit.code, credit.code) in SHAPES[posting]
        covered = debit.cpo - debit.dpo - debit.dp >= amount_nano
        assert covered or debit.code not in NO_NEGATIVE
        debit.dpo += amount_nano
        credit.cpo += amount_nano
        self._touched.add(debit)
        self._touched.add(credit)
        self.changes.transfers.append(
            TransferRow(
                transfer_id, leg, debit.number, credit.number, amount_nano, int(posting), ts_ns
            )
        )

    def grant_promo(self, owner: AccountId, amount_nano: int, ts_ns: int) -> None:
        """Give an owner credit that can be spent and never withdrawn. Once per owner."""
        self.post(
            f"promo:{owner}",
            0,
            debit=self.account(Code.PROMO_EXPENSE),
            credit=self.account(Code.CONSUMER_PROMO, owner),
            amount_nano=amount_nano,
            posting=Posting.PROMO_GRANT,
            ts_ns=ts_ns,
        )
