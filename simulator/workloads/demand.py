"""What a workload asks of a fleet, on average: so that a rate can be a share of what it can do.

Means are of a sample with a seed of its own: a rate never depends on the run's seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from market.errors import InvalidRequest
from market.policy.prefixes import BLOCK_TOKENS
from market.types import ModelId
from simulator.streams import Streams
from simulator.workloads.blocks import blocks_in
from simulator.workloads.intensity import Pieces, constant, steps
from simulator.workloads.people import Fashion
from simulator.workloads.rows import Fit
from simulator.workloads.spec import Rate, Synthetic
from simulator.workloads.talks import Talks

SAMPLE_SEED = 0
SAMPLE_REQUESTS = 50_000
SAMPLE_TALKS = 2_000
MEANS_KEPT = 256
"""Workloads: the runs of a comparison have the same ones again and again."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One model's part of a mix: its rate or share, and means in tokens per request.

    `unread_tokens` is the prompt less what a cache that keeps everything would have of it.
    """

    model: ModelId
    rate: float
    prompt_tokens: float
    output_tokens: float
    unread_tokens: float


Capacity = Callable[[Sequence[Demand]], float]
"""The most requests a second that a fleet can do of a mix."""


@dataclass(frozen=True, slots=True)
class Means:
    """Of one model: requests per conversation, and tokens per request."""

    turns: float
    prompt: float
    output: float
    unread: float


@lru_cache(MEANS_KEPT)
def means_of(spec: Synthetic) -> tuple[Means, ...]:
    """The means of each model of a workload, in its order."""
    known: dict[tuple[int, int], Means] = {}
    means = []
    for number, card in enumerate(spec.models.cards):
        key = (card.context_tokens, card.max_output_tokens)
        if key not in known:
            alone = spec.sessions is None and spec.prefixes is None
            known[key] = _of_requests(spec, number) if alone else _of_talks(spec, number)
        means.append(known[key])
    return tuple(means)


def _of_requests(spec: Synthetic, model: int) -> Means:
    random = Streams(SAMPLE_SEED).stream("sample")
    prompts, outputs = spec.lengths.draw(random, SAMPLE_REQUESTS)
    fit = Fit(spec.models.cards, spec.terms.max_tokens, Counter())
    prompt, output, _ = fit.all(prompts, outputs, np.full(SAMPLE_REQUESTS, model))
    mean = float(np.mean(prompt))
    return Means(1.0, mean, float(np.mean(output)), mean)


def _of_talks(spec: Synthetic, model: int) -> Means:
    talks = Talks(spec, Streams(SAMPLE_SEED).within("sample"), Counter())
    random = Streams(SAMPLE_SEED).stream("sample")
    names = [str(number) for number in range(SAMPLE_TALKS)]
    who = talks.people.draw(SAMPLE_TALKS)
    requests = prompt = output = unread = 0
    for talk in talks.draw(random, names, who, np.full(SAMPLE_TALKS, model)):
        known = len(talk.blocks) * BLOCK_TOKENS
        while (turn := talks.turn(talk)) is not None:
            requests += 1
            prompt += turn[0]
            output += turn[1]
            unread += max(turn[0] - known, 1)
            known = blocks_in(talk.tokens) * BLOCK_TOKENS
    return Means(requests / SAMPLE_TALKS, prompt / requests, output / requests, unread / requests)


def base_rate(spec: Synthetic, streams: Streams, capacity: Capacity | None) -> Pieces:
    """How many requests, or conversations, begin a second. Where popularity drifts and the rate
    is a share of the fleet, it follows what the fleet can do of the mix of the hour.

    Raises InvalidRequest where the fleet can do nothing of it.
    """
    means = means_of(spec)
    fashion = Fashion(spec.models, streams)

    def begins_per_s(number: int) -> float:
        shares: list[float] = fashion.shares(number).tolist()
        turns = sum(share * mean.turns for share, mean in zip(shares, means, strict=True))
        mix = [
            Demand(card.id, share * mean.turns / turns, mean.prompt, mean.output, mean.unread)
            for card, share, mean in zip(spec.models.cards, shares, means, strict=True)
        ]
        return per_second(spec.rate, mix, capacity, spec.name) / turns

    if spec.models.drift is None:
        return constant(begins_per_s(0))
    return steps(spec.models.drift.every_s, begins_per_s)


def per_second(rate: Rate, mix: Sequence[Demand], capacity: Capacity | None, name: str) -> float:
    """The rate in requests a second."""
    if rate.rho is None:
        assert rate.per_s is not None
        return rate.per_s
    if capacity is None:
        raise InvalidRequest(
            f"The workload {name} has rho, a share of what a fleet can do, and there is no fleet; "
            "give rate_per_s.",
            "workload",
        )
    most = capacity([demand for demand in mix if demand.rate > 0.0])
    if not 0.0 < most < float("inf"):
        raise InvalidRequest(
            f"The fleet can do {most:g} requests/s of the workload {name}, so rho has no meaning; "
            "give rate_per_s, or Macs that can hold its models.",
            "workload",
        )
    return float(rate.rho * most)
