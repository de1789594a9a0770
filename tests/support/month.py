"""A month of a market, settled through the real accountant on a clock of our own.

Answers that end well, are cancelled, come from several Macs, fail, or are left to expire by a
gateway that died; in between folding, sweeping, restarts and clocks that jump. Everything is
drawn from a seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.accountant import Accountant, AccountantSettings, Clock
from market import keys
from market.messages import Admit, Checkpoint, Part, Settle, Settled, Void
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId, Usage
from storage.pepper import load_pepper

NS = 10**9
MONTH_S = 30 * 86_400
BEGIN_S = 1_835_000_000 - 1_835_000_000 % 86_400  # February 2028, with its leap day
MODELS = ["coster/demo", "qwen3.5-7b", "llama-3.3-8b", "gemma-4-12b"]
BATCH = 32


@dataclass
class Month:
    """One accountant after the other on the same books, and a driver that lives the month."""

    data: Path
    rng: random.Random
    database: str = ""
    machines: int = 24
    owners: int = 6
    now_ns: int = BEGIN_S * NS
    tick_ns: int = 0
    requests: int = 0
    settled: int = 0
    callers: list[tuple[AccountId, KeyId, bytes]] = field(default_factory=list)

    async def open(self) -> None:
        """Start the accountant, and the accounts with two keys each when there are none."""
        clock = Clock(lambda: self.now_ns, lambda: self.tick_ns)
        settings = AccountantSettings(self.data, database=self.database, fee_bps=500)
        self.accountant = Accountant(settings, clock=clock)
        await self.accountant.start()
        if self.callers:
            return
        pepper = load_pepper(self.data)
        for number in range(self.owners):
            owner = AccountId(f"acct_{number}")
            await self.accountant.ensure_account(owner, owner, "operator", 10**15)
            for name in "ab":
                record, secret = await self.accountant.create_key(
                    owner, name, keys.INFERENCE_SCOPES
                )
                self.callers.append((owner, record.key_id, keys.key_hash(secret, pepper)))
        for number in range(0, self.machines, 2):  # every other machine is linked to its owner
            await self.accountant.link_machine(self.machine(number), self.owner(number), "op")

    def machine(self, number: int) -> MachineId:
        return MachineId(f"mac_{number:03d}")

    def owner(self, number: int) -> AccountId:
        return AccountId(f"acct_{number % self.owners}")

    def payee(self, number: int) -> AccountId:
        """What a machine's label says; the accountant knows better for linked ones."""
        return AccountId(f"unclaimed_{self.machine(number)}")

    async def live(self, requests: int, long_s: float = MONTH_S) -> None:
        """So many settled requests, evenly over that time but for the hours of the day."""
        step_ns = int(long_s * NS / max(1, requests / BATCH))
        while self.settled < requests:
            await self.batch()
            self.now_ns += int(step_ns * self.rng.choice([0.2, 0.5, 1, 1.5, 1.8]))
            self.tick_ns += NS
            await self._happen()

    async def _happen(self) -> None:
        at = self.rng.random()
        if at < 0.3:
            await self.accountant.fold()
        elif at < 0.33:
            self.now_ns -= self.rng.choice([5, 3_700]) * NS  # the wall clock is set back
        elif at < 0.36:
            for _ in range(3):
                self.tick_ns += 31 * NS
                await self.accountant.sweep()
        elif at < 0.365:
            await self.accountant.stop()
            await self.open()

    async def batch(self) -> None:
        """Requests that come together, and what becomes of them."""
        ops: list[Any] = []
        for _ in range(BATCH):
            self.requests += 1
            request = RequestId(f"req_{self.requests}")
            hashed = self.rng.choice(self.callers)[2]
            model = ModelId(self.rng.choice(MODELS))
            ops.append(Admit(request, hashed, model, 400, 200, 400))
            ops += self._end(request)
        replies = await self.accountant.batch(ops)
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        assert refused == []
        self.settled += sum(isinstance(reply, Settled) for reply in replies)

    def _end(self, request: RequestId) -> list[Any]:
        rng, at = self.rng, self.rng.random()
        if at < 0.06:
            return [Void(request, "no provider")]
        mac = rng.randrange(self.machines)
        tokens = rng.randrange(1, 201)
        usage = Usage(rng.randrange(50, 401), tokens, rng.randrange(50), rng.randrange(tokens))
        where = (self.payee(mac), self.machine(mac), ProviderId(f"prv_{mac}"))
        if at < 0.08:
            return [Checkpoint(request, usage, *where)]
        before: tuple[Part, ...] = ()
        if at < 0.14:
            other = rng.randrange(self.machines)
            lost = Part(
                self.payee(other), self.machine(other), ProviderId("prv"), rng.randrange(tokens + 1)
            )
            before = (lost,)
        reason = "cancelled" if at > 0.95 else "stop"
        ask = 90 if 0.14 < at < 0.2 else 100
        times = (rng.random() * 500, 500 + rng.random() * 5_000)
        return [Settle(request, *where, usage, reason, 1, *times, None, ask, before)]
