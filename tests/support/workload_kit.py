"""Workloads from a few lines of TOML, and what statistics say of what was drawn."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence

import numpy as np

from market.types import ModelId
from simulator.records import Arrival
from simulator.setup.tables import Table, lines_of
from simulator.streams import Streams
from simulator.workloads.laws import FloatArray
from simulator.workloads.parsing import parse
from simulator.workloads.rows import Notes
from simulator.workloads.source import arrivals
from simulator.workloads.spec import Workload

MODELS = ("qwen3.5-7b", "gemma-4-12b")

PLAIN = """
[[workload]]
rate_per_s = 20
prompt = { exponential = { mean = 600 } }
output = { exponential = { mean = 150 } }
"""


def workloads_of(text: str, models: Sequence[str] = MODELS) -> tuple[Workload, ...]:
    """The workloads of a scenario's text."""
    table = Table(tomllib.loads(text), "lab.toml", (), lines_of(text))
    return parse(table.tables("workload"), [ModelId(model) for model in models])


def drawn(
    text: str,
    requests: int,
    seed: int = 1,
    models: Sequence[str] = MODELS,
    notes: Notes | None = None,
) -> list[Arrival]:
    """So many of their requests."""
    workloads = workloads_of(text, models)
    return list(arrivals(workloads, Streams(seed), requests=requests, notes=notes))


def ks_distance(values: FloatArray, cdf: Callable[[FloatArray], FloatArray]) -> float:
    """Kolmogorov and Smirnov's distance, in units of its 1 % bound: below 1 is as it should be."""
    values = np.sort(values)
    count = len(values)
    expected = cdf(values)
    steps = np.arange(count + 1) / count
    distance = max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    return float(distance * math.sqrt(count) / 1.63)


def dispersion(at_s: FloatArray, window_s: float) -> float:
    """The index of dispersion of counts: their variance over their mean; 1 is Poisson."""
    counts = np.bincount((at_s // window_s).astype(np.int64))[:-1]
    return float(counts.var() / counts.mean())
