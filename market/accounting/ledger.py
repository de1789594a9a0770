"""The ledger's algebra: holds and settlements over the accounts.

Double entry in two phases. A hold reserves the worst case on the payer's accounts without
moving money. Settling releases it and moves the cost: from promo, then cash, then earnings,
to the provider and to the platform's fee account; of several Macs that delivered one answer,
to each in the order of delivery. Voiding only releases. No path makes a protected account
negative, because money is only ever taken from what was reserved.

As in `market.accounting.accounts`, every method applies whole or raises before it touched
anything, and nobody is answered before the changes are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from market.accounting.chart import LEGS_PER_MAC, Code, Posting
from market.accounting.earnings import Earnings
from market.accounting.pricing import cost_nano, pieces_of, split_fee
from market.accounting.rows import (
    CheckpointRow,
    DeliveryRow,
    HoldRow,
    RequestRow,
    RequestStatus,
    Snapshot,
)
from market.messages import Funding, Part
from market.money import ASK_PCT_MAX
from market.types import AccountId, MachineId, ProviderId, RequestId

PROMO_LEG: Final = 0
"""The leg of a settlement that carries promo credit to the provider (see Ledger._pay)."""
NO_CHECKPOINT: Final = CheckpointRow()


class Paid(NamedTuple):
    """What was paid for an answer or a Mac's piece; shares and funding each add up to it."""

    cost_nano: int
    provider_nano: int
    fee_nano: int
    promo_nano: int
    cash_nano: int
    earnings_nano: int


_NOTHING: Final = Paid(0, 0, 0, 0, 0, 0)


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


