"""Every policy in every scenario of the lab, with the distance to the bounds.

All policies have the same queue, filters and placement, and the same seeds: repetition r meets the
same requests and faults under each of them, so differences are taken within pairs. A time of the
lab is virtual, so this machine's speed is in none of the numbers. The ablations are ours without
one term, and are compared with ours.

`--requests` of a run and `--repeat` say how long it takes; `--out` keeps the folders, and the
same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import read_options
from market.policy.registry import ORACLE, POLICIES
from market.policy.scorers import SCORERS
from simulator.runs.experiment import compare
from simulator.runs.stats import paired, t_interval

SCENARIOS = (
    "heterogeneous",
    "multi_model",
    "shared_prefixes",
    "churn",
    "bursts",
    "price_sensitive",
    "overload",
)
YARDSTICK = "least_weighted"
OURS = "coster"
WRONG = "always_busiest"
SPAN, WARM_UP = 0.4, 0.08
"""Seconds of *overload* for each request of the others: about four arrive in one."""
COLUMNS = ("E2E mean", "E2E", "TTFT p99", "in SLO", "lost", "× empty fleet", "× pooled SRPT")


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], add=_flags)
    own = asked.own
    requests, repeat = (800, 2) if asked.quick else (own.requests, own.repeat)
    with tempfile.TemporaryDirectory() as spare:
        for scenario in own.scenarios.split(","):
            out = Path(own.out or spare) / scenario
            point = _compared(scenario, own.policies.split(","), requests, repeat, out)
            print(f"\n{scenario}: {repeat} repetitions")
            print("\n".join(table(point)), flush=True)


def _flags(parser: argparse.ArgumentParser) -> None:
    baselines = [name for name in POLICIES if name not in (YARDSTICK, OURS, WRONG)]
    ablations = [f"{OURS}-{term}" for term in SCORERS]
    everything = ",".join([YARDSTICK, OURS, *baselines, ORACLE, *ablations])
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--policies", default=everything, help="the first is the yardstick")
    parser.add_argument("--requests", type=int, default=3_000, help="of a run [default: 3000]")
    parser.add_argument("--repeat", type=int, default=10, help="seeds [default: 10]")
    parser.add_argument("--out", help="keep the folders here, and go on there")


def _compared(
    scenario: str, policies: Sequence[str], requests: int, repeat: int, out: Path
) -> dict[str, Any]:
    settings = {"run.requests": str(requests)}
    if scenario == "overload":  # it runs for a time: what is refused is soon told
        settings = {"run.duration_s": str(requests * SPAN), "run.warmup_s": str(requests * WARM_UP)}
    compare(scenario, policies, repeat, out, settings=settings, resume=out.is_dir())
    point: dict[str, Any] = json.loads((out / "summary.json").read_text("utf-8"))["points"][0]
    return point


def table(point: dict[str, Any]) -> list[str]:
    """A table in Markdown: baselines beside the yardstick, ablations beside ours."""
    policies: dict[str, Any] = point["policies"]
    lines = ["| policy | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, numbers in policies.items():
        base = policies[OURS if name.startswith(f"{OURS}-") else YARDSTICK]
        lost = [
            refused + failed
            for refused, failed in zip(
                numbers["requests.refused_share"]["values"],
                numbers["requests.failed_share"]["values"],
                strict=True,
            )
        ]
        cells = (
            f"{numbers['e2e_s.mean']['mean']:.2f} s",
            "–" if numbers is base else _change(numbers, base, "e2e_s.mean"),
            "–" if numbers is base else _change(numbers, base, "ttft_s.p99"),
            f"{100 * numbers['goodput.attainment']['mean']:.1f} %",
            f"{100 * sum(lost) / len(lost):.1f} %",
            _level(numbers, "bounds.e2e_over_no_queue"),
            _level(numbers, "bounds.e2e_over_srpt"),
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _change(ours: dict[str, Any], base: dict[str, Any], figure: str) -> str:
    """The mean difference of pairs as a share of the yardstick's mean, ± its 95 % interval."""
    theirs = [value for value in base[figure]["values"] if math.isfinite(value)]
    pairs = paired(ours[figure]["values"], base[figure]["values"])
    share = t_interval(pairs).over(sum(theirs) / len(theirs))
    half = "" if share.half is None else f" ± {100 * share.half:.1f}"
    return f"{100 * share.mean:+.1f}{half} %"


def _level(numbers: dict[str, Any], figure: str) -> str:
    found = numbers.get(figure)
    return "–" if found is None else f"{found['mean']:.2f}"


if __name__ == "__main__":
    main()
