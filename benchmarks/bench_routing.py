"""A routing decision: the time the router spends on one request, by the size of the fleet.

The router's own class, without Ray: filter, predict, score, pick, the reservation and the
journal entry; then the outcome that frees the slot. Every Mac offers each of 20 models, so a
decision looks at all of them, and all beat once a second as real ones do.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.router import Router
from benchmarks.figures import Report, Spread, percentile, read_options
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

FLEETS = (10, 100, 1000)
MODELS = 20
SLOTS = 32
UNDER_WAY = 200
"""Requests that hold a slot at any time, at most four for each Mac."""
RATE_PER_S = 500
"""Requests arrive this often, evenly: more than one such router's gateways can bring here."""
BEAT_S = 1.0
REBUILDING_S = 6.0
"""A router that has just started trusts what Macs say for a while; that is waited out."""
CHIPS = (("M1", 68.0), ("M2", 100.0), ("M3 Max", 400.0), ("M4 Max", 546.0))


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=3.0)
    report = Report("routing", f"one decision at {RATE_PER_S}/s, {MODELS} models on every Mac")
    for macs in FLEETS:
        rounds = asyncio.run(_measure(macs, asked.rounds, asked.seconds))
        aim = "≤ 5, then ≤ 1" if macs == max(FLEETS) else ""
        for figure in ("p50", "p99", "max"):
            spread = Spread.of([played[figure] for played in rounds])
            report.row(
                f"{macs} Macs, decision {figure}", spread, "ms", aim if figure == "p99" else ""
            )
        spread = Spread.of([played["outcome"] for played in rounds])
        report.row(f"{macs} Macs, outcome p50", spread, "ms")
        spread = Spread.of([played["beats"] for played in rounds])
        report.row(f"{macs} Macs, all beats of a second", spread, "ms")
    report.show()


async def _measure(macs: int, rounds: int, seconds: float) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as folder:
        router = Router(Path(folder) / "router.db")
        await router.start()
        try:
            fleet = [_beat(number) for number in range(macs)]
            beats = _Beats(router, fleet)
            settled_s = time.monotonic() + REBUILDING_S
            while time.monotonic() < settled_s:
                await beats.send()
                await asyncio.sleep(BEAT_S / 2)
            counter = [0]
            return [await _round(router, beats, macs, seconds, counter) for _ in range(rounds)]
        finally:
            await router.close()


class _Beats:
    """Sends every Mac's beat when a second has passed, and times it."""

    def __init__(self, router: Router, fleet: list[ProviderBeat]) -> None:
        self._router = router
        self._fleet = fleet
        self._next_s = 0.0
        self.spent_ms: list[float] = []

    async def send(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + BEAT_S
        began_s = time.perf_counter()
        for beat in self._fleet:
            await self._router.heartbeat(beat)
        self.spent_ms.append((time.perf_counter() - began_s) * 1e3)


async def _round(
    router: Router, beats: _Beats, macs: int, seconds: float, counter: list[int]
) -> dict[str, float]:
    decided_ms: list[float] = []
    ended_ms: list[float] = []
    running: list[Grant] = []
    beats.spent_ms.clear()
    await beats.send()
    next_s = time.monotonic()
    ends_s = next_s + seconds
    while next_s < ends_s:
        await beats.send()
        counter[0] += 1
        request = _request(counter[0])
        began_s = time.perf_counter()
        (reply,) = await router.route([request])
        decided_ms.append((time.perf_counter() - began_s) * 1e3)
        if isinstance(reply, MarketError | Busy):
            raise RuntimeError(f"no Mac was chosen: {reply}")  # noqa: TRY004 - an outcome
        running.append(reply)
        if len(running) > min(UNDER_WAY, 4 * macs):
            began_s = time.perf_counter()
            await router.report([_outcome(running.pop(0))])
            ended_ms.append((time.perf_counter() - began_s) * 1e3)
        next_s += 1 / RATE_PER_S
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
    await router.report([_outcome(grant) for grant in running])
    return {
        "p50": percentile(decided_ms, 50),
        "p99": percentile(decided_ms, 99),
        "max": max(decided_ms),
        "outcome": percentile(ended_ms, 50),
        "beats": percentile(beats.spent_ms, 50),
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
