"""The part of a run that counts: what came before the market had settled is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.results.columns import BoolArray, Requests
from simulator.runs.stats import mser5
from simulator.setup.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds of the run. Requests count that arrived within it, whenever they ended.

    `by` says where its beginning comes from: "warmup_s", "warmup_share" or "mser5".
    """

    from_s: float
    until_s: float
    by: str

    @property
    def length_s(self) -> float:
        return max(self.until_s - self.from_s, 1e-9)

    def rows(self, requests: Requests) -> BoolArray:
        at_s = requests["at_s"]
        inside: BoolArray = (at_s >= self.from_s) & (at_s <= self.until_s)
        return inside

    def as_json(self) -> dict[str, object]:
        return {"from_s": self.from_s, "until_s": self.until_s, "by": self.by}


def window_of(scenario: Scenario, requests: Requests) -> Window:
    """From the end of the warm-up to the last arrival."""
    at_s = requests["at_s"]
    until_s = float(at_s.max()) if len(at_s) else 0.0
    if scenario.duration_s is not None:
        until_s = max(until_s, scenario.duration_s) if scenario.requests is None else until_s
    if scenario.warmup_s is not None:
        return Window(min(scenario.warmup_s, until_s), until_s, "warmup_s")
    if scenario.warmup_share is not None:
        return Window(scenario.warmup_share * until_s, until_s, "warmup_share")
    ended = np.flatnonzero(requests.is_("status", "ok"))
    order = ended[np.argsort(requests["number"][ended], kind="stable")]
    cut = mser5(requests["e2e_s"][order])
    from_s = float(at_s[order[cut]]) if cut else 0.0
    return Window(from_s, until_s, "mser5")
