"""The live ledger under the virtual clock: every request of a run is held, charged and paid.

The same `Books` as the accountant's, on no disk. What each commit would have written is taken
now and then and dropped, as a store would after writing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from market import keys
from market.accounting.books import Books
from market.accounting.chart import Code
from market.accounting.holding import BookTerms
from market.accounting.rows import Snapshot
from market.accounting.state_rows import KeyRow, OwnerRow, scopes_text
from market.catalogue import Catalogue
from market.messages import AccountantOp, AccountantReply
from market.types import AccountId, KeyId

EPOCH_NS: Final = 1_800_000_000 * 1_000_000_000
"""When a run begins by the ledger's calendar: 2027-01-15. Any day would do."""

CONSUMER_CREDIT_NANO: Final = 10**15
"""A consumer without a budget of its own has a million dollars."""

COMMIT_OPS: Final = 256
"""Operations between two takings of what would be written."""


class Bank:
    """Holds and charges. Amounts in nano-USD."""

    def __init__(
        self,
        catalogue: Catalogue,
        fee_bps: int = 0,
        credit_nano: int = CONSUMER_CREDIT_NANO,
        budgets: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """A consumer begins with its budget, or with `credit_nano` where it has none."""
        self._credit_nano = credit_nano
        self._budgets = budgets
        self.books = Books(
            BookTerms(catalogue, fee_bps=fee_bps), Snapshot(), now_ns=EPOCH_NS, tick_ns=0
        )
        self._known: set[str] = set()
        self._ops = 0
        self.granted_nano = 0

    def key_of(self, consumer: str) -> bytes:
        """The consumer's key; the account is opened, with its credit, when it is first seen."""
        secret = consumer.encode().ljust(32, b"\0")
        if consumer not in self._known:
            self._known.add(consumer)
            account = AccountId(f"acct_{consumer}")
            now_ns = self.books.stamp(EPOCH_NS)
            row = OwnerRow(account, consumer, "operator", now_ns)
            credit_nano = self._budgets.get(consumer, self._credit_nano)
            self.books.create_owner(row, credit_nano)
            self.granted_nano += credit_nano
            self.books.add_key(
                KeyRow(
                    KeyId(f"key_{consumer}"),
                    account,
                    secret,
                    "",
                    "sk-sim",
                    scopes_text(keys.INFERENCE_SCOPES),
                    now_ns,
                    None,
                    None,
                )
            )
        return secret

    def apply(self, op: AccountantOp, now_s: float) -> AccountantReply:
        """One operation at a virtual time; raises the refusal."""
        tick_ns = int(now_s * 1e9)
        try:
            return self.books.apply(op, wall_ns=EPOCH_NS + tick_ns, tick_ns=tick_ns)
        finally:
            self._ops += 1
            if self._ops % COMMIT_OPS == 0:
                self.books.take()

    def problems(self) -> Iterable[str]:
        """Why the books do not add up; nothing when they do."""
        self.books.take()
        if self.books.ledger.holds:
            yield f"{len(self.books.ledger.holds)} holds are still open."
        posted = pending = 0
        spent = earned = fees = 0
        for account in self.books.ledger.accounts():
            posted += account.cpo - account.dpo
            pending += account.dp
            if account.code is Code.CONSUMER_PROMO:
                spent += account.dpo
            elif account.code in (Code.PROVIDER_EARNINGS, Code.PROVIDER_MATURING):
                earned += account.posted_nano
            elif account.code is Code.PLATFORM_FEE:
                fees += account.posted_nano
        if posted or pending:
            yield f"The books are out of balance by {posted} nano-USD, {pending} pending."
        if spent != earned + fees:
            yield f"Consumers paid {spent} nano-USD; Macs and the platform got {earned + fees}."
