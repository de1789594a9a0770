"""The ledger: durable pairs of hold and settlement a second, in process and through the actor.

Both sides are driven by the gateways' own client, which keeps one batch in flight; two such
clients stand for two gateways. Every pair is on disk before it counts. The difference between
the sides is what an actor call costs. Afterwards both books must balance.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.accountant import Accountant, AccountantSettings
from actors.accountant_client import AccountantClient
from actors.calls import ActorCall, first_answer
from benchmarks.common import MODEL, coster
from benchmarks.figures import Options, Report, percentile, ratio_of, read_options, spread_of
from market.keys import key_hash
from market.messages import Admit, Settle
from market.settings import MarketSettings, ModelSource
from market.types import AccountId, MachineId, ModelId, ProviderId, RequestId, Usage
from storage.pepper import load_pepper

GATEWAYS = 2
LANES = 128
"""Requests each gateway has under way."""
PROMPT_TOKENS, COMPLETION_TOKENS = 400, 200
PROMO_NANO = 10**15
CONSUMER, PROVIDER = AccountId("acct_bench_consumer"), AccountId("acct_bench_provider")


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0])
    report = Report("ledger", f"hold and settle, {GATEWAYS} gateways of {LANES} requests each")
    found = asyncio.run(_measure(asked, report))
    report.row(
        "through the actor",
        spread_of(found["actor"], "pairs_per_s"),
        "pairs/s",
        "≥ 5,000, then ≥ 15,000",
    )
    report.row("in process", spread_of(found["class"], "pairs_per_s"), "pairs/s")
    report.row("actor / in process", ratio_of(found["actor"], found["class"], "pairs_per_s"), "×")
    report.row("a pair through the actor, p50", spread_of(found["actor"], "pair_ms_p50"), "ms")
    report.row("a pair through the actor, p99", spread_of(found["actor"], "pair_ms_p99"), "ms")
    report.show()


@dataclass
class Side:
    """One ledger and the two clients that use it."""

    clients: list[AccountantClient]
    hashed_key: bytes
    requests: int = 0

    async def round(
        self, seconds: float, clients: int = GATEWAYS, lanes: int = LANES
    ) -> dict[str, Any]:
        """Pairs a second over `seconds`, with `lanes` requests of each client under way."""
        ends_s = time.perf_counter() + seconds
        spent_s: list[float] = []
        started_s = time.perf_counter()
        await asyncio.gather(
            *(
                self._lane(client, ends_s, spent_s)
                for client in self.clients[:clients]
                for _ in range(lanes)
            )
        )
        elapsed_s = time.perf_counter() - started_s
        return {
            "pairs_per_s": len(spent_s) / elapsed_s,
            "pair_ms_p50": percentile(spent_s, 50) * 1e3,
            "pair_ms_p99": percentile(spent_s, 99) * 1e3,
        }

    async def _lane(self, client: AccountantClient, ends_s: float, spent_s: list[float]) -> None:
        while (began_s := time.perf_counter()) < ends_s:
            self.requests += 1
            request = RequestId(f"req_bench_{self.requests}")
            await client.op(
                Admit(
                    request,
                    self.hashed_key,
                    ModelId(MODEL),
                    PROMPT_TOKENS,
                    COMPLETION_TOKENS,
                    COMPLETION_TOKENS,
                )
            )
            await client.op(
                Settle(
                    request,
                    PROVIDER,
                    MachineId("mac_bench"),
                    ProviderId("prv_bench"),
                    Usage(PROMPT_TOKENS, COMPLETION_TOKENS),
                    "stop",
                )
            )
            spent_s.append(time.perf_counter() - began_s)


async def _measure(asked: Options, report: Report) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"class": [], "actor": []}
    async with AsyncExitStack() as stack:
        folders = [_folder() for _ in range(2)]
        names = dict(zip(folders, ("the class", "the actor"), strict=True))
        for folder in folders:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        async with in_process(folders[0]) as plain, _in_actor(folders[1]) as actor:
            sides = {"class": plain, "actor": actor}
            for number in range(asked.rounds + 1):
                for name in sorted(sides, reverse=number % 2 == 0):
                    played = await sides[name].round(asked.seconds)
                    if number:  # the first is for warming up
                        found[name].append(played)
        for folder in folders:
            done = await asyncio.to_thread(
                coster, "ledger", "verify", "--json", "--data", str(folder)
            )
            if done.returncode != 0:
                raise RuntimeError(f"the books do not balance: {done.stdout}{done.stderr}")
            transfers = json.loads(done.stdout)["counts"]["transfers"]
            report.fact(f"books of {names[folder]}", f"{transfers:,} transfers, they balance")
    return found


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="coster-bench-")).resolve()


async def _side(call: ActorCall, data: Path) -> Side:
    """Accounts and a key, then the clients."""
    await call("ensure_account", CONSUMER, "Bench consumer", "operator", PROMO_NANO)
    await call("ensure_account", PROVIDER, "Bench provider", "operator", 0)
    _, secret = await call("create_key", CONSUMER, "bench", frozenset({"inference"}), None)
    hashed = key_hash(secret, load_pepper(data))
    return Side([AccountantClient(call) for _ in range(GATEWAYS)], hashed)


@asynccontextmanager
async def in_process(data: Path, database: str = "") -> AsyncIterator[Side]:
    """The accountant in this process, on either database."""
    accountant = Accountant(AccountantSettings(data, database=database))
    await accountant.start()

    async def call(method: str, *args: object) -> Any:
        return await getattr(accountant, method)(*args)

    try:
        yield await _side(call, data)
    finally:
        await accountant.stop()


@asynccontextmanager
async def _in_actor(data: Path) -> AsyncIterator[Side]:
    """The accountant as `coster up` runs it: in a Ray of our own, without Serve or Macs."""
    from actors.ray_env import ray_environment
    from coster.paths import MarketPaths
    from coster.ports import choose_ports

    paths = MarketPaths(data)
    paths.prepare()
    token = paths.secret_file("ray_token")
    paths.secret("ray_token")
    ports = choose_ports("127.0.0.1", None, str(data))
    os.environ |= ray_environment(paths.run_dir, token, ports.ray, loopback=True, haproxy=False)
    from actors import cluster

    cluster.start_local_ray(paths.run_dir / "ray", num_cpus=max(4, os.cpu_count() or 1))
    try:
        settings = MarketSettings(str(data), (ModelSource(ModelId(MODEL)),), "bench")
        accountant, _ = cluster.ensure_market(settings, paths.secret("wire"))
        await first_answer(accountant, "describe", cluster.START_S_MAX)
        yield await _side(cluster.NamedActor(cluster.ACCOUNTANT), data)
    finally:
        await cluster.stop_market()
        cluster.stop_local_ray()
        shutil.rmtree(paths.run_dir, ignore_errors=True)


if __name__ == "__main__":
    main()
