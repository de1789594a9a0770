# %% [markdown]
# # What if: twice the Macs, or faster ones?
#
# Six Macs are too slow at the busiest hour. Is it better to find six more like them, or to
# replace them by six faster ones? And how much of what is slow could *any* scheduler help?
#
# Run this file as it is, or open it as a notebook (VS Code and Jupytext read `# %%` as cells).

# %%
from collections.abc import Mapping

import numpy as np

from simulator.runs.executors import InProcess
from simulator.runs.experiment import sweep
from simulator.setup.scenario_files import parse

# %% [markdown]
# ## The same hour for three fleets
#
# The rate is given in requests a second, not as `rho`: it must not grow with the fleet.

# %%
SCENARIO = """
models = ["qwen3.5-7b", "gemma-4-12b"]

[run]
name = "what-if"
requests = 350
warmup_share = 0.1

[[fleet.macs]]
count = 6
chip = "M2 Pro"
memory_gb = 32

[[workload]]
name = "chat"
rate_per_s = 0.9
arrivals = { kind = "gamma", cv = 1.5 }
prompt = { lognormal = { median = 400, sigma = 0.9, max = 4_000 } }
output = { table = "azure_2023_conv" }
models = { "qwen3.5-7b" = 0.7, "gemma-4-12b" = 0.3 }
consumers = { count = 20 }
"""
FLEETS = {
    "six M2 Pro": "[{ chip = 'M2 Pro', memory_gb = 32, count = 6 }]",
    "twelve M2 Pro": "[{ chip = 'M2 Pro', memory_gb = 32, count = 12 }]",
    "six M4 Pro": "[{ chip = 'M4 Pro', memory_gb = 48, count = 6 }]",
}

# %% [markdown]
# A sweep runs every value of a setting with the same seeds. (`InProcess` keeps it in this
# process, which is quickest for so few and short runs; left out, a sweep takes all cores, from a
# script as from a notebook.)

# %%
swept = sweep(
    parse(SCENARIO, "what if"),
    {"fleet.macs": list(FLEETS.values())},
    repeat=3,
    out="runs/what-if",
    replace=True,
    executor=InProcess(),
)


def shown(point: int, metric: str, scale: float = 1.0) -> str:
    """A number with half of its interval."""
    found: Mapping[str, float] = swept.level("coster", metric, point)
    half = (found["high"] - found["low"]) / 2
    return f"{found['mean'] * scale:.3g} ± {half * scale:.2g}"


ROWS = {
    "first token, p50 (s)": ("ttft_s.p50", 1.0),
    "first token, p99 (s)": ("ttft_s.p99", 1.0),
    "whole answer, mean (s)": ("e2e_s.mean", 1.0),
    "kept the promise (%)": ("goodput.attainment", 100.0),
    "a Mac is busy (%)": ("machines.utilisation_mean", 100.0),
    "a Mac earns ($/h)": ("machines.earned_per_hour_usd", 1.0),
}
print(f"{'':26}" + "".join(f"{name:>18}" for name in FLEETS))
for label, (metric, scale) in ROWS.items():
    cells = (shown(point, metric, scale) for point in range(len(FLEETS)))
    print(f"{label:26}" + "".join(f"{cell:>18}" for cell in cells))

# %% [markdown]
# ## How much of it is the scheduler's?
#
# Three bounds, for each fleet: what the Macs can do at best of this mix (a linear program), what
# every request would take with all Macs empty, and what one server as fast as all of them would
# take that always works on what is soonest done. A mean that is near the second has nothing left
# to gain by scheduling: only by faster Macs.

# %%
BOUNDS = {
    "load, of what is possible (%)": ("bounds.load", 100.0),
    "whole answer / empty fleet": ("bounds.e2e_over_no_queue", 1.0),
    "whole answer / one pooled server": ("bounds.e2e_over_srpt", 1.0),
}


def each_run(point: int, metric: str) -> list[float]:
    """A number of the summaries of all repetitions."""
    part, _, key = metric.partition(".")
    return [result.summary[part][key] for result in swept.runs("coster", point)]


print(f"{'':34}" + "".join(f"{name:>18}" for name in FLEETS))
for label, (metric, scale) in BOUNDS.items():
    cells = (f"{np.mean(each_run(point, metric)) * scale:.3g}" for point in range(len(FLEETS)))
    print(f"{label:34}" + "".join(f"{cell:>18}" for cell in cells))

# %% [markdown]
# ## Regret, decision by decision
#
# How much worse was the chosen Mac's score than the best one's? Ours is in milliseconds, and it
# gives some away on purpose: among Macs that are as good as equal it takes the one with less to
# do, and now and then it tries one of which little is known.

# %%
for point, name in enumerate(FLEETS):
    regret_ms = np.concatenate([one.requests["regret_ms"] for one in swept.runs("coster", point)])
    print(
        f"{name:16} regret: mean {regret_ms.mean():.1f} ms, p99 {np.quantile(regret_ms, 0.99):.0f} "
        f"ms, none in {100 * (regret_ms == 0).mean():.0f} % of the decisions"
    )

# %%
print(f"open {swept.folder / 'report.html'}")
