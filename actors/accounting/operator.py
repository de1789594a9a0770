"""What the accountant does for the operator: the report, alerts, goodwill, old notices."""

from __future__ import annotations

from typing import Final

from actors.accounting.customers import CustomerMethods
from market.accounting.economics import money_warnings
from market.accounting.report import BooksReport, report_of
from market.accounting.state_rows import EventRow
from market.accounting.watch import (
    SHARE_DAYS,
    Alert,
    held_nano,
    imbalance_nano,
    ledger_alerts,
    overdue_holds,
    promo_alerts,
    receivable_nano,
    share_alerts,
    suspense_nano,
)
from market.errors import Forbidden, InvalidRequest
from market.money import NANO_MAX, NANO_PER_USD, format_usd
from market.settings import PaymentSettings
from market.types import AccountId

GOODWILL_ALONE_NANO: Final = 100 * NANO_PER_USD  # above it a second person must agree
REVENUE_ROWS_MAX: Final = 200_000  # newest requests that the share alert looks at
EVENT_DAYS_MIN: Final = 7  # the processor repeats a notice for three days
EVENTS_MAX: Final = 10_000  # forgotten in one call
IMBALANCE_S: Final = 60  # how old the sum over all accounts may be in metrics
_DAY_NS: Final = 86_400_000_000_000


class OperatorMethods(CustomerMethods):
    """Acts and questions of whoever runs the market."""

    _weighed: tuple[int, int] | None = None  # when the books were summed up, and the difference

    async def goodwill(
        self,
        account: AccountId,
        amount_nano: int,
        actor: str,
        reason: str,
        second_approver: str = "",
        idempotency: str | None = None,
    ) -> int:
        """Give an account promo credit at the market's cost; returns its promo credit after.

        Above $100 a second person has to agree by name. With an idempotency key a
        repetition gives nothing more.
        """
        self._check_alive()
        _check_amount(amount_nano)
        self._check_act(actor, reason)
        second = " ".join(second_approver.split()).casefold()
        alone = second in ("", " ".join(actor.split()).casefold())
        if amount_nano > GOODWILL_ALONE_NANO and alone:
            raise Forbidden(
                f"{format_usd(amount_nano)} is above {format_usd(GOODWILL_ALONE_NANO)}: a second "
                "person must agree; name them in second_approver.",
                "second_approver",
                "second_approver_needed",
            )
        contents = (account, amount_nano)
        known = idempotency is not None and self._operations.before(
            "goodwill", idempotency, contents
        )
        if not known:
            now_ns = self._now_ns()
            self._books.goodwill(account, f"{account}:{now_ns}", amount_nano, now_ns)
            changes = self._books.ledger.changes
            if idempotency is not None:
                changes.operations.append(
                    self._operations.remember("goodwill", idempotency, contents, account, now_ns)
                )
            act = {"account": account, "amount_nano": amount_nano, "second": second_approver}
            self._note("goodwill", account, act, actor, reason)
        await self._written()
        return self._books.balance(account).promo_nano

    async def report(self, payments: PaymentSettings) -> BooksReport:
        """The books on one page, with warnings where these settings lose money."""
        self._check_alive()
        warnings = money_warnings(self._settings.fee_bps, payments)
        return report_of(self._books.ledger.accounts(), warnings)

    async def alerts(self) -> list[Alert]:
        """What to look at: suspense, debts, overdue holds, promo budget, suspicious shares."""
        self._check_alive()
        now_ns = self._clock.wall_ns()
        rows = await self._store.revenue(now_ns - SHARE_DAYS * _DAY_NS, REVENUE_ROWS_MAX)
        budget_nano = self._settings.promo.day_nano
        return [
            *ledger_alerts(self._books.ledger, self._clock.tick_ns()),
            *promo_alerts(self._promos.granted_today_nano(now_ns), budget_nano),
            *share_alerts(rows),
        ]

    async def forget_events(self, days: int) -> int:
        """Forget the processor's notices that were dealt with this many days ago; their number."""
        self._check_alive()
        if days < EVENT_DAYS_MIN:
            raise InvalidRequest(
                f"Notices are kept for at least {EVENT_DAYS_MIN} days: the processor may repeat "
                "one.",
                "events_days",
            )
        rows = [
            row
            for state in ("done", "failed")
            for row in await self._store.rows(
                EventRow,
                limit=EVENTS_MAX,
                before_ns=self._clock.wall_ns() - days * _DAY_NS,
                by="changed_ns",
                state=state,
            )
        ]
        for row in rows:
            self._books.ledger.changes.drop(row)
        await self._written()
        return len(rows)

    async def metrics(self) -> dict[str, float]:
        ledger = self._books.ledger
        return {
            **await super().metrics(),
            "coster_ledger_held_nano_usd": float(held_nano(ledger)),
            "coster_ledger_imbalance_nano_usd": float(self._imbalance_nano()),
            "coster_ledger_suspense_nano_usd": float(suspense_nano(ledger)),
            "coster_ledger_receivable_nano_usd": float(receivable_nano(ledger)),
            "coster_ledger_holds_overdue": float(overdue_holds(ledger, self._clock.tick_ns())),
        }

    def _imbalance_nano(self) -> int:
        """Looked for again every IMBALANCE_S: it passes over every account there is."""
        now_s = self._clock.tick_ns() // 1_000_000_000
        if self._weighed is None or now_s - self._weighed[0] >= IMBALANCE_S:
            self._weighed = (now_s, imbalance_nano(self._books.ledger))
        return self._weighed[1]


def _check_amount(amount_nano: int) -> None:
    if not 0 < amount_nano <= NANO_MAX // 1_000:
        raise InvalidRequest(
            f"amount_nano_usd must be from 1 to {NANO_MAX // 1_000}.", "amount_nano_usd"
        )
