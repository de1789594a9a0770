# %% [markdown]
# # My own scorer against ours, on my own fleet
#
# A routing policy is one function: it sees what the router sees of each Mac, and returns a score
# per Mac, lower is better. What is tried here runs unchanged in the live market.
#
# Run this file as it is, or open it as a notebook (VS Code and Jupytext read `# %%` as cells). It
# needs `coster` and nothing else, and no network.

# %%
import numpy as np

from market.policy.registry import custom
from simulator.runs.experiment import compare, run
from simulator.setup.scenario_files import parse

# %% [markdown]
# ## My fleet, and who asks it
#
# Five Macs, two models, conversations that come back to what was said before. `rho` is the load
# as a share of what these Macs could do at best, so it stays the same whatever you change here.

# %%
SCENARIO = """
models = ["qwen3.5-7b", "gemma-4-12b"]

[run]
name = "my-fleet"
requests = 500
warmup_share = 0.1

[[fleet.macs]]
count = 1
chip = "M4 Max"
memory_gb = 64

[[fleet.macs]]
count = 2
chip = "M4 Pro"
memory_gb = 48

[[fleet.macs]]
count = 2
chip = "M2 Pro"
memory_gb = 32

[[workload]]
name = "chat"
rho = 0.35
arrivals = { kind = "gamma", cv = 1.3 }
prompt = { lognormal = { median = 200, sigma = 1.0, max = 4_000 } }
output = { table = "azure_2023_conv" }
sessions = { turns = 4, think_s = 20 }
consumers = { count = 12 }
"""
scenario = parse(SCENARIO, "my fleet")

# %% [markdown]
# ## A scorer
#
# `view.candidates` has a column for everything that is known of the Macs, `view.predicted` what
# this request would take on each (milliseconds), `view.ask` the request. The true length of the
# answer is nowhere: nobody knows it yet.
#
# Mine goes where the answer is done soonest, and pays half a second for each request that is
# there already, so that nobody is sent where it is crowded.


# %%
CROWDED_MS = 500.0


def soonest(view):
    """The predicted end of the answer, and a toll for company."""
    return view.predicted.total_ms + CROWDED_MS * view.candidates["in_flight"]


mine = custom("soonest", soonest)

# %% [markdown]
# One run, to see that it does something. In a notebook `once` alone on a line shows the report.

# %%
once = run(scenario, mine, seed=1, out="runs/soonest", replace=True)
first_token = once.requests["ttft_s"]
print(f"first token: half within {np.nanmedian(first_token):.2f} s")
for alarm in once.summary["alarms"]:
    print(f"to look at: {alarm['name']}, {alarm['value']:.3g} {alarm['words']}")

# %% [markdown]
# ## Is it better?
#
# One run says nothing about that. Each policy meets the same three seeds, so the same requests;
# differences are taken within pairs. Ten repetitions are a better habit than three.

# %%
POLICIES = ["coster", "least_weighted", mine]
result = compare(scenario, POLICIES, repeat=3, out="runs/soonest-compared", replace=True)

for metric in ("ttft_s.p99", "e2e_s.mean", "e2e_s.p99", "bounds.e2e_over_no_queue"):
    print(metric)
    for policy in result.summary["policies"]:
        level = result.level(policy, metric)
        line = f"  {policy:16}{level['mean']:8.3f}  [{level['low']:.3f}, {level['high']:.3f}]"
        if policy != "coster":
            difference = result.difference(policy, metric)
            share = difference["relative"]
            line += f"  {100 * share['mean']:+6.1f} % [{100 * share['low']:+.1f}, "
            line += f"{100 * share['high']:+.1f}]: {difference['verdict']}"
        print(line)

# %% [markdown]
# *Better* and *worse* are said only where the interval leaves out zero. `bounds.e2e_over_no_queue`
# is how many times as long it takes as with every Mac empty: what nobody can beat is 1.
#
# Now change `CROWDED_MS`, or the fleet, and run it again. All of it, with plots:

# %%
print(f"open {result.folder / 'report.html'}")
