"""What Macs have earned: held back for a while, moved when a machine is linked, taken back.

A lot is what one account may withdraw from one UTC day on. The lots of an account always add
up to what it has maturing.
"""

from __future__ import annotations

from market.accounting.accounts import Accounts
from market.accounting.chart import Code, Posting
from market.accounting.rows import Snapshot
from market.accounting.state_rows import LotRow
from market.types import AccountId


class Earnings(Accounts):
    """Accounts, and the lots of earnings that are held back."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self.lots = {(lot.payee, lot.due_day): lot.amount_nano for lot in snapshot.rows(LotRow)}

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

    def take_back_promo(self, payee: AccountId, amount_nano: int, ts_ns: int) -> int:
        """Return earnings that should not have been paid from promo credit; how many nano-USD.

        What is still held back goes first, the lots that are due last before the others.
        """
        left = amount_nano
        for leg, kind in enumerate((Code.PROVIDER_MATURING, Code.PROVIDER_EARNINGS)):
            account = self.find(kind, payee)
            part = min(left, account.available_nano) if account is not None else 0
            if account is None or part == 0:
                continue
            self.post(
                f"own_promo:{payee}:{ts_ns}",
                leg,
                debit=account,
                credit=self.account(Code.PLATFORM_FEE),
                amount_nano=part,
                posting=Posting.OWN_PROMO,
                ts_ns=ts_ns,
            )
            left -= part
            if kind is Code.PROVIDER_MATURING:
                self._shrink_lots(payee, part)
        return amount_nano - left

    def _shrink_lots(self, payee: AccountId, amount_nano: int) -> None:
        for _, day in sorted((key for key in self.lots if key[0] == payee), reverse=True):
            part = min(amount_nano, self.lots[payee, day])
            if part:
                self.set_lot(payee, day, self.lots[payee, day] - part)
                amount_nano -= part

    def set_lot(self, payee: AccountId, due_day: int, amount_nano: int) -> None:
        """What this account may withdraw from that day on, in place of what was noted."""
        if amount_nano:
            self.lots[payee, due_day] = amount_nano
            self.changes.put(LotRow(payee, due_day, amount_nano))
        else:
            del self.lots[payee, due_day]
            self.changes.drop(LotRow(payee, due_day, 0))
