"""A market's payments without Ray: a real accountant, the real worker, a clock to turn.

`Till` may be killed and opened again at any moment: its accountant starts from what was
committed, its worker from nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.accountant import Accountant, AccountantSettings, Clock
from actors.payments.actor import Payments
from actors.payments.loop import PaymentPlaces
from market.accounting.chart import Code, Posting
from market.accounting.laws import broken_laws
from market.accounting.promos import PromoRules
from market.accounting.rows import CheckpointRow, HoldRow
from market.accounting.store import LedgerStore
from market.money import NANO_PER_CENT
from market.payments.laws import broken_payment_laws
from market.payments.processor import PaymentProcessor
from market.settings import PaymentSettings
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId
from storage.memory import MemoryLedger, MemoryLedgerStore
from tests.support.memory_audit import moved_problems

S = 1_000_000_000
DAY_S = 86_400
MONDAY_S = 1_800_230_400  # 2027-01-18 00:00 UTC
NOON_S = MONDAY_S + 2 * DAY_S + DAY_S // 2  # that week's Wednesday
ANN, BOB = AccountId("acct_ann"), AccountId("acct_bob")
SOMEBODY = AccountId("acct_somebody")
PLACES = PaymentPlaces("https://market/done", "https://market/cancelled", "https://market/payouts")


class Till:
    """An accountant and the payments over it, with a processor that outlives both."""

    def __init__(
        self,
        folder: Path,
        processor: Callable[[Till], PaymentProcessor],
        *,
        terms: PaymentSettings | None = None,
        on_disk: bool = False,
    ) -> None:
        self.now_s = float(NOON_S)
        self.folder = folder
        self.terms = terms or PaymentSettings()
        self.memory = None if on_disk else MemoryLedger()
        self.processor = processor(self)

    async def open(self) -> Till:
        """Start, or start again after `kill`."""
        self.accountant = Accountant(
            AccountantSettings(self.folder, promo=PromoRules(0), payments=self.terms),
            clock=Clock(self.wall_ns, self.wall_ns),
            store=self.new_store(),
        )
        await self.accountant.start()
        self.payments = Payments(self.call, self.processor, PLACES, wall_ns=self.wall_ns)
        return self

    def new_store(self) -> LedgerStore | None:
        """Where the books are; None is a file in the folder."""
        return MemoryLedgerStore(self.memory) if self.memory else None

    async def call(self, method: str, *args: object) -> Any:
        return await getattr(self.accountant, method)(*args)

    def wall_ns(self) -> int:
        return int(self.now_s * S)

    async def people(self) -> None:
        """Ann and Bob, who have been here for a month."""
        for account in (ANN, BOB):
            await self.accountant.ensure_account(account, account, "free", 0)

    async def work(self, passes: int = 12) -> None:
        """See everything that is due through."""
        for _ in range(passes):
            work = await self.accountant.payment_work()
            self.payments.begin(work)
            if not self.payments._busy:
                return
            await self.payments.idle()

    async def hear(self, *events: Any) -> None:
        """Notices arrive, in this order."""
        for event in events:
            await self.accountant.record_events([event])

    async def close(self) -> None:
        for task in self.payments._busy.values():
            task.cancel()
        await self.payments.idle()
        await self.accountant.stop()

    # ── money ─────────────────────────────────────────────────────────────────────────

    async def earn(self, account: AccountId, cents: int) -> None:
        """Bob's Macs worked for consumers who had paid: cash of somebody becomes earnings."""
        ledger, now_ns = self.accountant._books.ledger, self.accountant._now_ns()
        ledger.post(
            f"seed:{now_ns}",
            0,
            debit=ledger.account(Code.STRIPE_CLEARING),
            credit=ledger.account(Code.CONSUMER_CASH, SOMEBODY),
            amount_nano=cents * NANO_PER_CENT,
            posting=Posting.TOP_UP,
            ts_ns=now_ns,
        )
        self._serve(SOMEBODY, account, cents * NANO_PER_CENT, now_ns)
        await self.accountant._written()

    def spend(self, account: AccountId, nano: int, payee: AccountId = SOMEBODY) -> None:
        """A consumer's credit goes to somebody's Mac."""
        self._serve(account, payee, nano, self.accountant._now_ns())

    def _serve(self, owner: AccountId, payee: AccountId, nano: int, now_ns: int) -> None:
        """One request of one token at this price, held and settled from cash."""
        ledger = self.accountant._books.ledger
        terms = HoldRow(
            request_id=RequestId(f"req_{now_ns}"),
            owner=owner,
            key_id=KeyId("key_seed"),
            model=ModelId("coster/demo"),
            prompt_tokens=1,
            asked_max_tokens=1,
            max_tokens_cap=1,
            n=1,
            max_tokens=1,
            promo_nano=0,
            cash_nano=nano,
            earnings_nano=0,
            price_in_nano=nano,
            price_out_nano=0,
            fee_bps=0,
            created_ns=now_ns,
            price_cached_nano=nano,
        )
        ledger.settle(
            ledger.hold(terms, lease_ends_tick_ns=0),
            CheckpointRow(1, 0, 0, 0, payee, MachineId("mac_1"), ProviderId("prv_1")),
            status="settled",
            finish_reason="stop",
            attempts=1,
            ttft_ms=0.0,
            total_ms=0.0,
            now_ns=now_ns,
        )

    def nano(self, code: Code, owner: str = "") -> int:
        """A liability's balance; an asset's is negative."""
        account = self.accountant._books.ledger.find(code, owner)
        return account.posted_nano if account else 0

    def cents(self, code: Code, owner: str = "") -> int:
        nano = self.nano(code, owner)
        assert nano % NANO_PER_CENT == 0
        return nano // NANO_PER_CENT

    def problems(self) -> list[str]:
        """What laws are broken, and which rows of payments are not what was posted."""
        return [
            *broken_laws(self.accountant._books.ledger),
            *broken_payment_laws(self.accountant._desk),
            *(moved_problems(self.memory) if self.memory else ()),
        ]

    async def payee(self, account: AccountId, activate: Callable[[str], Any]) -> str:
        """Set up payouts; the recipient's id."""
        row, _ = await self.payments.onboard(account, "us", "onboard")
        activate(row.account)
        payee = await self.payments.payee(account)
        assert payee is not None
        return payee.account


def generous(terms: PaymentSettings) -> PaymentSettings:
    """Terms under which no daily limit is in the way."""
    return replace(terms, topup_day_cents=10**8, topup_new_day_cents=10**8)
