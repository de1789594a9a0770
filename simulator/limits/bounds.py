"""What no scheduler can beat, and where the simple ones stop being stable.

Every experiment says how far it is from these: a fluid linear program for throughput, the empty
fleet and one pooled preemptive server for latency. The capacity limits of round robin and of the
power of two choices are formulas, and known answers for the simulator.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from market.fleet_file import MacSpec
from market.hardware import memory_budget_bytes, profile_of
from market.types import ModelId
from simulator.limits.hindsight import JOBS_MAX, MACS_MAX, best_total_s
from simulator.limits.numerics import Program, solve
from simulator.limits.service import alone_s, shared_s
from simulator.results.columns import FloatArray, Requests
from simulator.workloads.demand import Demand

SRPT_REQUESTS_MAX = 200_000
"""The pooled server is an event loop of its own: a longer run is not compared with it."""


def may_hold(mac: MacSpec, model: ModelId) -> bool:
    """Whether this Mac may load the model and has room for it."""
    allowed = not mac.models or model in mac.models
    room = memory_budget_bytes(mac.hardware.memory_gb)
    return allowed and profile_of(model).weight_bytes <= room


def rates_of(macs: Sequence[MacSpec], demands: Sequence[Demand], slots: int) -> FloatArray:
    """Requests a second each Mac does of each demand at the best; 0 where it cannot hold it."""
    rates = np.zeros((len(macs), len(demands)))
    for at, demand in enumerate(demands):
        prompt = np.array([demand.prompt_tokens])
        unread = np.array([demand.unread_tokens])
        output = np.array([demand.output_tokens])
        for row, mac in enumerate(macs):
            if may_hold(mac, demand.model):
                chip = mac.hardware.chip
                seconds = shared_s(chip, demand.model, slots, unread, prompt, output)
                rates[row, at] = 1.0 / float(seconds[0])
    return rates


def fluid_capacity(macs: Sequence[MacSpec], mix: Sequence[Demand], slots: int) -> float:
    """The most requests a second that the fleet can do of this mix, as if work were a fluid.

    Rates of the mix count as shares. A linear program: each Mac divides its time among models,
    each model gets its share of the total. Loading is free in it and memory a question of yes
    or no, so no placement reaches more.
    """
    rates = rates_of(macs, mix, slots)
    total = sum(demand.rate for demand in mix)
    kinds = len(mix)
    columns = len(macs) * kinds + 1  # the last one is the throughput
    highest = np.append((rates > 0).astype(np.float64).ravel(), np.inf)
    time = [(row, row * kinds + at, 1.0) for row in range(len(macs)) for at in range(kinds)]
    flow = [
        (at, row * kinds + at, float(rates[row, at]))
        for row in range(len(macs))
        for at in range(kinds)
    ]
    flow += [(at, columns - 1, -demand.rate / total) for at, demand in enumerate(mix)]
    cost = np.zeros(columns)
    cost[-1] = -1.0
    program = Program(cost, highest, time, [1.0] * len(macs), flow, [0.0] * kinds)
    return float(-solve(program).value)


def fluid_served(macs: Sequence[MacSpec], demands: Sequence[Demand], slots: int) -> float:
    """Of all requests of these rates, the largest share that a fleet can serve."""
    rates = rates_of(macs, demands, slots)
    kinds = len(demands)
    cells = len(macs) * kinds
    highest = (rates > 0).astype(np.float64).ravel()
    rows = [(row, row * kinds + at, 1.0) for row in range(len(macs)) for at in range(kinds)]
    rows += [
        (len(macs) + at, row * kinds + at, float(rates[row, at]))
        for row in range(len(macs))
        for at in range(kinds)
    ]
    limits = [1.0] * len(macs) + [demand.rate for demand in demands]
    program = Program(-rates.ravel()[:cells], highest, rows, limits, [], [])
    return float(-solve(program).value) / sum(demand.rate for demand in demands)


def round_robin_limit(speeds: Sequence[float]) -> float:
    """The rate from which on round robin, or a uniform draw, drowns the slowest: n · min."""
    return len(speeds) * min(speeds)


def choices_limit(speeds: Sequence[float], choices: int = 2) -> float:
    """The rate from which on the shortest of `choices` uniformly drawn queues is not stable.

    Of the k slowest servers: whenever all drawn are among them, one of them gets the request, so
    its rate may not exceed theirs together (Hurtado-Lange and Maguluri, arXiv 2004.00538).
    """
    slowest = sorted(speeds)
    count = len(slowest)
    return min(
        sum(slowest[:k]) * comb(count, choices) / comb(k, choices)
        for k in range(min(choices, count), count + 1)
    )


@dataclass(frozen=True, slots=True)
class NoQueue:
    """Per request: the best that any Mac of the fleet could do, had it nothing else to do."""

    ttft_s: FloatArray
    e2e_s: FloatArray


def no_queue(macs: Sequence[MacSpec], requests: Requests, block_tokens: int) -> NoQueue:
    """Every prompt as cached as its blocks allow, on the fastest Mac that may hold its model."""
    ttft = np.full(len(requests), np.nan)
    e2e = np.full(len(requests), np.nan)
    models = requests.text("model")
    for name in models.names:
        rows = models.rows_of(name)
        if not rows.any():
            continue
        prompt, unread, output = _sizes(requests, rows, block_tokens)
        best: tuple[FloatArray, FloatArray] | None = None
        for chip in sorted({m.hardware.chip for m in macs if may_hold(m, ModelId(name))}):
            found = alone_s(chip, ModelId(name), unread, prompt, output)
            best = found if best is None else (
                np.minimum(best[0], found[0]), np.minimum(best[1], found[1])
            )  # fmt: skip
        if best is not None:
            ttft[rows], e2e[rows] = best
    return NoQueue(ttft, e2e)


def middle_ttft_s(macs: Sequence[MacSpec], requests: Requests) -> FloatArray:
    """To the first token with nothing cached, on the middle one, by speed, of the Macs that may
    hold the model: where half of them are free, one of those is no slower.
    """
    found = np.full(len(requests), np.nan)
    models = requests.text("model")
    for name in models.names:
        rows = models.rows_of(name)
        able = Counter(m.hardware.chip for m in macs if may_hold(m, ModelId(name)))
        if rows.any() and able:
            prompt, _, output = _sizes(requests, rows, 0)
            times = [alone_s(chip, ModelId(name), prompt, prompt, output)[0] for chip in able]
            found[rows] = _middle(np.stack(times), np.array(list(able.values())))
    return found


def _middle(values: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """The median of each column, were each row there as often as it counts.

    Rows are kinds of Macs: one for each Mac of a large fleet would need gigabytes.
    """
    order = np.argsort(values, axis=0, kind="stable")
    passed = np.cumsum(counts[order], axis=0)
    total = int(counts.sum())
    low, high = (
        np.take_along_axis(values, np.take_along_axis(order, at[np.newaxis], axis=0), axis=0)[0]
        for at in (np.argmax(passed > rank, axis=0) for rank in ((total - 1) // 2, total // 2))
    )
    middle: FloatArray = (low + high) / 2
    return middle


def _sizes(
    requests: Requests, rows: np.ndarray, block_tokens: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Prompt, the part of it that no cache can have, and output; in tokens."""
    prompt = requests["prompt_tokens"][rows].astype(np.float64)
    cached = requests["prefix_blocks"][rows].astype(np.float64) * block_tokens
    output = requests["output_tokens"][rows].astype(np.float64)
    return prompt, np.maximum(prompt - cached, 1.0), output


