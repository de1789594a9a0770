"""Signed notices to the market, at least once, in no promised order, tried again when unheard."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256

import aiohttp

from actors.fake_stripe.faults import Json
from actors.fake_stripe.knobs import Knobs
from actors.fake_stripe.world import World

log = logging.getLogger("coster.fake_stripe")

ATTEMPTS_MAX = 16
RETRY_MAX_S = 3600.0
TIMEOUT_S = 10.0
DELIVERIES_KEPT = 1000


def sign(payload: bytes, secret: str, at_s: int) -> str:
    """The Stripe-Signature header of a payload sent at this second of the wall's clock."""
    mac = hmac.new(secret.encode(), b"%d.%b" % (at_s, payload), sha256)
    return f"t={at_s},v1={mac.hexdigest()}"


class Postman:
    """Empties the world's outbox. One task, which sleeps until there is something to send."""

    def __init__(
        self, world: World, knobs: Callable[[], Knobs], save: Callable[[], Awaitable[None]]
    ) -> None:
        self._world = world
        self._knobs = knobs
        self._save = save
        self._news = asyncio.Event()
        self._seen = 0
        self.deliveries: list[Json] = []

    def wake(self) -> None:
        """Something was put in the outbox, or a knob was turned."""
        self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                self._news.clear()
                due = self._due()
                for entry in due:
                    await self._deliver(session, entry)
                if due:
                    await self._save()
                    continue
                await self._rest()

    async def _rest(self) -> None:
        moments = [entry.get("_next", 0.0) for entry in self._waiting()]
        try:
            async with asyncio.timeout(
                max(0.0, min(moments) - time.monotonic()) if moments else None
            ):
                await self._news.wait()
        except TimeoutError:
            return

    def _waiting(self) -> list[Json]:
        """Entries whose time will come by itself: not those held back to be reordered."""
        outbox = self._world.outbox
        held = len(outbox) < self._knobs().webhooks.reorder_window
        return [entry for entry in outbox if not (held and entry["attempts"] == 0)]

    def _due(self) -> list[Json]:
        now_s = time.monotonic()
        due = [entry for entry in self._waiting() if entry.get("_next", 0.0) <= now_s]
        return due[::-1] if self._knobs().webhooks.reorder_window else due

    async def _deliver(self, session: aiohttp.ClientSession, entry: Json) -> None:
        url = self._world.settings.webhook_url
        event = self._world.objects.get(entry["event"])
        if url is None or event is None:
            self._world.outbox.remove(entry)
            return
        knobs = self._knobs().webhooks
        if entry["attempts"] == 0:
            self._seen += 1
            if knobs.drop_next or (self._seen - 1) % 100 < knobs.drop_percent:
                knobs.drop_next = max(0, knobs.drop_next - 1)
                self._world.outbox.remove(entry)
                self._note(event, "dropped")
                return
        if knobs.delay_s:
            await asyncio.sleep(knobs.delay_s)
        payload = json.dumps(self._world.show(event)).encode()
        heard = True
        for _ in range(1 + knobs.duplicates):
            status = await self._post(session, url, payload)
            heard = 200 <= status < 300
            self._note(event, status)
        self._settle(entry, heard=heard)

    async def _post(self, session: aiohttp.ClientSession, url: str, payload: bytes) -> int:
        """The status of the answer; 0 when there was none."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(
                payload, self._world.settings.webhook_secret.partition(",")[0], int(time.time())
            ),
        }
        try:
            async with session.post(
                url, data=payload, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("a test payment's notice was not heard: %s", type(error).__name__)
            return 0

    def _settle(self, entry: Json, *, heard: bool) -> None:
        entry["attempts"] += 1
        if heard or entry["attempts"] >= ATTEMPTS_MAX:
            self._world.outbox.remove(entry)
            return
        pause_s = self._world.settings.retry_first_s * 2 ** (entry["attempts"] - 1)
        entry["_next"] = time.monotonic() + min(pause_s, RETRY_MAX_S)

    def _note(self, event: Json, outcome: int | str) -> None:
        self.deliveries.append({"event": event["id"], "type": event["type"], "outcome": outcome})
        del self.deliveries[:-DELIVERIES_KEPT]
