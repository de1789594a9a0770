"""A routing decision: the time the router spends on one request, by the size of the fleet.

The router's own class, without Ray: filter, predict, score, pick, the reservation and the
journal entry; then the outcome that frees the slot. Every Mac offers each of 20 models, so a
decision looks at all of them. Their beats come between the decisions, as many as in one second of
a real fleet for every second's requests; where they take longer than that second, the round does.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.router import Router
from benchmarks.figures import Report, percentile, read_options, spread_of
from market.errors import MarketError
from market.routing.messages import Busy, Endpoint, Grant, Outcome, ProviderBeat, RouteRequest
from market.types import (
    AccountId,
    EngineStats,
    GatewayId,
    Hardware,
    MachineId,
    ModelFacts,
    ModelId,
    ProviderId,
    RequestId,
)

FLEETS = (10, 100, 1000, 3000, 10_000)
AIMED_AT = 1000
"""The fleet that the aim speaks of."""

MODELS = 20
SLOTS = 32
UNDER_WAY = 200
"""Requests that hold a slot at any time, at most four for each Mac."""
RATE_PER_S = 500
"""Requests arrive this often, evenly: more than one such router's gateways can bring here."""
REBUILDING_S = 6.0
"""A router that has just started trusts what Macs say for a while; that is waited out."""
CHIPS = (("M1", 68.0), ("M2", 100.0), ("M3 Max", 400.0), ("M4 Max", 546.0))

FIGURES = (
    ("p50", "decision p50"),
    ("p99", "decision p99"),
    ("max", "decision max"),
    ("cpu_p50", "decision p50, its own CPU"),
    ("cpu_p99", "decision p99, its own CPU"),
    ("outcome", "outcome p50"),
    ("both", "decision and outcome, p99 of the sum"),
    ("beats", "all beats of a second"),
)


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=3.0, add=_flags)
    report = Report("routing", f"one decision at {RATE_PER_S}/s, {MODELS} models on every Mac")
    for macs in (int(count) for count in asked.own.fleets.split(",")):
        rounds = asyncio.run(_measure(macs, asked.rounds, asked.seconds))
        for figure, words in FIGURES:
            aim = "≤ 5, then ≤ 1" if figure == "p99" and macs == AIMED_AT else ""
            report.row(f"{macs:,} Macs, {words}", spread_of(rounds, figure), "ms", aim)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    sizes = ",".join(map(str, FLEETS))
    parser.add_argument("--fleets", default=sizes, help=f"Macs of each [default: {sizes}]")


async def _measure(macs: int, rounds: int, seconds: float) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as folder:
        router = Router(Path(folder) / "router.db")
        await router.start()
        try:
            beats = _Beats(router, [_beat(number) for number in range(macs)])
            settled_s = time.monotonic() + REBUILDING_S
            await beats.send(macs)
            while time.monotonic() < settled_s:
                await beats.send(macs)
                await asyncio.sleep(0.5)
            counter = [0]
            return [await _round(router, beats, macs, seconds, counter) for _ in range(rounds)]
        finally:
            await router.close()


class _Beats:
    """Sends the Macs' beats, each in its turn, and times them."""

    def __init__(self, router: Router, fleet: list[ProviderBeat]) -> None:
        self._router = router
        self._fleet = fleet
        self._turn = 0
        self._owed = 0.0
        self.sent = 0
        self.spent_s = 0.0

    async def send(self, count: float) -> None:
        """So many; parts of one add up."""
        self._owed += count
        began_s = time.perf_counter()
        while self._owed >= 1.0:
            self._owed -= 1.0
            await self._router.heartbeat(self._fleet[self._turn])
            self._turn = (self._turn + 1) % len(self._fleet)
            self.sent += 1
        self.spent_s += time.perf_counter() - began_s


async def _round(
    router: Router, beats: _Beats, macs: int, seconds: float, counter: list[int]
) -> dict[str, float]:
    decided_ms: list[float] = []
    cpu_ms: list[float] = []
    ended_ms: list[float] = []
    both_ms: list[float] = []
    running: list[Grant] = []
    beats.sent, beats.spent_s = 0, 0.0
    next_s = time.monotonic()
    for _ in range(int(seconds * RATE_PER_S)):
        await beats.send(macs / RATE_PER_S)
        counter[0] += 1
        request = _request(counter[0])
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        (reply,) = await router.route([request])
        cpu_ms.append((time.thread_time() - began_cpu_s) * 1e3)
        decided_ms.append((time.perf_counter() - began_s) * 1e3)
        if isinstance(reply, MarketError | Busy):
            raise RuntimeError(f"no Mac was chosen: {reply}")  # noqa: TRY004 - an outcome
        running.append(reply)
        if len(running) > min(UNDER_WAY, 4 * macs):
            began_s = time.perf_counter()
            await router.report([_outcome(running.pop(0))])
            ended_ms.append((time.perf_counter() - began_s) * 1e3)
            both_ms.append(decided_ms[-1] + ended_ms[-1])
        next_s = max(next_s + 1 / RATE_PER_S, time.monotonic())
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
    await router.report([_outcome(grant) for grant in running])
    return {
        "p50": percentile(decided_ms, 50),
        "p99": percentile(decided_ms, 99),
        "max": max(decided_ms),
        "cpu_p50": percentile(cpu_ms, 50),
        "cpu_p99": percentile(cpu_ms, 99),
        "outcome": percentile(ended_ms, 50),
        "both": percentile(both_ms, 99),
        "beats": beats.spent_s / max(beats.sent, 1) * macs * 1e3,
    }


def _request(number: int) -> RouteRequest:
    return RouteRequest(
        request_id=RequestId(f"req_{number}"),
        gateway=GatewayId("gw_bench"),
        consumer=AccountId(f"acct_{number % 50}"),
        model=ModelId(f"bench/model-{number % MODELS}"),
        prompt_tokens=400,
        max_tokens=200,
        n=1,
        attempt=1,
        excluded=(),
        deadline_s=30.0,
        funding=None,
    )


def _outcome(grant: Grant) -> Outcome:
    return Outcome(
        grant.request_id,
        grant.attempt,
        grant.machine,
        "ok",
        True,
        completion_tokens=200,
        ttft_ms=80.0,
        total_ms=4000.0,
    )


def _beat(number: int) -> ProviderBeat:
    chip, bandwidth_gbs = CHIPS[number % len(CHIPS)]
    facts = ModelFacts(ModelId(""), "bench", 8192, 151_936, 4_000_000_000, 100_000, "4bit")
    models = tuple(replace(facts, model=ModelId(f"bench/model-{i}")) for i in range(MODELS))
    return ProviderBeat(
        machine=MachineId(f"mac_{number}"),
        provider=ProviderId(f"prv_{number}"),
        owner=AccountId(f"acct_owner_{number}"),
        incarnation=1,
        pid=1,
        node="bench",
        endpoint=Endpoint("127.0.0.1", 1),
        hardware=Hardware(chip, 128, 10, 10, bandwidth_gbs),
        state="ready",
        reason="",
        models=models,
        stats=_stats(),
        code_version="bench",
        uptime_s=100.0,
    )


def _stats() -> EngineStats:
    known: dict[str, Any] = {"slots": SLOTS, "memory_bytes_budget": 96 * 2**30}
    names = EngineStats.__dataclass_fields__
    return EngineStats(**{name: known.get(name, 0) for name in names})


if __name__ == "__main__":
    main()