def pooled_work(
    macs: Sequence[MacSpec], requests: Requests, slots: int, block_tokens: int
) -> FloatArray:
    """Seconds each request would take of one server that is the whole fleet.

    Macs differ in what they are best at. A request's work is its size where all Macs do nothing
    else; a Mac counts with the most work per second it does of any request. No schedule does
    more work per second than all Macs at their best, so this server is never slower.
    """
    counts = Counter((mac.hardware.chip, mac.hardware.memory_gb, mac.models) for mac in macs)
    kinds = [(next(m for m in macs if key == _kind(m)), count) for key, count in counts.items()]
    speed = np.zeros((len(kinds), len(requests)))
    models = requests.text("model")
    for name in models.names:
        rows = models.rows_of(name)
        if not rows.any():
            continue
        prompt, unread, output = _sizes(requests, rows, block_tokens)
        for at, (mac, _) in enumerate(kinds):
            if may_hold(mac, ModelId(name)):
                chip = mac.hardware.chip
                seconds = shared_s(chip, ModelId(name), slots, unread, prompt, output)
                speed[at, rows] = 1.0 / seconds
    many = np.array([count for _, count in kinds], dtype=np.float64)
    with np.errstate(divide="ignore"):
        work = 1.0 / (many[:, None] * speed).sum(axis=0)
    at_best = (speed * np.where(np.isfinite(work), work, 0.0)).max(axis=1)
    size: FloatArray = work / float((many * at_best).sum())
    return size


def hindsight_mean_s(
    macs: Sequence[MacSpec], requests: Requests, slots: int, block_tokens: int
) -> float | None:
    """The least mean time that any schedule had; None where it is not a tiny case.

    Tiny is a dozen requests on three Macs that do one at a time.
    """
    if slots != 1 or not 0 < len(requests) <= JOBS_MAX or len(macs) > MACS_MAX:
        return None
    seconds = [[float("inf")] * len(requests) for _ in macs]
    models = requests.text("model")
    for name in models.names:
        rows = models.rows_of(name)
        prompt, unread, output = _sizes(requests, rows, block_tokens)
        for at, mac in enumerate(macs):
            if may_hold(mac, ModelId(name)):
                _, whole = alone_s(mac.hardware.chip, ModelId(name), unread, prompt, output)
                for row, value in zip(np.flatnonzero(rows), whole, strict=True):
                    seconds[at][int(row)] = float(value)
    return best_total_s(requests["at_s"].tolist(), seconds) / len(requests)


def _kind(mac: MacSpec) -> tuple[str, int, tuple[ModelId, ...]]:
    return mac.hardware.chip, mac.hardware.memory_gb, mac.models


def srpt_mean_s(at_s: FloatArray, size_s: FloatArray) -> float:
    """Mean time in one server that always works on what is soonest done: no order beats it."""
    order = np.argsort(at_s, kind="stable")
    waiting: list[float] = []
    now = total = 0.0
    arrivals = np.append(at_s[order], np.inf)
    sizes = size_s[order]
    spent = 0.0
    for number in range(len(sizes) + 1):
        until = float(arrivals[number])
        while waiting and now + waiting[0] <= until:
            now += heapq.heappop(waiting)
            total += now
        if waiting:
            left = waiting[0] - (until - now)
            heapq.heapreplace(waiting, left)
        now = until
        if number < len(sizes):
            heapq.heappush(waiting, float(sizes[number]))
            spent += until
    return (total - spent) / max(len(sizes), 1)
