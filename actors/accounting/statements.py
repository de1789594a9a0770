"""What the accountant can be asked: balances, requests, holds, kept answers, its own proof."""

from __future__ import annotations

from collections.abc import Sequence

from actors.accounting.core import AccountantCore
from market.accounting.admission import day_of, rate_state
from market.accounting.audit import VerifyReport
from market.accounting.earned import EarningsStatement
from market.accounting.parts import delivered
from market.accounting.registry import unclaimed
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import OutcomeRow
from market.errors import NotFound
from market.messages import Balance, RateState
from market.types import AccountId, RequestId


class StatementMethods(AccountantCore):
    """Reads. None of them waits for a commit."""

    async def balance(self, account: AccountId) -> Balance:
        """What the account has; raises NotFound."""
        self._check_alive()
        return self._books.balance(account)

    async def usage(self, account: AccountId, limit: int = 100) -> list[RequestRow]:
        """The account's charged requests, newest first."""
        self._check_alive()
        self._books.customers.get(account)
        return await self._store.usage(account, limit)

    async def holds(self, account: AccountId) -> list[RequestRow]:
        """The account's running requests, oldest first."""
        self._check_alive()
        self._books.customers.get(account)
        return self._books.open_requests(account)

    async def earnings(self, account: AccountId, limit: int = 100) -> EarningsStatement:
        """What the account's Macs have earned and what is left of it; raises NotFound."""
        self._check_alive()
        balance = self._books.balance(account)
        machines = [m for m, owner in self._books.machines.items() if owner == account]
        payees = [account, *map(unclaimed, machines)]
        return EarningsStatement(balance, await self._store.earned(payees, limit))

    async def standing(self, account: AccountId) -> tuple[str, RateState]:
        """The account's tier and how much of its limits is left now; raises NotFound."""
        self._check_alive()
        owner = self._books.customers.get(account)
        now_ns = self._now_ns()
        owner.meter.roll(day_of(now_ns))
        tick_ns = self._clock.tick_ns()
        return owner.tier.name, rate_state(owner.meter, owner.tier, now_ns=now_ns, tick_ns=tick_ns)

    async def generation(self, account: AccountId | None, request_id: RequestId) -> RequestRow:
        """One request, running or ended. Someone else's is NotFound; None sees them all."""
        self._check_alive()
        row = self._books.request(request_id)
        if row is None:
            rows = await self._store.finished([request_id])
            row = rows[0] if rows else None
        if row is None or account not in (None, row.owner):
            raise NotFound(
                f"There is no request {request_id[:60]!r}.", "request_id", "request_not_found"
            )
        return row

    async def deliveries(
        self, account: AccountId | None, request_id: RequestId
    ) -> list[DeliveryRow]:
        """What each Mac delivered of one request and was paid, in their order; empty while it
        runs and where nobody was paid. Raises NotFound as `generation` does.
        """
        row = await self.generation(account, request_id)
        written: Sequence[DeliveryRow] = ()
        if row.deliveries is not None:
            written = self._books.ended.deliveries(request_id)
            written = written or await self._store.deliveries([request_id])
        return list(delivered(row, written))

    async def outcome(self, account: AccountId, request_id: RequestId) -> bytes | None:
        """The sealed answer that is kept of one of this account's requests, if there is one."""
        self._check_alive()
        if not self._books.answers.owns(account, request_id):
            return None
        rows = await self._store.rows(OutcomeRow, request_id=request_id)
        return rows[0].sealed if rows else None

    async def verify(self) -> VerifyReport:
        """Check the whole ledger on disk, while work goes on. Findings end this process."""
        self._check_alive()
        return await self.audit(full=True)
