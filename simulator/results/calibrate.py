"""How far the simulation is from what was measured: the same load, side by side.

Two folders of the same shape, one from a live market and one from the lab. Percentiles are
compared with an interval by blocks, since neighbouring requests are alike; requests that have
the same number and the same lengths on both sides are compared one by one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from market.errors import InvalidRequest
from simulator.results import folders
from simulator.results.columns import AnyArray, FloatArray, Requests
from simulator.results.metrics import tpot_ms
from simulator.results.parquet import read_requests
from simulator.results.summary import rounded
from simulator.runs.stats import CONFIDENCE, RESAMPLING_SEED

TOLERANCE: Final = 0.10
"""Of a percentile or a throughput: within it counts as calibrated."""

RESAMPLES: Final = 400
LEAST: Final = 30
SHARES: Final[tuple[tuple[str, float], ...]] = (
    ("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99),
)  # fmt: skip
TIMES: Final = ("ttft_s", "tpot_ms", "e2e_s")

Statistic = Callable[[FloatArray], float]


@dataclass(frozen=True, slots=True)
class Error:
    """One number on both sides. `error` is (simulated - real) / real, `low` to `high` where it
    lies with 95 % confidence.
    """

    name: str
    real: float
    simulated: float
    error: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        return abs(self.error) <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Matched:
    """Request by request: mean absolute and mean relative error, and how they go together."""

    name: str
    count: int
    mape: float
    bias: float
    pearson: float | None


def calibrate(real: Path, simulated: Path) -> dict[str, Any]:
    """Both folders' numbers side by side. Raises InvalidRequest when there is too little."""
    folders.read_manifest(real)
    folders.read_manifest(simulated)
    sides = [_answered(read_requests(folder / folders.REQUESTS)) for folder in (real, simulated)]
    for folder, side in zip((real, simulated), sides, strict=True):
        if len(side) < LEAST:
            raise InvalidRequest(
                f"{folder} has {len(side)} answered requests; {LEAST} are needed to say anything.",
                "folder",
            )
    errors = compared(*sides)
    result: dict[str, Any] = rounded(
        {
            "real": str(real),
            "simulated": str(simulated),
            "requests": [len(side) for side in sides],
            "tolerance": TOLERANCE,
            "calibrated": all(each.within for each in errors),
            "errors": [
                {
                    "name": e.name, "real": e.real, "simulated": e.simulated, "error": e.error,
                    "low": e.low, "high": e.high, "within": e.within,
                }
                for e in errors
            ],
            "matched": [
                {"name": m.name, "count": m.count, "mape": m.mape, "bias": m.bias,
                 "pearson": m.pearson}
                for m in matched(*sides)
            ],
        }
    )  # fmt: skip
    return result


def compared(real: Requests, simulated: Requests) -> list[Error]:
    """Percentiles and means of the times, and throughput."""
    found = []
    for column in TIMES:
        one, other = _column(real, column), _column(simulated, column)
        for name, share in SHARES:
            found.append(_error(f"{column}.{name}", one, other, _quantile(share)))
        found.append(_error(f"{column}.mean", one, other, _mean))
    rates = [_tokens_per_s(side) for side in (real, simulated)]
    found.append(_error("completion_tokens_per_s", rates[0], rates[1], _mean))
    return found


def matched(real: Requests, simulated: Requests) -> list[Matched]:
    """Over requests that are the same on both sides; none where the loads differ."""
    _, at, there = np.intersect1d(
        real["number"], simulated["number"], assume_unique=True, return_indices=True
    )
    alike = (real["prompt_tokens"][at] == simulated["prompt_tokens"][there]) & (
        real["output_tokens"][at] == simulated["output_tokens"][there]
    )
    at, there = at[alike], there[alike]
    return [
        _one_by_one(name, _column_all(real, name)[at], _column_all(simulated, name)[there])
        for name in TIMES
        if len(at) >= LEAST
    ]


def _one_by_one(name: str, real: FloatArray, simulated: FloatArray) -> Matched:
    known = np.isfinite(real) & np.isfinite(simulated) & (real > 0)
    one, other = real[known], simulated[known]
    error = (other - one) / one
    varied = len(one) > 1 and one.std() > 0 and other.std() > 0
    return Matched(
        name=name,
        count=len(one),
        mape=float(np.abs(error).mean()) if len(one) else float("nan"),
        bias=float(error.mean()) if len(one) else float("nan"),
        pearson=float(np.corrcoef(one, other)[0, 1]) if varied else None,
    )


def _answered(requests: Requests) -> Requests:
    return requests.where(requests.is_("status", "ok"))


def _column_all(requests: Requests, name: str) -> FloatArray:
    values: FloatArray = tpot_ms(requests) if name == "tpot_ms" else requests[name]
    return values


def _column(requests: Requests, name: str) -> FloatArray:
    """In order of arrival, without what is unknown."""
    values = _column_all(requests, name)[np.argsort(requests["at_s"], kind="stable")]
    return values[np.isfinite(values)]


def _tokens_per_s(requests: Requests) -> FloatArray:
    """Tokens a second, counted where they ended, in a hundred parts of the run."""
    ends = requests["at_s"] + requests["e2e_s"]
    edges = np.linspace(0.0, float(requests["at_s"].max()) or 1.0, 101)
    counts, _ = np.histogram(ends, bins=edges, weights=requests["said_tokens"])
    rates: FloatArray = counts / np.diff(edges)
    return rates


def _error(name: str, real: FloatArray, simulated: FloatArray, statistic: Statistic) -> Error:
    one, other = statistic(real), statistic(simulated)
    random = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    draws = []
    for _ in range(RESAMPLES):
        drawn = statistic(real[_blocks(len(real), random)])
        against = statistic(simulated[_blocks(len(simulated), random)])
        draws.append((against - drawn) / drawn if drawn else np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Error(name, one, other, (other - one) / one if one else np.nan, float(low), float(high))


def _blocks(count: int, random: np.random.Generator) -> AnyArray:
    """Positions of a resample by blocks of about the square root, which keeps neighbours."""
    size = max(int(count**0.5), 1)
    starts = random.integers(0, count, size=-(-count // size))
    return ((starts[:, None] + np.arange(size)[None, :]).ravel() % count)[:count]


def _mean(values: FloatArray) -> float:
    return float(values.mean())


def _quantile(share: float) -> Statistic:
    return lambda values: float(np.quantile(values, share))


def worst_of(errors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The number that is farthest off."""
    return max(errors, key=lambda each: abs(each["error"] or 0.0))
