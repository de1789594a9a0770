"""The lab: requests a second that one core simulates, and the memory of a run, by fleet size.

The live policy, planner, queue, learning and ledger take part, and the run is written down: it is
`coster sim run heterogeneous` with every kind of Mac as many times as the fleet is to be larger.
Each run has a process of its own. Seconds are CPU time of that process, so that a busy machine
changes little; what it takes to start and to sum up is in them. Cores do runs side by side.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import Report, Spread, interleave, read_options, spread_of
from simulator.runs.experiment import run
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import load, of_config

SCENARIO = "heterogeneous"
MACS = 10  # of the scenario as it is shipped
FLEETS = (10, 200, 1_000)
AIMS = {10: "≥ 4,000 (8,000 on two cores)", 200: "≥ 2,500", 1_000: "≥ 3,333"}
MEMORY_AIM = "≤ 2,000 at a million requests"
MEGABYTE = 1e6


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, add=_flags)
    requests = 2_000 if asked.quick else asked.own.requests
    fleets = [int(each) for each in asked.own.fleets.split(",")]
    report = Report("lab", f"{SCENARIO}, {requests:,} requests a run")
    sides = {str(macs): lambda macs=macs: _apart(macs, requests) for macs in fleets}
    for name, rounds in interleave(sides, asked.rounds).items():
        macs = int(name)
        report.row(f"{macs:,} Macs", spread_of(rounds, "rate"), "/s", AIMS.get(macs, ""))
        memory = Spread.of([played["memory_bytes"] / MEGABYTE for played in rounds])
        report.row(f"{macs:,} Macs, memory", memory, "MB", MEMORY_AIM)
    report.show()


def _flags(parser: argparse.ArgumentParser) -> None:
    every = ",".join(str(macs) for macs in FLEETS)
    parser.add_argument("--requests", type=int, default=20_000, help="of a run [default: 20000]")
    parser.add_argument("--fleets", default=every, help=f"how many Macs [default: {every}]")


def _apart(macs: int, requests: int) -> dict[str, Any]:
    """One run in a process that does nothing else."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_played, macs, requests).result()


def _played(macs: int, requests: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as folder:
        run(_fleet_of(macs, requests), seed=1, out=Path(folder) / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rate": requests / time.process_time(),
        "memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
    }


def _fleet_of(macs: int, requests: int) -> Scenario:
    """The shipped scenario with a larger fleet of the same kinds, and as much more to do."""
    config = json.loads(load(SCENARIO, {"run.requests": str(requests)}).config)
    kinds = [{**kind, "count": kind["count"] * macs // MACS} for kind in config["fleet"]["macs"]]
    return of_config({**config, "fleet": {**config["fleet"], "macs": kinds}}, SCENARIO)


if __name__ == "__main__":
    main()
