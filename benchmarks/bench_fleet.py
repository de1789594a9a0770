"""A large fleet on one machine: how soon it is there, what a Mac takes, what it costs at rest.

`coster up --engine simulated --macs 100` with one model of the catalogue, which each Mac loads at
the speed of its own disk. Memory is what the processes of Macs hold for themselves alone (USS), a
Mac's share of it; the cost at rest is the beats, and their way into the router.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import psutil

from benchmarks.common import CpuMeter, Market, market
from benchmarks.figures import Report, Spread, read_options, spread_of

MODEL = "qwen3.5-7b"
MACS = 100
QUICK_MACS = 40
SETTLED_S = 5.0
MIB = 2**20


def main() -> None:
    asked = read_options(
        str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=10.0, add=_options
    )
    macs = asked.own.macs or (QUICK_MACS if asked.quick else MACS)
    report = Report("fleet", f"{macs} simulated Macs, {MODEL}", {"macs": macs})
    rounds = [_once(macs, asked.seconds) for _ in range(asked.rounds)]
    report.row("command to ready line", spread_of(rounds, "up_s"), "s")
    report.row("from there to all Macs ready", spread_of(rounds, "ready_s"), "s", "seconds")
    report.row("memory of a Mac", spread_of(rounds, "mac_mib"), "MiB", "≪ 60, a process each")
    for name in ("router", "providers", "all"):
        spread = Spread.of([each["cores"][name] for each in rounds])
        report.row(f"at rest, {name}", spread, "cores")
    report.row("processes of Macs", spread_of(rounds, "processes"), "")
    report.show()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--macs", type=int, help=f"how many [default: {MACS}]")


def _once(macs: int, seconds: float) -> dict[str, Any]:
    with market("--engine", "simulated", "--model", MODEL, "--macs", str(macs)) as running:
        began_s = time.monotonic()
        running.await_macs(macs)
        ready_s = time.monotonic() - began_s
        time.sleep(SETTLED_S)
        meter = CpuMeter(running)
        time.sleep(seconds)
        used, passed_s = meter.read()
        hosts = _of_macs(running)
        memory = sum(process.memory_full_info().uss for process in hosts)
    cores = {name: used.get(name, 0.0) / passed_s for name in ("router", "providers")}
    return {
        "up_s": running.up_s,
        "ready_s": ready_s,
        "mac_mib": memory / macs / MIB,
        "cores": {**cores, "all": sum(used.values()) / passed_s},
        "processes": len(hosts),
    }


def _of_macs(running: Market) -> list[psutil.Process]:
    return [p for p in running.processes() if "ProviderActor" in " ".join(p.cmdline())]


if __name__ == "__main__":
    main()
