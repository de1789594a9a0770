"""Whether consumers who waited together were served alike, as the fair queue promises.

Between two consumers that both wait throughout, the service granted differs by at most twice
the largest cost of one request of theirs. Here it is counted from what happened, in true costs.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from market.routing.fair_queue import INPUT_COST, OUTPUT_COST
from simulator.results.columns import AnyArray, FloatArray, Requests

CONSUMERS_MAX = 8
"""Of each line the consumers that waited longest are compared, each with each."""

Stretch = tuple[float, float]


def worst_gap(requests: Requests) -> float | None:
    """The largest gap as a multiple of its bound; None where no two waited together.

    Up to 1 is promised for expected costs. True lengths differ from expected ones, and what they
    differ by is made up for only when a request has ended, so somewhat more can be seen here.
    """
    plain = (requests["attempts"] == 1) & (requests["said_tokens"] > 0)
    worst: float | None = None
    for model in requests.text("model").names:
        for line in requests.text("request_class").names:
            rows = requests.is_("model", model) & requests.is_("request_class", line) & plain
            if rows.any():
                found = _of_line(requests.where(rows))
                if found is not None:
                    worst = found if worst is None else max(worst, found)
    return worst


def _of_line(requests: Requests) -> float | None:
    """The largest gap among those who wait in one line."""
    cost = INPUT_COST * requests["prompt_tokens"] + OUTPUT_COST * requests["said_tokens"]
    granted_s = requests["at_s"] + requests["wait_s"]
    consumers = requests.text("consumer")
    waited = np.bincount(consumers.codes, requests["wait_s"], len(consumers.names))
    longest = [int(c) for c in np.argsort(-waited, kind="stable")[:CONSUMERS_MAX] if waited[c] > 0]
    rows = {consumer: np.flatnonzero(consumers.codes == consumer) for consumer in longest}
    stretches = {c: _waits(requests["at_s"][at], granted_s[at]) for c, at in rows.items()}
    worst: float | None = None
    for one, other in combinations(longest, 2):
        bound = 2.0 * float(max(cost[rows[one]].max(), cost[rows[other]].max()))
        for stretch in _both(stretches[one], stretches[other]):
            gap = _gap(granted_s, cost, rows[one], rows[other], stretch)
            worst = gap / bound if worst is None else max(worst, gap / bound)
    return worst


def _waits(at_s: FloatArray, granted_s: FloatArray) -> list[Stretch]:
    """When a consumer had anything in the queue at all."""
    stretches: list[Stretch] = []
    for start, end in sorted(zip(at_s.tolist(), granted_s.tolist(), strict=True)):
        if end <= start:
            continue
        if stretches and start < stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(stretches[-1][1], end))
        else:
            stretches.append((start, end))
    return stretches


def _both(one: list[Stretch], other: list[Stretch]) -> list[Stretch]:
    """When both had."""
    found: list[Stretch] = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if end > start:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def _gap(
    granted_s: FloatArray, cost: FloatArray, one: AnyArray, other: AnyArray, stretch: Stretch
) -> float:
    """By how much their services parted at most while both waited."""
    rows = np.concatenate((one, other))
    sign = np.concatenate((np.ones(len(one)), -np.ones(len(other))))
    inside = (granted_s[rows] > stretch[0]) & (granted_s[rows] < stretch[1])
    rows, sign = rows[inside], sign[inside]
    order = np.argsort(granted_s[rows], kind="stable")
    level = np.concatenate(([0.0], np.cumsum((sign * cost[rows])[order])))
    return float(level.max() - level.min())
