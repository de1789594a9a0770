"""Paced streams: what the path adds to the gap between tokens, and the CPU a stream costs.

Each echo Mac emits a token every 10 ms; 16 streams of 64 tokens run at a time over 1, 8 and
32 Macs. The gap is measured where the client reads; bare uvicorn sends the same chunks at the
same pace, and what it loses to timers and the machine is taken off. CPU is summed over every
process that belongs to the market, Ray's and HAProxy's included; what the market uses while
idle is shown beside it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks.common import (
    STREAM_TOKENS,
    CpuMeter,
    Market,
    bare_uvicorn,
    chat_body,
    load_client,
    market,
)
from benchmarks.figures import (
    Report,
    Spread,
    difference_of,
    interleave,
    read_options,
    spread_of,
)
from benchmarks.load import Spec
from benchmarks.worker import Worker

PACE_MS = 10.0
CLIENTS = 16
MACS = (1, 8, 32)
IDLE_S = 3.0
SETTLE_S = 5.0
"""Macs that have just loaded are let finish their start before anything is measured."""


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=5.0, add=_flags)
    report = Report("paced", f"{CLIENTS} streams of {STREAM_TOKENS} tokens, {PACE_MS:g} ms apart")
    sizes = [int(count) for count in asked.own.macs.split(",")]
    with bare_uvicorn(PACE_MS) as bare, load_client() as client:
        for macs in sizes[:1] if asked.quick else sizes:
            words = ("--engine", "echo", "--pace-ms", str(PACE_MS), "--macs", str(macs))
            with market(*words) as running:
                running.await_macs(macs)
                time.sleep(1.0 if asked.quick else SETTLE_S)
                _measure(report, running, client, bare.port, macs, asked.rounds, asked.seconds)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--macs", default=",".join(map(str, MACS)), help="fleet sizes")


def _measure(
    report: Report,
    running: Market,
    client: Worker,
    bare_port: int,
    macs: int,
    rounds: int,
    seconds: float,
) -> None:
    spread_s = STREAM_TOKENS * PACE_MS / 1e3
    ours, theirs = (
        Spec(port, running.key, (chat_body(),), CLIENTS, seconds, stagger_s=spread_s)
        for port in (running.port, bare_port)
    )
    for spec in (ours, theirs):
        client.round(Spec(spec.port, spec.key, spec.bodies, CLIENTS, 1.0))
    meter = CpuMeter(running)
    time.sleep(IDLE_S)
    idle, passed_s = meter.read()
    idle_cores = sum(idle.values()) / passed_s
    kinds: dict[str, list[float]] = {}

    def through_us() -> dict[str, Any]:
        meter.start()
        played = client.round(ours)
        used, _ = meter.read()
        for kind, used_s in used.items():
            kinds.setdefault(kind, []).append(1e3 * used_s / played["streams"])
        played["cpu_ms"] = 1e3 * sum(used.values()) / played["streams"]
        played["idle_ms"] = 1e3 * idle_cores * played["elapsed_s"] / played["streams"]
        return played

    found = interleave({"coster": through_us, "bare": lambda: client.round(theirs)}, rounds)
    if not all(p["tokens_min"] == STREAM_TOKENS for p in found["coster"]):
        raise RuntimeError("a stream came short of its tokens")
    what = f"{macs} Mac{'s' if macs > 1 else ''}"
    added = difference_of(found["coster"], found["bare"], "gap_ms_p99")
    report.row(f"{what}, added gap p99", added, "ms", "≤ 10, then ≤ 3")
    report.row(f"{what}, gap p99, coster", spread_of(found["coster"], "gap_ms_p99"), "ms")
    report.row(f"{what}, gap p99, bare", spread_of(found["bare"], "gap_ms_p99"), "ms")
    report.row(
        f"{what}, CPU, all processes",
        spread_of(found["coster"], "cpu_ms"),
        "ms/stream",
        "≤ 20, then ≤ 6",
    )
    report.row(f"{what}, CPU, of it idle", spread_of(found["coster"], "idle_ms"), "ms/stream")
    for kind, spent in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        report.row(f"{what}, CPU: {kind}", Spread.of(spent), "ms/stream")


if __name__ == "__main__":
    main()
