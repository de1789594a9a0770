"""The ledger's algebra: accounts, holds, settlements, and the laws they obey.

Double entry in two phases. A hold reserves the worst case on the payer's accounts without
moving money. Settling releases it and moves the cost: from promo, then cash, then earnings,
to the provider and to the platform's fee account. Voiding only releases. No path makes a
protected account negative, because money is only ever taken from what was reserved.

Pure: the state changes in memory at once and the rows to write collect in `Changes`; the
caller answers nobody before those are durable. Every method either applies whole or raises
before it touched anything.
"""

from __future__ import annotations

from typing import Final

from market.accounting.chart import NO_NEGATIVE, SPENDING_ORDER, Account, Code, Posting
from market.accounting.pricing import cost_nano, split_fee
from market.accounting.rows import (
    AccountRow,
    Changes,
    CheckpointRow,
    HoldRow,
    RequestRow,
    RequestStatus,
    Snapshot,
    TransferRow,
)
from market.messages import Funding
from market.types import AccountId, RequestId

NO_CHECKPOINT: Final = CheckpointRow()
_EMPTY_PURSE: Final[list[Account | None]] = [None] * len(SPENDING_ORDER)


def funding_of(available: tuple[int, int, int], amount_nano: int) -> Funding | None:
    """The legs that cover this amount out of (promo, cash, earnings), or None."""
    promo = min(amount_nano, available[0])
    cash = min(amount_nano - promo, available[1])
    earnings = amount_nano - promo - cash
    return None if earnings > available[2] else Funding(promo, cash, earnings)


class OpenHold:
    """A live hold: its frozen terms, its progress and when its lease ends (monotonic)."""

    __slots__ = ("checkpoint", "lease_ends_tick_ns", "terms")

    def __init__(self, terms: HoldRow, checkpoint: CheckpointRow, lease_ends_tick_ns: int) -> None:
        self.terms = terms
        self.checkpoint = checkpoint
        self.lease_ends_tick_ns = lease_ends_tick_ns

    @property
    def held_nano(self) -> int:
        terms = self.terms
        return terms.promo_nano + terms.cash_nano + terms.earnings_nano

    @property
    def reserved_tokens(self) -> int:
        """Tokens counted against the day while the request runs."""
        return self.terms.prompt_tokens + self.terms.max_tokens * self.terms.n


