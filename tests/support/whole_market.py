"""A whole market in one process: every part is the real one, but Ray, Serve and HTTP's sockets.

The accountant keeps its books in memory, the router its decisions in SQLite, each Mac is a
provider with its own engines behind a framed connection, and the door's app is driven as
`tests.http.asgi_client` does. What crosses between actors is pickled, as Ray would.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from actors.accountant import Accountant, AccountantSettings
from actors.calls import ActorAway
from actors.clients import ProviderLinks, RouterClient
from actors.engines.factory import served_catalogue
from actors.engines.sizes import model_sizes
from actors.provider import ProviderConfig
from actors.router import Router
from actors.transport.framed import FramedLink
from market import keys
from market.accounting.promos import PromoRules
from market.accounting.rows import DeliveryRow, RequestRow
from market.catalogue import DEMO_MODEL
from market.errors import MarketError
from market.provider_places import Offer
from market.routing.messages import Grant
from market.routing.state import NO_PLACEMENT
from market.settings import (
    EngineSettings,
    MarketSettings,
    ModelSource,
    PlacementSettings,
)
from market.types import Event, GatewayId, Job, MachineId, RequestId
from serve_app.app import GatewayApp, create_app
from serve_app.limits import Limits
from serve_app.served import load_models
from storage.memory import MemoryLedger, MemoryLedgerStore
from storage.pepper import load_pepper
from tests.http.asgi_client import Exchange, ask
from tests.http.ledger_market import Ledger
from tests.http.memory_accountant import ADA, TEN_DOLLARS
from tests.http.memory_market import Market
from tests.support.whole_macs import Mortal, OneMac

SECRET = b"s" * 32
FEE_BPS = 500
GATEWAY = GatewayId("gw_whole")


class Called:
    """An `ActorCall` over an object of this process; while there is none, it is away."""

    def __init__(self) -> None:
        self.target: Any = None
        self._open: set[asyncio.Task[Any]] = set()

    async def __call__(self, method: str, *args: object, timeout_s: float = 10.0) -> Any:
        target = self.target
        if target is None:
            raise ActorAway("there is no such process")
        call = asyncio.ensure_future(getattr(target, method)(*pickle.loads(pickle.dumps(args))))
        self._open.add(call)
        try:
            await asyncio.wait([call])
        finally:
            self._open.discard(call)
        if call.cancelled():
            raise ActorAway("its process ended before it answered")
        return pickle.loads(pickle.dumps(call.result()))

    def lose(self) -> Any:
        """The process is gone; who waits for its answer hears that."""
        target, self.target = self.target, None
        for call in self._open:
            call.cancel()
        return target


class Links(ProviderLinks):
    """The gateway's links, which count what each Mac's tokens came to."""

    def __init__(self, make_link: Callable[[Grant], FramedLink]) -> None:
        super().__init__(make_link)
        self.delivered: dict[tuple[RequestId, MachineId], int] = {}
        self.dispatched: list[tuple[float, MachineId, RequestId]] = []

    def said(self, request_id: RequestId) -> dict[MachineId, int]:
        """Tokens that came of a request, by the Mac they came from."""
        return {m: n for (known, m), n in self.delivered.items() if known == request_id}

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        now_s = asyncio.get_running_loop().time()
        self.dispatched.append((now_s, grant.machine, job.request_id))
        key = (job.request_id, grant.machine)

        def heard(event: Event) -> None:
            if event.token_ids:
                self.delivered[key] = self.delivered.get(key, 0) + len(event.token_ids)
            on_event(event)

        await super().submit(grant, job, heard)


@dataclass
class Whole:
    """A running market and everything in it. Ada has ten dollars and `key`."""

    ledger: MemoryLedger
    books: Ledger
    called: Called
    client: RouterClient
    links: Links
    app: GatewayApp
    key: str
    make_router: Callable[[], Router]
    macs: dict[str, Mortal] = field(default_factory=dict)

    @property
    def router(self) -> Router:
        router: Router = self.called.target
        return router

    async def beat(self, *names: str) -> None:
        """Let these Macs, or all of them, declare themselves now."""
        for name in names or self.macs:
            await self.called("heartbeat", self.macs[name]._beat_now())

    async def revive(self, name: str) -> None:
        """The Mac's process is started again: another incarnation of it declares itself."""
        self.macs[name].dies_after = None
        self.macs[name]._incarnation += 1
        await self.beat(name)

    async def kill_router(self) -> None:
        """As `kill -9` would: nothing is flushed, nothing is answered, nothing is closed."""
        router: Router = self.called.lose()
        for task in router._tasks:
            task.cancel()
        await asyncio.gather(*router._tasks, return_exceptions=True)
        router._tasks = []  # so that closing it stores nothing
        await router.close()

    async def start_router(self) -> None:
        router = self.make_router()
        await router.start()
        self.called.target = router

    async def ask(self, body: Any, **options: Any) -> Exchange:
        return await ask(body, key=self.key, **options).go(self.app)

    def row(self, exchange: Exchange) -> RequestRow:
        """The request's row of the ledger."""
        return self.ledger.requests[RequestId(exchange.answer_headers["x-coster-request-id"])]

    def shares(self, row: RequestRow) -> dict[MachineId, DeliveryRow | RequestRow]:
        """Who is paid for how much of it, by the ledger's rows."""
        pieces: Sequence[DeliveryRow | RequestRow] = self.ledger.deliveries.get(row.request_id, ())
        found = {piece.machine: piece for piece in pieces or (row,) if piece.machine is not None}
        return {m: piece for m, piece in found.items() if piece.completion_tokens}

    async def settled(self) -> None:
        """Wait until no hold is open and no slot is held."""
        async with asyncio.timeout(20):
            while self.ledger.holds or (await self.called("status"))["reservations"]:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def whole_market(
    folder: Path,
    *macs: OneMac,
    sources: Sequence[ModelSource] = (ModelSource(DEMO_MODEL),),
    limits: Limits | None = None,
    placement: PlacementSettings = NO_PLACEMENT,
) -> AsyncIterator[Whole]:
    """Open it, wait until every Mac serves, and close it in the end."""
    settings = MarketSettings(
        str(folder),
        tuple(sources),
        "test",
        tuple(mac.settings() for mac in macs),
        engine=EngineSettings("simulated"),
        placement=placement,
    )
    store = AccountantSettings(
        folder,
        catalogue=served_catalogue(settings),
        fee_bps=FEE_BPS,
        promo=PromoRules(TEN_DOLLARS),
    )
    ledger = MemoryLedger()
    accountant = Accountant(store, store=MemoryLedgerStore(ledger))
    async with AsyncExitStack() as stack:
        await accountant.start()
        stack.push_async_callback(accountant.stop)
        await accountant.ensure_account(ADA, "Ada", "operator", TEN_DOLLARS)
        for mac in macs:
            await accountant.ensure_account(mac.owner, mac.name, "operator", 0)
        market = _wired(folder, settings, Ledger(accountant), ledger, limits)
        _, market.key = await accountant.create_key(ADA, "whole")
        await market.start_router()
        stack.push_async_callback(_close, market)
        market.client.start()
        for mac in macs:
            await _put_in(market, mac)
        async with asyncio.timeout(60):
            while not all(mac._state.models for mac in market.macs.values()):
                await asyncio.sleep(0.01)
        await market.beat()
        yield market


