"""The best schedule there was, knowing everything: for a dozen requests on three Macs.

One request at a time per Mac, not interrupted. A dynamic program over sets of requests, exact:
an integer program gives the same optimum with a big constant in it, and slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.errors import InvalidRequest

JOBS_MAX = 12
MACS_MAX = 3
_Label = tuple[float, float]


def best_total_s(at_s: Sequence[float], seconds: Sequence[Sequence[float]]) -> float:
    """The least sum of times from arrival to end.

    `seconds[i][j]` is how long Mac i takes for request j; infinity where it cannot.
    """
    jobs, macs = len(at_s), len(seconds)
    if not 0 < jobs <= JOBS_MAX or not 0 < macs <= MACS_MAX:
        raise InvalidRequest(
            f"The best schedule is searched for up to {JOBS_MAX} requests on up to {MACS_MAX} "
            f"Macs, not {jobs} on {macs}."
        )
    best = _alone(at_s, seconds[0])
    for times in seconds[1:]:
        best = _joined(best, _alone(at_s, times))
    return best[-1]


def _alone(at_s: Sequence[float], times: Sequence[float]) -> list[float]:
    """For each set of requests, a bit each, the least total when one Mac does them all."""
    jobs = len(at_s)
    labels: list[list[_Label]] = [[] for _ in range(1 << jobs)]
    labels[0] = [(0.0, 0.0)]
    for chosen in range(1 << jobs):
        labels[chosen] = _undominated(labels[chosen])
        for free_s, total_s in labels[chosen]:
            for job in range(jobs):
                if not chosen >> job & 1 and times[job] != float("inf"):
                    end_s = max(free_s, at_s[job]) + times[job]
                    labels[chosen | 1 << job].append((end_s, total_s + end_s - at_s[job]))
    return [min((total for _, total in each), default=float("inf")) for each in labels]


def _undominated(labels: list[_Label]) -> list[_Label]:
    """Those of which none is free as early for as little."""
    kept: list[_Label] = []
    for free_s, total_s in sorted(labels):
        if not kept or total_s < kept[-1][1]:
            kept.append((free_s, total_s))
    return kept


def _joined(one: list[float], other: list[float]) -> list[float]:
    """The least total for each set when it is split between two."""
    best = []
    for chosen in range(len(one)):
        least, part = one[chosen] + other[0], chosen
        while part:
            part = (part - 1) & chosen
            least = min(least, one[part] + other[chosen ^ part])
        best.append(least)
    return best
