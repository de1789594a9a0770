"""The door over the real accountant, on a ledger in memory that outlives accountant and gateway.

Macs are the scripted ones of `memory_fleet`; money, keys, limits and kept answers are real.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema

from actors.accountant import Accountant, AccountantSettings, Clock
from market import keys
from market.accounting.prices import Price
from market.accounting.promos import PromoRules
from market.errors import MarketError
from market.messages import AccountantOp, AccountantReply
from market.public.pseudonyms import alias_key
from market.types import AccountId, KeyId, ModelId
from serve_app.app import GatewayApp, create_app
from serve_app.limits import Limits
from serve_app.sealed import Sealer
from storage.memory import MemoryLedger, MemoryLedgerStore
from storage.pepper import load_pepper
from tests.http.asgi_client import Exchange
from tests.http.memory_accountant import ADA, MAC_OWNER, TEN_DOLLARS
from tests.http.memory_fleet import Fleet, Mac
from tests.http.memory_market import Market
from tests.http.memory_payments import Payments

FRONT = "f" * 64
ALL_BUT_INFERENCE = keys.MANAGEMENT_SCOPES


class Calendar:
    """A date that is set by hand, for ledger and gateways alike; durations are real."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return time.monotonic()


class Ledger:
    """An `AccountantPort` over an accountant of this process; `ops` are what was asked."""

    def __init__(self, accountant: Accountant) -> None:
        self.accountant = accountant
        self.ops: list[AccountantOp] = []
        self.lost: int = 0

    async def op(self, op: AccountantOp) -> AccountantReply:
        self.ops.append(op)
        (reply,) = await self.accountant.batch([op])
        if isinstance(reply, MarketError):
            raise reply
        return reply

    def prices(self) -> dict[ModelId, Price]:
        """As a gateway knows them after its next refresh."""
        books = self.accountant._books
        return {card.id: books.prices.now(card) for card in books.terms.catalogue.enabled()}

    async def create_account(self, name: str, **more: Any) -> Any:
        return await self.accountant.create_account(name, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.accountant, name)


class LedgerMarket:
    """The app over real books. Ada has ten dollars; `inference` and `management` are hers."""

    def __init__(
        self,
        folder: Path,
        accountant: Accountant,
        fleet: Fleet,
        limits: Limits,
        calendar: Calendar | None = None,
    ) -> None:
        self.folder = folder
        self.ledger = Ledger(accountant)
        self.payments = Payments()
        self.fleet = fleet
        self.limits = limits
        self.inference = ""
        self.management = ""
        self.pepper = load_pepper(folder)
        self.calendar = calendar
        self.app = self.gateway()

    def gateway(self, limits: Limits | None = None, **ports: Any) -> GatewayApp:
        """Another gateway of the same market, as after a restart."""
        base = Market(self.folder)
        made = replace(
            base.ports,
            accountant=self.ledger,  # type: ignore[arg-type]
            payments=self.payments,
            front=FRONT,
            router=self.fleet,
            providers=self.fleet,
            sealer=Sealer(self.pepper),
            hash_key=self._hash,
            alias_key=alias_key(self.pepper),
            clock=self.calendar or base.ports.clock,
        )
        return create_app(replace(made, **ports), limits or self.limits)

    def _hash(self, secret: str) -> bytes | None:
        return keys.key_hash(secret, self.pepper) if keys.well_formed(secret) else None

    async def key(
        self, *scopes: str, account: AccountId = ADA, name: str = "", **more: Any
    ) -> tuple[KeyId, str]:
        """A fresh key of an account with these scopes: its id and secret."""
        record, secret = await self.ledger.accountant.create_key(
            account, name, frozenset(scopes), **more
        )
        return record.key_id, secret

    async def spent_nano(self, account: AccountId = ADA) -> int:
        """What the account has been charged so far, as its balance says."""
        balance = await self.ledger.accountant.balance(account)
        return TEN_DOLLARS - balance.promo_nano - balance.cash_nano - balance.held_nano


@asynccontextmanager
async def open_market(
    folder: Path,
    *macs: Mac,
    limits: Limits | None = None,
    ledger: MemoryLedger | None = None,
    tier: str = "operator",
    scopes: Sequence[str] = ("inference", "billing:read"),
    calendar: Calendar | None = None,
    **settings: Any,
) -> AsyncIterator[LedgerMarket]:
    """A market with Ada and an owner of Macs; its accountant is checked when it closes."""
    store = MemoryLedgerStore(ledger)
    promo = settings.pop("promo", PromoRules(TEN_DOLLARS))
    clock = None if calendar is None else Clock(wall_ns=lambda: int(calendar.now_s() * 1e9))
    accountant = Accountant(
        AccountantSettings(folder, promo=promo, **settings), store=store, clock=clock
    )
    await accountant.start()
    try:
        await accountant.ensure_account(ADA, "Ada", tier, TEN_DOLLARS)
        await accountant.ensure_account(MAC_OWNER, "Owner", "operator", 0)
        market = LedgerMarket(folder, accountant, Fleet(*macs), limits or Limits(), calendar)
        _, market.inference = await market.key(*scopes)
        _, market.management = await market.key(*ALL_BUT_INFERENCE)
        yield market
        await market.app.close()
    finally:
        await accountant.stop()


async def call(
    market: LedgerMarket,
    method: str,
    path: str,
    body: Any = None,
    key: str | None = "",
    **options: Any,
) -> Exchange:
    path, _, query = path.partition("?")
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    secret = market.management if key == "" else key
    made = Exchange(raw, path=path, method=method, key=secret, query=query.encode(), **options)
    return await made.go(market.app)


async def validated(market: LedgerMarket, exchange: Exchange, name: str) -> Any:
    document = (await call(market, "GET", "/openapi.json", key=None)).json
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(exchange.json, schema)
    return exchange.json
