"""How many hold+settle pairs a second the accountant makes durable, without Ray in between.

    python benchmarks/ledger_in_process.py --pairs 20000 --in-flight 256

Prints one JSON line: pairs per second, latency of a pair, CPU per pair, operations per
commit, and whether the audit of the ledger it wrote found the books in balance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from actors.accountant import Accountant, AccountantSettings
from market import keys
from market.errors import MarketError
from market.messages import AccountantOp, AccountantReply, Admit, Admitted, Settle, Settled
from market.types import AccountId, MachineId, ModelId, ProviderId, RequestId, Usage
from storage.pepper import load_pepper
from storage.verify import verify

CONSUMERS = 50
GATEWAYS = 2  # each keeps one batch in flight, as real ones do


class Gateway:
    """Gathers operations while its one batch is away."""

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self._waiting: list[tuple[AccountantOp, asyncio.Future[AccountantReply | MarketError]]] = []
        self._wake = asyncio.Event()

    async def send(self, op: AccountantOp) -> AccountantReply | MarketError:
        future: asyncio.Future[AccountantReply | MarketError] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting.append((op, future))
        self._wake.set()
        return await future

    async def pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            replies = await self._accountant.batch([op for op, _ in batch])
            for (_, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)


async def measure(folder: Path, pairs: int, in_flight: int) -> dict[str, float]:
    accountant = Accountant(AccountantSettings(folder, fee_bps=500))
    await accountant.start()
    provider = AccountId("acct_provider")
    await accountant.ensure_account(provider, "provider", "operator", 0)
    pepper, hashes = load_pepper(folder), []
    for number in range(CONSUMERS):
        account = AccountId(f"acct_{number}")
        await accountant.ensure_account(account, "consumer", "operator", 10**13)
        _, secret = await accountant.create_key(account, "key")
        hashes.append(keys.key_hash(secret, pepper))
    gateways = [Gateway(accountant) for _ in range(GATEWAYS)]
    pumps = [asyncio.create_task(gateway.pump()) for gateway in gateways]
    numbers, latencies = iter(range(pairs)), []

    async def lane(gateway: Gateway) -> None:
        for number in numbers:
            request, begin = RequestId(f"req_{number:020d}"), time.perf_counter()
            model, hashed = ModelId("coster/demo"), hashes[number % CONSUMERS]
            held = await gateway.send(Admit(request, hashed, model, 412, 200, 600))
            assert isinstance(held, Admitted), held
            paid = await gateway.send(
                Settle(request, provider, MachineId("m"), ProviderId("p"), Usage(412, 187), "stop")
            )
            assert isinstance(paid, Settled), paid
            latencies.append(time.perf_counter() - begin)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(lane(gateways[n % GATEWAYS]) for n in range(in_flight)))
    took_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    commits = (await accountant.metrics())["commits"]
    for pump in pumps:
        pump.cancel()
    await accountant.stop()
    latencies.sort()
    return {
        "pairs_per_s": round(pairs / took_s),
        "pair_ms_p50": round(latencies[pairs // 2] * 1e3, 2),
        "pair_ms_p99": round(latencies[pairs * 99 // 100] * 1e3, 2),
        "cpu_us_per_pair": round(cpu_s / pairs * 1e6, 1),
        "operations_per_commit": round(2 * pairs / commits, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        figures = asyncio.run(measure(data, args.pairs, args.in_flight))
        print(json.dumps({**vars(args), **figures, "balanced": verify(data).ok}))


if __name__ == "__main__":
    main()
