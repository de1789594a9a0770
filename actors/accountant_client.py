"""The gateway's side of the accountant: hot operations coalesced, everything else asked until told.

Every call may be repeated safely, so a restarting accountant is simply asked again. Prices
are known from cache, at most a second old.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from actors.calls import LEDGER, ActorAway, ActorCall, Coalescer, call_until
from market.accounting.asking import RequestsAsked, SumsAsked, UsePage, WorkPage
from market.accounting.earned import EarningsStatement
from market.accounting.histories import JobPage, UsagePage
from market.accounting.prices import Price
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import OwnerRow, PriceRow
from market.accounting.statistics import Told, Used, UseQuestion, Worked, WorkQuestion
from market.errors import Unavailable
from market.messages import (
    AccountantOp,
    AccountantReply,
    KeyLimits,
    KeyRecord,
    KeySpend,
    RateState,
)
from market.types import AccountId, KeyId, ModelId, RequestId

ACCOUNTANT_S_MAX = 10.0
"""A restarting accountant is waited for this long."""
PRICES_S = 0.9
"""Prices shown are at most a second old; those charged are the accountant's own."""
OWN_KEY_BYTES = 24

log = logging.getLogger("coster.gateway")


class AccountantClient:
    """The accountant, one batch in flight for the hot operations."""

    def __init__(self, call: ActorCall) -> None:
        self._call = call
        self._ops: Coalescer[AccountantOp, AccountantReply] = Coalescer(
            call, "batch", deadline_s=ACCOUNTANT_S_MAX, who=LEDGER
        )
        self._prices: Mapping[ModelId, Price] = {}
        self._refresher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn the prices, and learn them again every second from now on."""
        self._prices = await self._until("prices")
        self._refresher = asyncio.create_task(self._refresh_forever(), name="prices")

    async def close(self) -> None:
        """Stop learning the prices. Idempotent."""
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(PRICES_S)
            try:
                self._prices = await self._call("prices")
            except (ActorAway, Unavailable) as error:
                log.debug("prices are as old as %s", error)

    async def op(self, op: AccountantOp) -> AccountantReply:
        return await self._ops.submit(op)

    async def create_account(
        self, name: str, *, idempotency: str | None = None, fingerprint: str = ""
    ) -> tuple[AccountId, KeyRecord, str]:
        made = idempotency or _own_key()
        result: tuple[AccountId, KeyRecord, str] = await self._until(
            "create_account", name, "free", None, made, fingerprint
        )
        return result

    async def account(self, account: AccountId) -> OwnerRow:
        result: OwnerRow = await self._until("account", account)
        return result

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: frozenset[str],
        expires_s: float | None,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        made = idempotency or _own_key()
        result: tuple[KeyRecord, str] = await self._until(
            "create_key", account, name, scopes, expires_s, limits, made
        )
        return result

    async def rotate_key(
        self, account: AccountId, key_id: KeyId, grace_s: float, idempotency: str | None = None
    ) -> tuple[KeyRecord, str]:
        made = idempotency or _own_key()
        result: tuple[KeyRecord, str] = await self._until(
            "rotate_key", account, key_id, grace_s, made
        )
        return result

    async def change_key(
        self, account: AccountId, key_id: KeyId, name: str | None, limits: KeyLimits | None
    ) -> KeyRecord:
        result: KeyRecord = await self._until("change_key", account, key_id, name, limits)
        return result

    async def key_spend(self, account: AccountId, key_id: KeyId) -> KeySpend:
        result: KeySpend = await self._until("key_spend", account, key_id)
        return result

    async def standing(self, account: AccountId) -> tuple[str, RateState]:
        result: tuple[str, RateState] = await self._until("standing", account)
        return result

    async def list_keys(self, account: AccountId) -> Sequence[KeyRecord]:
        result: Sequence[KeyRecord] = await self._until("list_keys", account)
        return result

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        result: KeyRecord = await self._until("revoke_key", account, key_id)
        return result

    async def balance(self, account: AccountId) -> Any:
        return await self._until("balance", account)

    async def usage(self, account: AccountId, limit: int) -> Sequence[Any]:
        result: Sequence[Any] = await self._until("usage", account, limit)
        return result

    async def holds(self, account: AccountId) -> Sequence[RequestRow]:
        result: Sequence[RequestRow] = await self._until("holds", account)
        return result

    async def earnings(self, account: AccountId, limit: int) -> EarningsStatement:
        result: EarningsStatement = await self._until("earnings", account, limit)
        return result

    async def worked(self, question: WorkQuestion) -> Told[Worked]:
        result: Told[Worked] = await self._until("worked", question)
        return result

    async def used(self, question: UseQuestion) -> Told[Used]:
        result: Told[Used] = await self._until("used", question)
        return result

    async def usage_page(self, account: AccountId, asked: RequestsAsked) -> UsagePage:
        result: UsagePage = await self._until("usage_page", account, asked)
        return result

    async def job_page(self, account: AccountId, asked: RequestsAsked) -> JobPage:
        result: JobPage = await self._until("job_page", account, asked)
        return result

    async def use_page(self, account: AccountId, asked: SumsAsked) -> UsePage:
        result: UsePage = await self._until("use_page", account, asked)
        return result

    async def work_page(self, account: AccountId, asked: SumsAsked) -> WorkPage:
        result: WorkPage = await self._until("work_page", account, asked)
        return result

    def prices(self) -> Mapping[ModelId, Price]:
        return self._prices

    async def price_history(self, model: str) -> Sequence[PriceRow]:
        result: Sequence[PriceRow] = await self._until("price_history", model)
        return result

    async def generation(self, account: AccountId, request_id: RequestId) -> Any:
        return await self._until("generation", account, request_id)

    async def deliveries(self, account: AccountId, request_id: RequestId) -> Sequence[DeliveryRow]:
        result: Sequence[DeliveryRow] = await self._until("deliveries", account, request_id)
        return result

    async def outcome(self, account: AccountId, request_id: RequestId) -> bytes | None:
        result: bytes | None = await self._until("outcome", account, request_id)
        return result

    async def _until(self, method: str, *args: object) -> Any:
        return await call_until(self._call, ACCOUNTANT_S_MAX, method, *args, who=LEDGER)


def _own_key() -> str:
    """An idempotency key for a caller who sent none, so that asking again makes nothing twice."""
    return secrets.token_urlsafe(OWN_KEY_BYTES)