class Ledger:
    """All accounts and open holds, and the changes not yet handed to the store."""

    def __init__(self, snapshot: Snapshot, *, lease_ends_tick_ns: int) -> None:
        """Open holds of an earlier run start a fresh lease: their gateways may be alive."""
        self._accounts: dict[int, Account] = {}
        self._named: dict[tuple[int, str], Account] = {}
        self._purses: dict[str, list[Account | None]] = {}
        for account in snapshot.account_objects():
            self._know(account)
        self.holds: dict[RequestId, OpenHold] = {
            terms.request_id: OpenHold(terms, checkpoint, lease_ends_tick_ns)
            for terms, checkpoint in snapshot.holds
        }
        self.changes = Changes()
        self._touched: set[Account] = set()

    def take(self) -> Changes:
        """Everything changed since the last call, ready for one commit."""
        changes, self.changes = self.changes, Changes()
        changes.counters = {account.number: account.counters() for account in self._touched}
        self._touched.clear()
        return changes

    # ── accounts ──────────────────────────────────────────────────────────────────────

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

    def available(self, owner: AccountId) -> tuple[int, int, int]:
        """What a new hold may take from (promo, cash, earnings), in nano-USD."""
        promo, cash, earnings = self._purses.get(owner, _EMPTY_PURSE)
        return (
            promo.cpo - promo.dpo - promo.dp if promo else 0,
            cash.cpo - cash.dpo - cash.dp if cash else 0,
            earnings.cpo - earnings.dpo - earnings.dp if earnings else 0,
        )

    def held(self, owner: AccountId) -> int:
        """What open holds reserve of this owner's money."""
        return sum(account.dp for account in self._purses.get(owner, _EMPTY_PURSE) if account)

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
        assert debit.code not in NO_NEGATIVE or debit.available_nano >= amount_nano
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

    # ── holds ─────────────────────────────────────────────────────────────────────────

    def hold(self, terms: HoldRow, *, lease_ends_tick_ns: int) -> OpenHold:
        """Reserve the terms' funding legs, which `funding_of` has just computed."""
        assert terms.request_id not in self.holds
        purse = self._purses.get(terms.owner, _EMPTY_PURSE)
        for account, leg_nano in zip(purse, terms[9:12], strict=True):
            if leg_nano:
                assert account is not None
                assert account.cpo - account.dpo - account.dp >= leg_nano
                account.dp += leg_nano
                self._touched.add(account)
        opened = OpenHold(terms, NO_CHECKPOINT, lease_ends_tick_ns)
        self.holds[terms.request_id] = opened
        self.changes.opened[terms.request_id] = terms
        return opened

    def checkpoint(
        self, opened: OpenHold, progress: CheckpointRow, lease_ends_tick_ns: int
    ) -> None:
        """Renew the lease and remember how far the request has come."""
        opened.lease_ends_tick_ns = lease_ends_tick_ns
        if progress != opened.checkpoint:
            opened.checkpoint = progress
            self.changes.checkpoints[opened.terms.request_id] = progress

    def settle(
        self,
        opened: OpenHold,
        delivered: CheckpointRow,
        *,
        status: RequestStatus,
        finish_reason: str,
        attempts: int,
        ttft_ms: float,
        total_ms: float,
        now_ns: int,
    ) -> RequestRow:
        """Release the hold and move the cost of what was delivered.

        `delivered.payee` may be None only when nothing was delivered and nothing is owed.
        """
        terms = opened.terms
        cost = 0
        if delivered.payee is not None:
            cost = cost_nano(
                prompt_tokens=delivered.prompt_tokens,
                completion_tokens=delivered.completion_tokens,
                price_in_nano=terms.price_in_nano,
                price_out_nano=terms.price_out_nano,
            )
        assert cost <= opened.held_nano
        split = split_fee(cost, terms.fee_bps)
        spent = self._pay(opened, delivered.payee, *split, now_ns=now_ns)
        row = RequestRow(
            terms.request_id,
            terms.owner,
            terms.key_id,
            terms.model,
            status,
            delivered.prompt_tokens,
            delivered.completion_tokens,
            delivered.cached_tokens,
            delivered.reasoning_tokens,
            cost,
            split.provider_nano,
            split.fee_nano,
            *spent,
            opened.held_nano,
            terms.price_in_nano,
            terms.price_out_nano,
            terms.fee_bps,
            terms.max_tokens,
            terms.n,
            delivered.payee,
            delivered.machine,
            delivered.provider,
            finish_reason,
            attempts,
            ttft_ms,
            total_ms,
            terms.created_ns,
            now_ns,
        )
        self._close(row)
        return row

    def _pay(
        self,
        opened: OpenHold,
        payee: AccountId | None,
        provider_nano: int,
        fee_nano: int,
        *,
        now_ns: int,
    ) -> tuple[int, int, int]:
        """Release each leg and spend from it, the provider's share first.

        Leg numbers are 2·source for the provider and 2·source + 1 for the fee, so a
        transfer's number alone says whose money went where.
        """
        terms = opened.terms
        spent = [0, 0, 0]
        purse = self._purses.get(terms.owner, _EMPTY_PURSE)
        for source, (account, held_nano) in enumerate(zip(purse, terms[9:12], strict=True)):
            if not held_nano:
                continue
            assert account is not None
            account.dp -= held_nano
            assert account.dp >= 0
            self._touched.add(account)
            to_provider = min(held_nano, provider_nano)
            to_fee = min(held_nano - to_provider, fee_nano)
            if to_provider:
                assert payee is not None
                self._post_leg(terms.request_id, 2 * source, account, payee, to_provider, now_ns)
            if to_fee:
                self._post_leg(terms.request_id, 2 * source + 1, account, None, to_fee, now_ns)
            provider_nano -= to_provider
            fee_nano -= to_fee
            spent[source] = to_provider + to_fee
        assert provider_nano == fee_nano == 0
        return (spent[0], spent[1], spent[2])

    def _post_leg(
        self,
        request_id: RequestId,
        leg: int,
        debit: Account,
        payee: AccountId | None,
        amount_nano: int,
        ts_ns: int,
    ) -> None:
        """One leg of a settlement; without a payee it is the platform's fee.

        Earnings go straight to the account they can be withdrawn from. A maturity rule
        would post to PROVIDER_MATURING here, and nowhere else.
        """
        if payee is None:
            credit, posting = self.account(Code.PLATFORM_FEE), Posting.SETTLE_FEE
        else:
            credit = self.account(Code.PROVIDER_EARNINGS, payee)
            posting = Posting.SETTLE_PROVIDER
        self.post(
            request_id,
            leg,
            debit=debit,
            credit=credit,
            amount_nano=amount_nano,
            posting=posting,
            ts_ns=ts_ns,
        )

    def _close(self, row: RequestRow) -> None:
        changes = self.changes
        del self.holds[row.request_id]
        if changes.opened.pop(row.request_id, None) is None:
            changes.closed.append(row.request_id)
        changes.checkpoints.pop(row.request_id, None)
        changes.requests.append(row)

    # ── laws ──────────────────────────────────────────────────────────────────────────

    def check(self) -> list[str]:
        """The laws that can be seen from the present state; an empty list is good news."""
        problems = []
        debited_nano = sum(account.dpo for account in self._accounts.values())
        credited_nano = sum(account.cpo for account in self._accounts.values())
        if debited_nano != credited_nano:
            problems.append(
                f"Posted debits are {debited_nano} nano-USD, posted credits {credited_nano}."
            )
        reserved: dict[Account, int] = {}
        for opened in self.holds.values():
            terms = opened.terms
            for code, leg_nano in zip(SPENDING_ORDER, terms[9:12], strict=True):
                if leg_nano:
                    account = self._named[code, terms.owner]
                    reserved[account] = reserved.get(account, 0) + leg_nano
        for account in self._accounts.values():
            if account.dp != reserved.get(account, 0):
                problems.append(
                    f"Account {account.number} ({account.label()}) has {account.dp} nano-USD "
                    f"pending, its open holds add up to {reserved.get(account, 0)}."
                )
            if account.code in NO_NEGATIVE and account.available_nano < 0:
                problems.append(
                    f"Account {account.number} ({account.label()}) is at "
                    f"{account.available_nano} nano-USD and must not be below zero."
                )
        granted = self._named.get((Code.PROMO_EXPENSE, ""))
        received = sum(a.cpo for a in self._accounts.values() if a.code is Code.CONSUMER_PROMO)
        if (granted.dpo if granted else 0) != received:
            problems.append("Promo credit granted differs from promo credit received.")
        return problems
