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
from market.accounting.state_rows import LotRow
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
        self.lots = {(lot.payee, lot.due_day): lot.amount_nano for lot in snapshot.rows(LotRow)}
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
        assert (debit.code, credit.code) in SHAPES[posting]
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

    # ── earnings that are held back ───────────────────────────────────────────────────

    def mature(self, today: int, ts_ns: int) -> int:
        """Release every lot that is due by this UTC day; returns how many there were."""
        due = sorted(key for key in self.lots if key[1] <= today)
        for payee, day in due:
            amount_nano = self.lots[payee, day]
            self.post(
                f"mature:{payee}:{day}:{ts_ns}",
                0,
                debit=self.account(Code.PROVIDER_MATURING, payee),
                credit=self.account(Code.PROVIDER_EARNINGS, payee),
                amount_nano=amount_nano,
                posting=Posting.MATURE,
                ts_ns=ts_ns,
            )
            self.set_lot(payee, day, 0)
        return len(due)

    def move_earnings(self, giver: AccountId, taker: AccountId, ts_ns: int) -> int:
        """Everything an account has earned becomes another's, held back as before; nano-USD."""
        moved = 0
        for leg, kind in enumerate((Code.PROVIDER_EARNINGS, Code.PROVIDER_MATURING)):
            account = self.find(kind, giver)
            if account is None or account.available_nano == 0:
                continue
            moved += account.available_nano
            self.post(
                f"claim:{giver}:{ts_ns}",
                leg,
                debit=account,
                credit=self.account(kind, taker),
                amount_nano=account.available_nano,
                posting=Posting.CLAIM,
                ts_ns=ts_ns,
            )
        for payee, day in [key for key in self.lots if key[0] == giver]:
            noted = self.lots.get((taker, day), 0)
            self.set_lot(taker, day, noted + self.lots[payee, day])
            self.set_lot(payee, day, 0)
        return moved

    def set_lot(self, payee: AccountId, due_day: int, amount_nano: int) -> None:
        """What this account may withdraw from that day on, in place of what was noted."""
        if amount_nano:
            self.lots[payee, due_day] = amount_nano
            self.changes.put(LotRow(payee, due_day, amount_nano))
        else:
            del self.lots[payee, due_day]
            self.changes.drop(LotRow(payee, due_day, 0))

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
        due_day: int | None = None,
    ) -> RequestRow:
        """Release the hold and move the cost of what was delivered.

        `delivered.payee` may be None only when nothing was delivered and nothing is owed.
        What is paid with promo credit may be withdrawn from `due_day` on, None is at once.
        """
        terms = opened.terms
        cost = 0
        if delivered.payee is not None:
            cost = cost_nano(
                prompt_tokens=delivered.prompt_tokens,
                cached_tokens=delivered.cached_tokens,
                completion_tokens=delivered.completion_tokens,
                price_in_nano=terms.price_in_nano,
                price_cached_nano=terms.cached_price_nano,
                price_out_nano=terms.price_out_nano,
            )
        assert cost <= opened.held_nano
        own = delivered.payee == terms.owner
        split = split_fee(cost, terms.fee_bps, min(cost, terms.promo_nano) if own else 0)
        spent = self._pay(opened, delivered.payee, *split, own=own, due_day=due_day, now_ns=now_ns)
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
            terms.price_cached_nano,
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
        own: bool,
        due_day: int | None,
        now_ns: int,
    ) -> tuple[int, int, int]:
        """Release each leg and spend from it, the provider's share first.

        A provider's own promo credit never earns: there all of that leg is the platform's.
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
            promo = source == 0
            to_provider = 0 if own and promo else min(held_nano, provider_nano)
            to_fee = min(held_nano - to_provider, fee_nano)
            if to_provider:
                assert payee is not None
                kind = Code.PROVIDER_EARNINGS
                if promo and due_day is not None:
                    kind = Code.PROVIDER_MATURING
                    self.set_lot(payee, due_day, self.lots.get((payee, due_day), 0) + to_provider)
                self.post(
                    terms.request_id,
                    2 * source,
                    debit=account,
                    credit=self.account(kind, payee),
                    amount_nano=to_provider,
                    posting=Posting.SETTLE_PROVIDER,
                    ts_ns=now_ns,
                )
            if to_fee:
                self.post(
                    terms.request_id,
                    2 * source + 1,
                    debit=account,
                    credit=self.account(Code.PLATFORM_FEE),
                    amount_nano=to_fee,
                    posting=Posting.SETTLE_FEE,
                    ts_ns=now_ns,
                )
            provider_nano -= to_provider
            fee_nano -= to_fee
            spent[source] = to_provider + to_fee
        assert provider_nano == fee_nano == 0
        return (spent[0], spent[1], spent[2])

    def _close(self, row: RequestRow) -> None:
        changes = self.changes
        del self.holds[row.request_id]
        if changes.opened.pop(row.request_id, None) is None:
            changes.closed.append(row.request_id)
        changes.checkpoints.pop(row.request_id, None)
        changes.requests.append(row)
