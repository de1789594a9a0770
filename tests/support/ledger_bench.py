"""A running accountant with a consumer and a provider, and a nursery that kills such ones.

Run as a script it is the nursery: it forks accountants, kills each with SIGKILL in the
middle of its commits, and prints every settlement that had been acknowledged, as JSON.
Forking needs a process without threads, which a test runner is not.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from actors.accountant import Accountant, AccountantSettings
from market import keys
from market.messages import Admit, Settle, Settled
from market.types import AccountId, MachineId, ModelId, ProviderId, RequestId, Usage
from storage.pepper import load_pepper

MODEL = ModelId("qwen3.5-27b-claude-opus-8bit")  # 100 and 780 nano-USD per token
HOLD_NANO = 412 * 100 + 187 * 780
LANES = 16


@dataclass
class Bench:
    """What a test needs to send operations."""

    accountant: Accountant
    consumer: AccountId
    provider: AccountId
    key_hash: bytes

    def admit(self, request: str) -> Admit:
        return Admit(RequestId(request), self.key_hash, MODEL, 412, 187, 1000)

    def settle(self, request: str, completion: int = 187) -> Settle:
        return Settle(
            RequestId(request),
            self.provider,
            MachineId("mac_1"),
            ProviderId("prv_1"),
            Usage(412, completion),
            "stop",
        )

    async def do(self, *ops: object) -> list[object]:
        return list(await self.accountant.batch(ops))  # type: ignore[arg-type]


async def start(data: Path, *, promo_nano: int = 10**9, **settings: object) -> Bench:
    """A fresh accountant on this folder, with the two accounts in it."""
    accountant = Accountant(AccountantSettings(data, **settings))  # type: ignore[arg-type]
    await accountant.start()
    return await equip(accountant, data, promo_nano)


async def equip(accountant: Accountant, data: Path, promo_nano: int) -> Bench:
    """The two accounts and the consumer's key; the same ones on every call."""
    consumer, provider = AccountId("acct_consumer"), AccountId("acct_provider")
    await accountant.ensure_account(consumer, "Consumer", "operator", promo_nano)
    await accountant.ensure_account(provider, "Provider", "operator", 0)
    secret = keys.new_secret(bytes(32))
    await accountant.ensure_key(consumer, "test", keys.INFERENCE_SCOPES, secret)
    return Bench(accountant, consumer, provider, keys.key_hash(secret, load_pepper(data)))


async def _spend_forever(data: Path, run: int, report_fd: int) -> None:
    bench = await start(data, promo_nano=10**15)

    async def lane(name: int) -> None:
        count = 0
        while True:
            request = f"req_{run}_{name}_{count}"
            count += 1
            await bench.do(bench.admit(request))
            (settled,) = await bench.do(bench.settle(request))
            assert isinstance(settled, Settled)
            os.write(report_fd, f"{request} {settled.cost_nano}\n".encode())

    await asyncio.gather(*(lane(name) for name in range(LANES)))


def _one_life(data: Path, run: int, answers: int) -> list[str]:
    """Start an accountant, let it acknowledge some settlements, kill it; what it said."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        asyncio.run(_spend_forever(data, run, write_fd))
    os.close(write_fd)
    said = b""
    with os.fdopen(read_fd, "rb", buffering=0) as pipe:
        while said.count(b"\n") < answers:
            chunk = pipe.read(4096)
            assert chunk, "the accountant died by itself"
            said += chunk
        os.kill(pid, signal.SIGKILL)
        while chunk := pipe.read(4096):
            said += chunk
    os.waitpid(pid, 0)
    return said.decode().splitlines()


def nursery(data: Path, lives: int) -> dict[str, int]:
    """Acknowledged settlements of many short lives, by request."""
    rng, acknowledged = random.Random(7), {}
    for run in range(lives):
        for line in _one_life(data, run, rng.randrange(1, 200)):
            request, cost = line.split()
            acknowledged[request] = int(cost)
    return acknowledged


if __name__ == "__main__":
    print(json.dumps(nursery(Path(sys.argv[1]), int(sys.argv[2]))))
