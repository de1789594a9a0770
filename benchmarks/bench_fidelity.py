"""How far the lab is from a live market of simulated Macs: the same load on both, side by side.

A market of eight Macs of four chips is driven by `coster loadgen`, open loop, at 0.7 to 0.85 of
what the fleet can do; `coster sim` plays the same scenarios with the same seeds. What differs
is everything between a client and a step of an engine: HTTP, tokenising, the ledger's commit,
actors, sockets, timers, and whatever this machine does beside. Errors are (simulated - measured)
over measured; with several repetitions their 95 % interval is Student's over pairs of one seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CpuMeter, Market, environment, market
from benchmarks.figures import Report, Spread, read_options
from simulator.results import folders
from simulator.results.calibrate import calibrate

MODEL = "qwen3.5-7b"
FLEET = "".join(
    f'[[macs]]\ncount = 2\nchip = "{chip}"\nmemory_gb = {memory_gb}\n'
    for chip, memory_gb in (("M4 Max", 64), ("M4 Pro", 48), ("M2 Pro", 32), ("M4", 24))
)
HEAD = """
models = ["{model}"]
[run]
name = "{name}"
requests = {requests}
warmup_share = 0.15
[fleet]
file = "fleet.toml"
[placement]
enabled = false
[[workload]]
name = "{name}"
max_tokens = "exact"
consumers = {{ count = {consumers}, zipf = 0.5 }}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload: its table beyond the head, how many requests a run has, and by how many
    consumers.
    """

    name: str
    table: str
    requests: int
    consumers: int


CASES = (
    Case(
        "chat",
        "rho = 0.7\n"
        "prompt = { lognormal = { median = 250, sigma = 0.8, max = 3_000 } }\n"
        "output = { lognormal = { median = 60, sigma = 0.6, max = 300 } }\n",
        400,
        8,
    ),
    Case(
        "talks",
        "rho = 0.6\n"
        "prompt = { lognormal = { median = 120, sigma = 0.7, max = 1_000 } }\n"
        "output = { lognormal = { median = 60, sigma = 0.5, max = 200 } }\n"
        "sessions = { turns = 3, think_s = 5 }\n"
        "prefixes = { count = 1, tokens = 256 }\n",
        500,
        8,
    ),
    Case(
        "bursts",
        "rho = 0.85\n"
        "prompt = { lognormal = { median = 700, sigma = 0.7, max = 6_000 } }\n"
        "output = { lognormal = { median = 25, sigma = 0.5, max = 100 } }\n"
        'arrivals = { kind = "gamma", cv = 1.5 }\n',
        300,
        8,
    ),
)
"""At 0.7 to 0.85 of what the fleet can do. Conversations are told as a share of what it can do with
caches that keep everything; with those that there are, 0.6 of that is three quarters.
"""

SHOWN = (
    *("ttft_s.p50", "ttft_s.p90", "ttft_s.p99", "e2e_s.p50", "e2e_s.p90", "e2e_s.p99"),
    *("tpot_ms.mean", "completion_tokens_per_s"),
)
QUICK_SHARE = 0.5
COMMAND_S_MAX = 3_600


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=5, add=_options)
    report = Report(
        "fidelity", "error of the lab, 8 simulated Macs of 4 chips, live and in the lab"
    )
    with tempfile.TemporaryDirectory(prefix="coster-fidelity-") as made:
        folder = Path(asked.own.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fleet.toml").write_text(FLEET)
        words = ("--engine", "simulated", "--fleet", str(folder / "fleet.toml"))
        with market(*words, "--model", MODEL) as running:
            running.await_macs(8)
            for case in CASES:
                share = asked.own.share or (QUICK_SHARE if asked.quick else 1.0)
                if asked.own.only in (None, case.name):
                    _case(case, folder, running, asked.rounds, share, report)
    report.show()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", help="keep both sides' folders here")
    parser.add_argument("--share", type=float, help="of each run's requests [default: 1]")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one workload")


def _case(
    case: Case, folder: Path, running: Market, rounds: int, share: float, report: Report
) -> None:
    """One workload, measured and then simulated with the same seeds."""
    requests = round(case.requests * share)
    head = HEAD.format(model=MODEL, name=case.name, requests=requests, consumers=case.consumers)
    (folder / f"{case.name}.toml").write_text(head + case.table)
    live, lab = folder / f"{case.name}-live", folder / f"{case.name}-lab"
    meter = CpuMeter(running)
    common = ("--data", str(running.data), "--accounts", str(case.consumers))
    _coster(
        folder, "loadgen", f"{case.name}.toml", *common, "--repeat", str(rounds), "--out", str(live)
    )
    used, passed_s = meter.read()
    _coster(folder, "sim", "run", f"{case.name}.toml", "--repeat", str(rounds), "--out", str(lab))
    found = calibrate(live, lab)
    errors = {error["name"]: error for error in found["errors"]}
    for name in SHOWN:
        error = errors[name]
        spread = Spread(*(100 * (error[key] or 0.0) for key in ("error", "low", "high")))
        report.row(f"{case.name}, {name}", spread, "%", "within 10 %, then 5 %")
    late = [
        folders.read_json(place / folders.SUMMARY)["generator"]["late_s"]["p99"]
        for place in folders.runs_in(live)
    ]
    report.row(f"{case.name}, generator late p99", Spread.of([1e3 * each for each in late]), "ms")
    report.row(f"{case.name}, cores the market used", sum(used.values()) / passed_s, "")


def _coster(folder: Path, *words: str) -> Any:
    """One command, as a user would type it; RuntimeError with what it said when it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "coster", *words, "--json"],
        cwd=folder,
        env=environment({"COSTER_API_KEY": ""}),
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"coster {' '.join(words)}: {done.stdout[-500:]}{done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
