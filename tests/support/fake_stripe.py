"""A fake Stripe on a socket, the doorway to it, and an inbox for its notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from aiohttp import web

from actors.fake_stripe.app import FakeStripe
from actors.fake_stripe.server import serve_fake
from actors.fake_stripe.world import FakeSettings
from actors.stripe.calls import Patience
from actors.stripe.processor import StripeProcessor, StripeSettings

API_KEY = "sk_test_contract"
SECRET = "whsec_contract"
RETURN = "https://market.example/back"
SETTINGS = FakeSettings(API_KEY, SECRET, retry_first_s=0.01)


@dataclass
class Desk:
    """The fake, the doorway to it, its address, and a session for plain requests."""

    fake: FakeStripe
    processor: StripeProcessor
    url: str
    http: aiohttp.ClientSession
    settings: StripeSettings

    async def paid(self, topup_id: str = "top_1", amount_cents: int = 2500) -> str:
        """A paid checkout; the payment's id."""
        page = await self.processor.open_checkout(
            topup_id, amount_cents, success_url=RETURN, cancel_url=RETURN
        )
        await self.fake.act("pay", id=page.session)
        intent = (await self.processor.checkout(page.session)).intent
        assert intent is not None
        return intent

    async def rich(self, amount_cents: int = 100_000) -> None:
        """Money that is available on the platform's balance."""
        await self.paid("top_rich", amount_cents)
        await self.fake.act("advance", seconds=2 * 86_400)

    async def payee(self, owner: str = "own_1") -> str:
        """An account that can be paid."""
        account = (await self.processor.open_recipient(owner, "US")).account
        await self.fake.act("complete_onboarding", id=account)
        return account

    async def raw(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a plain request with the right key; `body` as it is sent."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Authorization", f"Bearer {API_KEY}")
        async with self.http.request(method, self.url + path, data=body, headers=named) as answer:
            return answer.status, await answer.json()

    def count(self, kind: str) -> int:
        """How many objects of a kind there are at Stripe."""
        return len(list(self.fake.world.all(kind)))


@asynccontextmanager
async def running_stripe(
    settings: FakeSettings = SETTINGS,
    clock: Callable[[], float] = time.time,
    *,
    timeout_s: float = 5.0,
    attempts_max: int = 3,
) -> AsyncIterator[Desk]:
    """A fake and a doorway to it, for as long as the block."""
    fake = FakeStripe(settings, clock)
    async with serve_fake(fake) as url, aiohttp.ClientSession() as http:
        doorway = StripeSettings(
            API_KEY, SECRET, url, timeout_s=timeout_s, patience=Patience(attempts_max, 0.01)
        )
        processor = StripeProcessor(doorway)
        try:
            yield Desk(fake, processor, url, http, doorway)
        finally:
            await processor.close()


@dataclass
class Inbox:
    """What a market's webhook route was sent: payload and signature; its status is settable."""

    url: str = ""
    status: int = 200
    letters: list[tuple[bytes, str]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.letters.append((await request.read(), request.headers["Stripe-Signature"]))
        self._news.set()
        return web.Response(status=self.status)

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until what has been heard is enough."""
        async with asyncio.timeout(30):
            while not enough():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running_inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    app = web.Application()
    app.router.add_post("/webhooks/stripe", inbox.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    inbox.url = f"http://127.0.0.1:{port}/webhooks/stripe"
    try:
        yield inbox
    finally:
        await runner.cleanup()


@asynccontextmanager
async def stripe_with_inbox() -> AsyncIterator[tuple[Desk, Inbox]]:
    """A fake that delivers its notices to an inbox."""
    async with (
        running_inbox() as inbox,
        running_stripe(replace(SETTINGS, webhook_url=inbox.url)) as desk,
    ):
        yield desk, inbox


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until something looked at again and again is so."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