async def _close(market: Whole) -> None:
    await market.app.close()
    for mac in market.macs.values():
        await mac.stop("the test is over")
    await market.client.close()
    await market.links.close()
    if market.called.target is not None:
        await market.router.close()


def _wired(
    folder: Path,
    settings: MarketSettings,
    books: Ledger,
    ledger: MemoryLedger,
    limits: Limits | None,
) -> Whole:
    called = Called()
    client = RouterClient(called, gateway=GATEWAY, pid=1, node="n", counters=dict)

    def link(grant: Grant) -> FramedLink:
        where = grant.endpoint
        return FramedLink(
            where.host, where.port, machine=grant.machine, gateway=GATEWAY, secret=SECRET
        )

    links = Links(link)
    models, catalogue = load_models(settings)
    base = Market(folder).ports
    ports = replace(
        base,
        gateway=GATEWAY,
        accountant=books,  # type: ignore[arg-type]
        router=client,
        providers=links,
        models=models,
        catalogue=catalogue,
        hash_key=partial(_hash_key, load_pepper(folder)),
    )
    app = create_app(ports, limits or Limits())

    def made() -> Router:
        return Router(
            folder / "router.db",
            placement=settings.placement,
            count_sizes=lambda: tuple(model_sizes(settings).values()),
            expected_macs=len(settings.macs),
        )

    return Whole(ledger, books, called, client, links, app, "", made)


def _hash_key(pepper: bytes, secret: str) -> bytes | None:
    return keys.key_hash(secret, pepper) if keys.well_formed(secret) else None


async def _put_in(market: Whole, mac: OneMac) -> None:
    async def beat(declared: Any) -> Any:
        try:
            return await market.called("heartbeat", declared)
        except MarketError as error:
            raise ConnectionError(str(error)) from error

    exits: list[str] = []
    provider = Mortal(
        ProviderConfig(mac.settings(), SECRET, "test"),
        Offer(mac.models, mac.weight_bytes, mac.memory_bytes),
        mac.make_engine,
        beat,
        exits.append,
    )
    market.macs[mac.name] = provider
    await provider.start()
