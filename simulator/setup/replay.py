"""A scenario whose requests come from a recorded trace."""

from __future__ import annotations

import json
from pathlib import Path

from market.errors import InvalidRequest
from simulator.setup.scenario import REQUESTS_MAX, Scenario
from simulator.setup.scenario_files import of_config


def replayed(scenario: Scenario, trace: Path, speed: float, requests: int | None) -> Scenario:
    """The same fleet, models and limits; all requests from the trace, `speed` times as fast.

    Raises InvalidRequest when the file is not there.
    """
    if not trace.is_file():
        raise InvalidRequest(f"{trace} is not there, or is no file.", "trace")
    config = json.loads(scenario.config)
    config["workload"] = [{"kind": "trace", "file": str(trace.resolve()), "speed": speed}]
    run = config.setdefault("run", {})
    for key in ("duration_s", "warmup_s"):
        run.pop(key, None)
    run["requests"] = requests or REQUESTS_MAX
    run["name"] = f"{scenario.name}-replay"
    return of_config(config, str(trace))
