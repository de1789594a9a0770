"""How far the simulation is from what was measured: the same load, side by side.

Two runs of the same shape, one from a live market and one from the lab, or several of each with
the same seeds. Of one pair, numbers have an interval by blocks, since neighbouring requests are
alike; of several, Student's over the pairs. Requests that have the same number and the same
lengths on both sides are compared one by one as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from market.errors import InvalidRequest
from simulator.results import folders
from simulator.results.alike import check_side, unlike
from simulator.results.columns import AnyArray, FloatArray, Requests
from simulator.results.metrics import tpot_ms
from simulator.results.parquet import read_requests
from simulator.results.summary import rounded
from simulator.runs.stats import CONFIDENCE, RESAMPLING_SEED, paired, t_interval

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


@dataclass(frozen=True, slots=True)
class Pair:
    """The answered requests of both sides after the warm-up of both, of one seed. `notes` has
    what else differs between them.
    """

    real: Requests
    simulated: Requests
    notes: tuple[str, ...] = ()


def calibrate(real: Path, simulated: Path) -> dict[str, Any]:
    """Both sides' numbers beside each other. Each is a run, or a folder of several.

    Raises InvalidRequest when there is too little, or nothing that belongs together: `real` must
    have been measured and `simulated` not, of the same models and workload.
    """
    pairs = pairs_of(real, simulated)
    errors = compared(pairs)
    result: dict[str, Any] = rounded(
        {
            "real": str(real),
            "simulated": str(simulated),
            "repetitions": len(pairs),
            "requests": [
                sum(len(pair.real) for pair in pairs),
                sum(len(pair.simulated) for pair in pairs),
            ],
            "notes": sorted({note for pair in pairs for note in pair.notes}),
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
                for m in matched(pairs)
            ],
        }
    )  # fmt: skip
    return result


def pairs_of(real: Path, simulated: Path) -> list[Pair]:
    """The runs of both sides by their seeds; one run of each belongs together in any case."""
    sides = [_by_seed(real, measured=True), _by_seed(simulated, measured=False)]
    if all(len(side) == 1 for side in sides):
        (one,), (other,) = (side.values() for side in sides)
        return [_pair(one, other)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    if len(shared) < max(map(len, sides)):
        missing = sorted(sides[0].keys() ^ sides[1].keys())
        raise InvalidRequest(
            f"{real} and {simulated} have not the same seeds: {missing[:10]} are on one side only. "
            "Give both the same --seed and --repeat.",
            "folder",
        )
    return [_pair(sides[0][seed], sides[1][seed]) for seed in shared]


def _by_seed(folder: Path, *, measured: bool) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for place in folders.runs_in(folder):
        manifest = folders.read_manifest(place)
        if not manifest["complete"]:
            raise InvalidRequest(
                f"{place} is not complete: it was interrupted, and a part of a load says little "
                "of the whole. Measure it again.",
                "folder",
            )
        check_side(place, manifest, measured=measured)
        if manifest["seed"] in found:
            raise InvalidRequest(
                f"{place} and {found[manifest['seed']]} have the same seed, so it is not known "
                "which belongs to the other side; give a folder of one policy's runs.",
                "folder",
            )
        found[manifest["seed"]] = place
    return found


def _pair(real: Path, simulated: Path) -> Pair:
    notes = tuple(unlike(real, simulated))
    sides, from_s = [], 0.0
    for folder in (real, simulated):
        requests = _answered(read_requests(folder / folders.REQUESTS))
        window = folders.read_json(folder / folders.SUMMARY).get("window") or {}
        from_s = max(from_s, float(window.get("from_s") or 0.0))
        sides.append(requests)
    cut = [side.where(side["at_s"] >= from_s) for side in sides]
    for folder, side in zip((real, simulated), cut, strict=True):
        if len(side) < LEAST:
            raise InvalidRequest(
                f"{folder} has {len(side)} answered requests after its warm-up; {LEAST} are "
                "needed to say anything.",
                "folder",
            )
    return Pair(cut[0], cut[1], notes)


def compared(pairs: Sequence[Pair]) -> list[Error]:
    """Percentiles and means of the times, and throughput."""
    found = []
    for column in TIMES:
        sides = [(_column(pair.real, column), _column(pair.simulated, column)) for pair in pairs]
        for name, share in SHARES:
            found.append(_error(f"{column}.{name}", sides, _quantile(share)))
        found.append(_error(f"{column}.mean", sides, _mean))
    rates = [(_tokens_per_s(pair.real), _tokens_per_s(pair.simulated)) for pair in pairs]
    found.append(_error("completion_tokens_per_s", rates, _mean))
    return found


def matched(pairs: Sequence[Pair]) -> list[Matched]:
    """Over requests that are the same on both sides; none where the loads differ."""
    alike = [_alike(pair) for pair in pairs]
    found = []
    for name in TIMES:
        one = np.concatenate(
            [_column_all(p.real, name)[at] for p, (at, _) in zip(pairs, alike, strict=True)]
        )
        other = np.concatenate(
            [_column_all(p.simulated, name)[at] for p, (_, at) in zip(pairs, alike, strict=True)]
        )
        if len(one) >= LEAST:
            found.append(_one_by_one(name, one, other))
    return found


def _alike(pair: Pair) -> tuple[AnyArray, AnyArray]:
    """Where the requests are that have the same number and lengths on both sides."""
    real, simulated = pair.real, pair.simulated
    _, at, there = np.intersect1d(
        real["number"], simulated["number"], assume_unique=True, return_indices=True
    )
    same = (real["prompt_tokens"][at] == simulated["prompt_tokens"][there]) & (
        real["output_tokens"][at] == simulated["output_tokens"][there]
    )
    return at[same], there[same]


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
    first, last = float(requests["at_s"].min()), float(requests["at_s"].max())
    edges = np.linspace(first, last if last > first else first + 1.0, 101)
    counts, _ = np.histogram(ends, bins=edges, weights=requests["said_tokens"])
    rates: FloatArray = counts / np.diff(edges)
    return rates


def _error(
    name: str, sides: Sequence[tuple[FloatArray, FloatArray]], statistic: Statistic
) -> Error:
    """Of one pair with an interval by blocks, of several with Student's over them."""
    if len(sides) == 1:
        return _error_by_blocks(name, *sides[0], statistic)
    ones = [statistic(one) for one, _ in sides]
    others = [statistic(other) for _, other in sides]
    real, simulated = float(np.mean(ones)), float(np.mean(others))
    off = t_interval(paired(others, ones)).over(real)
    low, high = (np.nan if end is None else end for end in (off.low, off.high))
    return Error(name, real, simulated, off.mean, low, high)


def _error_by_blocks(
    name: str, real: FloatArray, simulated: FloatArray, statistic: Statistic
) -> Error:
    one, other = statistic(real), statistic(simulated)
    random = np.random.Generator(np.random.PCG64(RESAMPLING_SEED))
    draws = []
    for _ in range(RESAMPLES):
        drawn = statistic(real[_blocks(len(real), random)])
        against = statistic(simulated[_blocks(len(simulated), random)])
        draws.append((against - drawn) / drawn if drawn else np.nan)
    known = np.array(draws)[np.isfinite(draws)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
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
