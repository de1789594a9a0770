"""Worlds of which queueing theory knows the answer, and what it says of them.

A Mac with one slot is a server: a request holds it from its grant to its last token. How long
that is follows from the hardware tables, so the tables are read backwards: a service that theory
has drawn becomes the number of tokens that takes as long, to within half a decode step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, inf

import numpy as np

from market.catalogue import Catalogue
from market.fleet_file import MacSpec
from market.hardware import chip_named, hardware_of, prefill_ms, profile_of, step_ms
from market.policy.registry import Policy, policy_named
from market.settings import PlacementSettings
from market.types import ModelId
from simulator.limits.numerics import t_quantile
from simulator.records import Arrival, Ended, MacUsed
from simulator.results.columns import FloatArray, Requests
from simulator.runs.stats import BATCHES
from simulator.workloads.given import Given
from simulator.world.door import HOP_S
from simulator.world.run import START_S, Setting, Totals, World

CHIP = "M3 Ultra"
MODEL = ModelId("qwen3.5-7b")
"""A server: a decode step is 10 ms, and the context that it is for hardly counts."""

SHARED = ModelId("mlx-community/gemma-4-26b-a4b-it-8bit")
"""A shared processor: of a mixture more is read the more are answered, and contexts are small."""

TOKENS_MAX = 30_000


class Rows:
    """Keeps what a world tells."""

    def __init__(self) -> None:
        self.ended_ones: list[Ended] = []
        self.macs: list[MacUsed] = []

    def ended(self, ended: Ended) -> None:
        self.ended_ones.append(ended)

    def used(self, used: MacUsed) -> None:
        self.macs.append(used)

    @property
    def requests(self) -> Requests:
        """In the order of their arrival."""
        return Requests.of(sorted(self.ended_ones, key=lambda ended: ended.arrival.number))


def world(rows: Rows, macs: int, slots: int, policy: str | Policy, model: ModelId) -> World:
    """Equal Macs that have the model from the beginning, and that nobody moves."""
    hardware = hardware_of(CHIP)
    setting = Setting(
        macs=tuple(MacSpec(f"mac-{number}", hardware) for number in range(macs)),
        models=(model,),
        catalogue=Catalogue(),
        slots=slots,
        placement=PlacementSettings(enabled=False),
    )
    chosen = policy_named(policy) if isinstance(policy, str) else policy
    return World(setting, chosen, 1, rows)


def asked(at_s: FloatArray, tokens: Sequence[int], model: ModelId) -> Given:
    """Requests of one prompt token. Batch ones: those may wait for minutes and are not hedged."""
    return Given(
        Arrival(number, float(t), "c", model, 1, int(n), int(n), "batch")
        for number, (t, n) in enumerate(zip(at_s, tokens, strict=True))
    )


def play(
    at_s: FloatArray,
    tokens: Sequence[int],
    *,
    macs: int,
    slots: int,
    policy: str | Policy = "least_request",
    model: ModelId = MODEL,
    prepare: Callable[[World], None] = lambda world: None,
    whole: bool = True,
) -> tuple[Requests, Totals]:
    """Everything that is asked, at the first try; to its end if it is `whole`."""
    rows = Rows()
    made = world(rows, macs, slots, policy, model)
    prepare(made)
    totals = made.run(asked(at_s, tokens, model))
    requests = rows.requests
    ended = requests.is_("status", "ok") | (requests.is_("status", "open") & (not whole))
    assert ended.all(), requests.text("code").names
    assert (requests["attempts"] == 1).all()
    assert not totals.problems
    return requests, totals


def every(made: World, gap_s: float, count: int, look: Callable[[], float]) -> list[float]:
    """What is seen of a world at regular moments, once it has run."""
    seen: list[float] = []
    for number in range(count):
        made.kernel.at(START_S + number * gap_s, lambda: seen.append(look()))
    return seen


# ── what a service takes ──────────────────────────────────────────────────────────────


def read_s(model: ModelId) -> float:
    """Seconds that a prompt of one token takes to be read."""
    return prefill_ms(chip_named(CHIP), profile_of(model), 1) / 1e3


@cache
def _services() -> FloatArray:
    """Seconds that 1, 2, … tokens hold a slot of a Mac with nothing else to do."""
    chip, profile = chip_named(CHIP), profile_of(MODEL)
    first_ms = prefill_ms(chip, profile, 1) + step_ms(chip, profile, 1, 1)
    more = np.array([step_ms(chip, profile, 1, 2.0 + n) for n in range(TOKENS_MAX)])
    return HOP_S + (first_ms + np.concatenate(([0.0], np.cumsum(more)))) / 1e3


def service_s(tokens: Sequence[int]) -> FloatArray:
    """How long answers of so many tokens hold a slot."""
    held: FloatArray = _services()[np.asarray(tokens) - 1]
    return held


def tokens_for(seconds: FloatArray) -> list[int]:
    """The answers whose services are nearest to these; at least one token."""
    table = _services()
    middles = (table[1:] + table[:-1]) / 2
    return [int(n) for n in np.searchsorted(middles, seconds) + 1]


# ── what theory says ──────────────────────────────────────────────────────────────────


def wait_in_order(at_s: FloatArray, held_s: FloatArray, servers: int) -> FloatArray:
    """First come, first served by so many servers: each one's wait (Kiefer and Wolfowitz)."""
    free = [0.0] * servers
    waits = []
    for arrived, held in zip(at_s.tolist(), held_s.tolist(), strict=True):
        begun = max(free[0], arrived)
        waits.append(begun - arrived)
        heapq.heapreplace(free, begun + held)
    return np.array(waits)


