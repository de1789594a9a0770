"""A scenario in which everything is on that could make two runs differ, under every policy.

Run as a module it writes a folder per policy; a test runs it twice, under other circumstances.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from market.policy.registry import ORACLE, POLICIES
from simulator.runs.executors import Executor, InProcess, LocalProcesses
from simulator.runs.tasks import Task
from simulator.setup.scenario_files import parse

SCENARIO = """
models = ["qwen3.5-7b", "gemma-4-12b", "qwen3.5-14b"]

[run]
name = "everything"
requests = 25
warmup_share = 0.1
seed = 3

[fleet]
slots = 2

[[fleet.macs]]
count = 2
chip = "M4 Max"
memory_gb = 48

[[fleet.macs]]
count = 3
chip = "M3 Pro"
memory_gb = 18
ask_pct = 83

[[fleet.macs]]
count = 2
chip = "M2 Pro"
memory_gb = 16

[[workload]]
name = "chat"
rate_per_s = 0.7
arrivals = { kind = "gamma", cv = 2.0 }
sessions = { turns = 3, think_s = 5, closed = true }
prefixes = { count = 2, tokens = 600 }
consumers = { count = 5, zipf = 1.2, budget_usd = 0.001, length_sigma = 0.5 }
drift = { every_s = 60, share = 0.5 }
prompt = { table = "azure_2023_conv" }
output = { table = "azure_2023_conv" }
preferences = { sort = "price", max_price_pct = [70, 100], share = 0.5 }

[[workload]]
name = "people"
users = { count = 6, think_s = 4 }
prompt = { lognormal = { median = 200, sigma = 1.0, max = 4_000 } }
output = { exponential = { mean = 80, max = 1_000 } }
consumers = { count = 3, budget_usd = 0.004 }
preferences = { preferred_max_latency_ms = 2_000, share = 0.5 }

[[workload]]
name = "batch"
rho = 0.1
arrivals = { kind = "mmpp", on_s = 20, off_s = 20, ratio = 5 }
prompt = { table = "arxiv_summarisation" }
output = { table = "arxiv_summarisation" }
class = "batch"
deadline_s = 200

[faults]
crash_per_hour = 20
hang_per_hour = 5
hang_s = 15
slow_per_hour = 20
owner_returns_per_hour = 10
owner_minutes = 1
partition_per_hour = 10
correlated_per_hour = 10
lying_share = 0.3
stale_beats_s = 1.0

[placement]
every_s = 10
residency_s = 20
swaps_per_hour = 60

[market]
platform_fee_bps = 333
"""

ALL = (*POLICIES, ORACLE, "coster-price")
LONGER = {"run.requests": "160"}
"""Of the market's own policy, so that all that is on comes to pass; it has a page, too."""


def tasks(folder: Path) -> list[Task]:
    """A run under each policy."""
    return [
        Task(
            parse(SCENARIO, "everything.toml", settings=LONGER if name == "coster" else {}).config,
            name,
            seed=3,
            folder=folder / name,
            report=name == "coster",
        )
        for name in ALL
    ]


def main(words: Sequence[str]) -> None:
    """Into this folder, with this many processes."""
    executor: Executor = InProcess() if words[1] == "1" else LocalProcesses(int(words[1]))
    for _ in executor.run(tasks(Path(words[0]))):
        pass


if __name__ == "__main__":
    main(sys.argv[1:])