class Ledger(Earnings):
    """Accounts, earnings and open holds."""

    def __init__(self, snapshot: Snapshot, *, lease_ends_tick_ns: int) -> None:
        """Open holds of an earlier run start a fresh lease: their gateways may be alive."""
        super().__init__(snapshot)
        self.holds: dict[RequestId, OpenHold] = {
            terms.request_id: OpenHold(terms, checkpoint, lease_ends_tick_ns)
            for terms, checkpoint in snapshot.holds
        }

    def hold(self, terms: HoldRow, *, lease_ends_tick_ns: int) -> OpenHold:
        """Reserve the terms' funding legs, which `funding_of` has just computed."""
        assert terms.request_id not in self.holds
        purse = self.purse(terms.owner)
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
        before: Sequence[Part] = (),
    ) -> RequestRow:
        """Release the hold and move the cost of what was delivered.

        `delivered.payee` may be None only when nothing was delivered and nothing is owed.
        What is paid with promo credit may be withdrawn from `due_day` on, None is at once.
        `before` are the parts of Macs that were lost, each with who earns for it.
        """
        terms = opened.terms
        held_nano = opened.held_nano
        count: int | None = None
        if delivered.payee is None:
            self._release(terms)
            paid = _NOTHING
        elif not before and delivered.ask_pct == ASK_PCT_MAX:
            paid = self._pay_one(terms, delivered, delivered.payee, now_ns, due_day)
        else:
            count = len(before) + 1
            paid = self._pay_each(terms, delivered, delivered.payee, before, now_ns, due_day)
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
            *paid,
            held_nano,
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
            count,
        )
        self._close(row)
        return row

    def _pay_one(
        self,
        terms: HoldRow,
        delivered: CheckpointRow,
        payee: AccountId,
        now_ns: int,
        due_day: int | None,
    ) -> Paid:
        """One Mac delivered all of it, at the market's prices: nearly every request there is."""
        cost = cost_nano(
            prompt_tokens=delivered.prompt_tokens,
            cached_tokens=delivered.cached_tokens,
            completion_tokens=delivered.completion_tokens,
            price_in_nano=terms.price_in_nano,
            price_cached_nano=terms.cached_price_nano,
            price_out_nano=terms.price_out_nano,
        )
        assert cost <= terms.promo_nano + terms.cash_nano + terms.earnings_nano
        left_nano = self._release(terms)
        return self._pay(terms, 0, payee, cost, left_nano, now_ns, due_day)

    def _pay_each(
        self,
        terms: HoldRow,
        delivered: CheckpointRow,
        finisher: AccountId,
        before: Sequence[Part],
        now_ns: int,
        due_day: int | None,
    ) -> Paid:
        """Pay every Mac for its own piece, in the order of delivery, and write each down."""
        prices_nano = (terms.price_in_nano, terms.cached_price_nano, terms.price_out_nano)
        pieces = pieces_of(delivered, prices_nano, before, delivered.ask_pct)
        whole_nano = sum(piece.cost_nano for piece in pieces)
        assert whole_nano <= terms.promo_nano + terms.cash_nano + terms.earnings_nano
        macs: list[tuple[AccountId, MachineId | None, ProviderId | None]] = [
            (part.payee, part.machine, part.provider) for part in before
        ]
        macs.append((finisher, delivered.machine, delivered.provider))
        left_nano = self._release(terms)
        total = _NOTHING
        for number, (mac, piece) in enumerate(zip(macs, pieces, strict=True)):
            paid = self._pay(terms, number, mac[0], piece.cost_nano, left_nano, now_ns, due_day)
            self.changes.deliveries.append(
                DeliveryRow(terms.request_id, number, *mac, *piece, *paid[1:])
            )
            total = Paid(*map(sum, zip(total, paid, strict=True)))
        return total

    def _release(self, terms: HoldRow) -> list[int]:
        """Free what was reserved on each account; the sums, to be spent from."""
        left_nano = list(terms[9:12])
        for account, leg_nano in zip(self.purse(terms.owner), left_nano, strict=True):
            if leg_nano:
                assert account is not None
                account.dp -= leg_nano
                assert account.dp >= 0
                self._touched.add(account)
        return left_nano

    def _pay(
        self,
        terms: HoldRow,
        number: int,
        payee: AccountId,
        due_nano: int,
        left_nano: list[int],
        now_ns: int,
        due_day: int | None,
    ) -> Paid:
        """Pay the Mac of this number from what is left of each source, its share first.

        A provider's own promo credit never earns: there all that it pays is the platform's.
        From a Mac's first leg on, legs are 2·source for the provider and 2·source + 1 for the
        fee, so a transfer's number alone says for which Mac whose money went where.
        """
        own = payee == terms.owner
        split = split_fee(due_nano, terms.fee_bps, min(due_nano, left_nano[0]) if own else 0)
        provider_nano, fee_nano = split
        spent = [0, 0, 0]
        leg = number * LEGS_PER_MAC
        for source, account in enumerate(self.purse(terms.owner)):
            available_nano = left_nano[source]
            if not available_nano:
                continue
            assert account is not None
            promo = source == 0
            to_provider = 0 if own and promo else min(available_nano, provider_nano)
            to_fee = min(available_nano - to_provider, fee_nano)
            if to_provider:
                kind = Code.PROVIDER_EARNINGS
                if promo and due_day is not None:
                    kind = Code.PROVIDER_MATURING
                    self.set_lot(payee, due_day, self.lots.get((payee, due_day), 0) + to_provider)
                self.post(
                    terms.request_id,
                    leg + 2 * source,
                    debit=account,
                    credit=self.account(kind, payee),
                    amount_nano=to_provider,
                    posting=Posting.SETTLE_PROVIDER,
                    ts_ns=now_ns,
                )
            if to_fee:
                self.post(
                    terms.request_id,
                    leg + 2 * source + 1,
                    debit=account,
                    credit=self.account(Code.PLATFORM_FEE),
                    amount_nano=to_fee,
                    posting=Posting.SETTLE_FEE,
                    ts_ns=now_ns,
                )
            provider_nano -= to_provider
            fee_nano -= to_fee
            spent[source] = to_provider + to_fee
            left_nano[source] = available_nano - spent[source]
        assert provider_nano == fee_nano == 0
        return Paid(due_nano, *split, *spent)

    def _close(self, row: RequestRow) -> None:
        changes = self.changes
        del self.holds[row.request_id]
        if changes.opened.pop(row.request_id, None) is None:
            changes.closed.append(row.request_id)
        changes.checkpoints.pop(row.request_id, None)
        changes.requests.append(row)