def mean_wait_one(rate: float, mean_s: float, cv2: float) -> float:
    """Pollaczek and Khinchine: one server, Poisson arrivals, `cv2` is variance over mean²."""
    load = rate * mean_s
    return load * mean_s * (1.0 + cv2) / 2.0 / (1.0 - load)


def mean_wait_many(rate: float, mean_s: float, servers: int) -> float:
    """Erlang: so many servers, Poisson arrivals, exponential services."""
    offered = rate * mean_s
    terms = [1.0]
    for k in range(1, servers + 1):
        terms.append(terms[-1] * offered / k)
    late = terms[-1] / (1.0 - offered / servers)
    waits = late / (sum(terms[:-1]) + late)
    return waits * mean_s / (servers - offered)


@dataclass(frozen=True)
class Shared:
    """A Mac that answers all at once: a token for each in a step, the longer the more they are.

    Each prompt stops everyone while it is read, so of each second `rate` × `read_s` are lost.
    """

    rate: float
    tokens_mean: float

    def step_s(self, batch: int) -> float:
        ms = step_ms(chip_named(CHIP), profile_of(SHARED), batch, self.tokens_mean / 2)
        return ms / 1e3 / (1.0 - self.rate * read_s(SHARED))

    def mean_stay_s(self) -> float:
        """A symmetric queue (Kelly): all that counts of the sizes is their mean."""
        weights = [1.0]
        while weights[-1] > 1e-12 * max(weights):
            k = len(weights)
            weights.append(weights[-1] * self.rate * self.tokens_mean * self.step_s(k) / k)
        shares = np.array(weights) / sum(weights)
        return float((np.arange(len(weights)) * shares).sum()) / self.rate

    def stays_s(self, at_s: FloatArray, tokens: Sequence[float]) -> FloatArray:
        """Of each of these requests: everyone's next token comes after the same step."""
        steps = [0.0, *(self.step_s(k) for k in range(1, len(tokens) + 1))]
        ends: list[tuple[float, int]] = []  # by what everyone will have been given by then
        given = now_s = 0.0
        stays = np.zeros(len(tokens))

        def until(then_s: float) -> None:
            nonlocal given, now_s
            while ends and now_s + (ends[0][0] - given) * steps[len(ends)] <= then_s:
                end, number = ends[0]
                now_s += (end - given) * steps[len(ends)]
                given = end
                heapq.heappop(ends)
                stays[number] = now_s - at_s[number]
            if ends:
                given += (then_s - now_s) / steps[len(ends)]
            now_s = then_s

        for number, wanted in enumerate(tokens):
            until(float(at_s[number]))
            heapq.heappush(ends, (given + wanted, number))
        until(inf)
        return stays


def share_of_two(slowest: int, servers: int) -> float:
    """How often two that are drawn are both among the slowest."""
    return comb(slowest, 2) / comb(servers, 2)


# ── how sure a mean is ────────────────────────────────────────────────────────────────

SURE = 0.999
"""Seeds are fixed, so a test that is right once is right for ever; with another seed it would
be wrong by chance once in a thousand times."""


def half(values: FloatArray) -> float:
    """Half of the interval of a mean, by batches: neighbours wait in the same queue."""
    means = [part.mean() for part in np.array_split(values, BATCHES)]
    error = float(np.std(means, ddof=1)) / BATCHES**0.5
    return t_quantile(1.0 - (1.0 - SURE) / 2.0, BATCHES - 1) * error
