"""A market with a past: requests settled through the real accountant, on a clock of our own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from actors.accountant import Clock
from market.messages import Admit, Part, Settle, Settled, Void
from market.types import KeyId, MachineId, ModelId, ProviderId, RequestId, Usage
from serve_app.limits import Limits
from tests.http.asgi_client import Exchange
from tests.http.ledger_market import LedgerMarket, call, open_market
from tests.http.memory_accountant import MAC_OWNER

MODELS = ["coster/demo", "qwen3.5-7b"]
MACHINES = ["mac_a", "mac_b"]
HOUR_S, DAY_S = 3_600, 86_400
USAGE, EARNINGS = "/v1/payments/usage", "/v1/provider/earnings"
PAGES_MANY = 10_000
BEGIN_S = int(datetime(2028, 2, 27, 22, 30, tzinfo=UTC).timestamp())  # over a leap day


def cost(entries: list[Any], name: str = "cost_nano_usd") -> int:
    return sum(int(entry[name]) for entry in entries)


@dataclass
class PastMarket:
    """The market, its keys, and what was settled in it."""

    market: LedgerMarket
    owner: str = ""
    keys: dict[str, tuple[KeyId, str]] = field(default_factory=dict)
    now_s: float = BEGIN_S
    settled: list[tuple[Settled, str, str]] = field(default_factory=list)  # and model, key
    parts: int = 0

    async def serve(
        self, model: str = MODELS[0], key: str = "one", machine: str = MACHINES[0], **more: Any
    ) -> None:
        """One answered request of 10 + 20 tokens, or as told."""
        at = len(self.settled)
        request = RequestId(f"req_{at}")
        hashed = self.market._hash(self.keys[key][1])
        assert hashed is not None
        admit = Admit(request, hashed, ModelId(model), 10, 20, 100)
        done = Settle(
            request, MAC_OWNER, MachineId(machine), ProviderId("prv_a"), Usage(10, 20, 4), "stop",
            1, 12.0, 90.0,
        )  # fmt: skip
        (_, reply) = await self.market.ledger.accountant.batch([admit, replace(done, **more)])
        assert isinstance(reply, Settled), reply
        self.settled.append((reply, model, key))
        self.parts += 1 + len(more.get("before", ()))

    async def fail(self, model: str = MODELS[0], key: str = "one") -> None:
        """One request that nobody answers."""
        hashed = self.market._hash(self.keys[key][1])
        assert hashed is not None
        request = RequestId(f"req_failed_{time.monotonic_ns()}")
        admit = Admit(request, hashed, ModelId(model), 10, 20, 100)
        await self.market.ledger.accountant.batch([admit, Void(request, "no provider")])

    async def get(self, path: str, secret: str | None = "", **query: Any) -> Exchange:
        """A list, as its reader asks for it; `begin` stands for `from`."""
        if "begin" in query:
            query["from"] = query.pop("begin")
        return await call(self.market, "GET", f"{path}?{urlencode(query, doseq=True)}", key=secret)

    async def pages(self, path: str, secret: str = "", **query: Any) -> list[Any]:
        """Every entry of a list, page after page."""
        found: list[Any] = []
        cursor: str | None = ""
        for _ in range(500):
            page = (await self.get(path, secret, cursor=cursor, **query)).json
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found
        raise AssertionError("the list does not end")

    async def live(self, count: int) -> None:
        """So many requests over days, of both models, keys and machines; some by two Macs."""
        for at in range(count):
            more: dict[str, Any] = {}
            if at % 5 == 4:
                before = Part(MAC_OWNER, MachineId(MACHINES[(at + 1) % 2]), ProviderId("prv_b"), 7)
                more = {"before": (before,), "ask_pct": 50 + at % 50}
            await self.serve(
                MODELS[at % 3 % 2], ["one", "two"][at % 4 // 3], MACHINES[at % 2], **more
            )
            if at % 7 == 3:
                await self.fail()
            self.now_s += 3_000 + 137 * (at % 11)
            if at % 6 == 0:
                await self.market.ledger.accountant.fold()


@asynccontextmanager
async def open_past(folder: Path, count: int = 0, **limits: Any) -> AsyncIterator[PastMarket]:
    """A market with so many requests behind it."""
    async with open_market(folder, limits=replace(Limits(), **limits), fee_bps=500) as market:
        past = PastMarket(market)
        clock = Clock(lambda: int(past.now_s * 1e9), time.monotonic_ns)
        market.ledger.accountant._clock = clock
        _, past.owner = await market.key("fleet:read", account=MAC_OWNER)
        for name in ("one", "two"):
            past.keys[name] = await market.key("inference", name=name)
        await past.live(count)
        yield past
