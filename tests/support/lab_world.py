"""Two worlds for the tests of the lab: the real one under plain Poisson arrivals, and a sketch.

The sketch is no market: each request takes an exponential time on the Mac that the policy's name
stands for. It is quick, and as reproducible as the real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from market.catalogue import Catalogue
from market.policy.registry import Policy
from simulator.records import Arrival, Ended, MacUsed
from simulator.setup.scenario import Scenario
from simulator.workloads.given import Given
from simulator.world.run import Setting, Sink, Totals, World, seed_of

SCENARIO = """
models = ["qwen3.5-7b", "qwen3.5-14b"]
policy = "coster"

[run]
name = "small"
about = "Ten Macs of four chips, two models."
requests = 400
warmup_share = 0.1
seed = 7

[[fleet.macs]]
count = 2
chip = "M4 Max"

[[fleet.macs]]
count = 3
chip = "M3 Pro"

[[fleet.macs]]
count = 3
chip = "M2 Pro"
ask_pct = 80

[[fleet.macs]]
count = 2
chip = "M1"

[[workload]]
rate_per_s = 1.0
prompt = { exponential = { mean = 600 } }
output = { exponential = { mean = 120 } }
consumers = { count = 6 }
"""


def arrivals(scenario: Scenario, seed: int) -> Iterator[Arrival]:
    """Poisson arrivals of geometric lengths, models and consumers drawn evenly."""
    workload = json.loads(scenario.config)["workload"][0]
    prompts, outputs = (workload[key]["exponential"]["mean"] for key in ("prompt", "output"))
    consumers = workload["consumers"]["count"]
    random = np.random.Generator(np.random.PCG64(seed_of(seed, "arrivals")))
    at_s = 0.0
    number = 0
    while scenario.requests is None or number < scenario.requests:
        at_s += float(random.exponential(1.0 / workload["rate_per_s"]))
        if scenario.duration_s is not None and at_s > scenario.duration_s:
            return
        output = int(random.geometric(1.0 / outputs))
        yield Arrival(
            number=number,
            at_s=at_s,
            consumer=f"consumer_{int(random.integers(consumers))}",
            model=scenario.models[int(random.integers(len(scenario.models)))],
            prompt_tokens=int(random.geometric(1.0 / prompts)),
            output_tokens=output,
            max_tokens=max(output, 1_024),
            kind="poisson",
        )
        number += 1


def simulate(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """The real world."""
    setting = Setting(
        scenario.macs,
        scenario.models,
        Catalogue(),
        scenario.slots,
        scenario.market.platform_fee_bps,
        scenario.faults,
    )
    return World(setting, policy, seed, sink).run(Given(arrivals(scenario, seed)))


SLOWNESS = {"coster": 1.0, "least_weighted": 1.2, "random": 3.0, "always_busiest": 30.0}
"""How many times as long everything takes; what is told apart must come out in this order."""


def sketch(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """Rows that look like a market's, in a moment."""
    random = np.random.Generator(np.random.PCG64(seed_of(seed, "service")))
    macs = [
        MacUsed(spec.name, spec.hardware.chip, spec.hardware.memory_gb, spec.ask_pct)
        for spec in scenario.macs
    ]
    slow = SLOWNESS.get(policy.name, 1.0)
    end_s = 0.0
    for arrival in arrivals(scenario, seed):
        first, rest, wait = (float(x) for x in random.exponential((0.2, 2.0, 0.05)))
        mac = int(random.integers(len(macs)))
        ended = Ended(
            arrival, "ok", "", wait * slow, (wait + first) * slow, (wait + first + rest) * slow,
            first * slow, arrival.output_tokens, 0, 1, 0, False, (mac,),
            arrival.output_tokens * 60, arrival.output_tokens * 57, arrival.output_tokens * 3,
        )  # fmt: skip
        macs[mac].jobs += 1
        macs[mac].busy_s += rest
        macs[mac].completion_tokens += arrival.output_tokens
        macs[mac].earned_nano += ended.provider_nano
        end_s = max(end_s, arrival.at_s + (ended.e2e_s or 0.0))
        sink.ended(ended)
    for used in macs:
        used.here_s = end_s
        sink.used(used)
    return Totals(requests=scenario.requests or 0, simulated_s=end_s)


def broken(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """A world that comes to an end in the middle."""
    for number, arrival in enumerate(arrivals(scenario, seed)):
        if number == 50:
            raise KeyboardInterrupt
        sink.ended(Ended(arrival, "ok", "", 0.0, 0.1, 0.2))
    return Totals()
