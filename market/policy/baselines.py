"""The policies others use, to be measured against; and two that nobody should.

Each is a score of its own unit, lower is better; only the order matters. They run behind the
same filters, queue and placement as ours. `best_known` wants what no router can know, and
`always_busiest` is wrong on purpose, so that alarms can be shown to ring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from market.policy.candidates import FloatArray
from market.policy.scorers import SCORERS, Scorer, View
from market.types import RequestId

NEVER = 1e15
"""A score that loses against everything, and is still a number."""

SGLANG_MATCH = 0.3
SGLANG_GAP = 64
SGLANG_RATIO = 1.5
"""SGLang's router: follow a prefix that covers 30 % of the prompt, unless the loads of two
workers differ by more than 64 requests and by half again."""

LLM_D_WEIGHTS = {"prefix": 3.0, "queue": 2.0, "kv": 2.0}
"""llm-d's published example profile."""


def _draws(view: View) -> FloatArray:
    """A number between 0 and 1 per Mac, from seed, request and the Mac's own id."""
    ask = view.ask
    base = f"{view.seed}:{ask.request_id}:{ask.attempt}:"
    return _hashed([base + who.machine for who in view.candidates.who()])


def _hashed(texts: list[str]) -> FloatArray:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    numbers: FloatArray = (np.frombuffer(digests, ">u8").astype(np.float64) + 0.5) / 2.0**64
    return numbers


def _load(view: View) -> FloatArray:
    return view.candidates["in_flight"]


def capacity(view: View) -> FloatArray:
    """Tokens per second of each Mac at a full batch of this model, as the tables have it."""
    candidates = view.candidates
    slots = np.clip(candidates["slots"], 1, 32)
    step_ms = np.maximum(candidates["step_32_ms"] * candidates["scale_step"], 1e-6)
    tps: FloatArray = slots * 1e3 / step_ms
    return tps


def at_random(view: View) -> FloatArray:
    return _draws(view)


def round_robin(view: View) -> FloatArray:
    """The one that has been given the fewest; ids break ties, so turns are kept."""
    turns = view.candidates["granted_here"]
    ids = np.argsort(np.argsort([who.machine for who in view.candidates.who()]))
    return turns + ids / (len(ids) + 1.0)


def power_of_two(view: View) -> FloatArray:
    """Two at random, the one with fewer requests."""
    order = np.where(view.eligible, _draws(view), NEVER)
    two = np.argsort(order, kind="stable")[:2]
    score = np.full(len(order), NEVER)
    score[two] = _load(view)[two]
    return score


def least_request(view: View) -> FloatArray:
    return _load(view) + 0.5 * _draws(view)


def least_weighted(view: View) -> FloatArray:
    """Requests relative to what the Mac can do: the strong baseline."""
    loaded: FloatArray = (_load(view) + 1.0) / capacity(view) * (1.0 + 1e-6 * _draws(view))
    return loaded


def session_hash(view: View) -> FloatArray:
    """A conversation, or else a consumer's request, always on the same Mac (rendezvous)."""
    key = view.ask.session or view.ask.request_id
    return _hashed([f"{key}:{who.machine}" for who in view.candidates.who()])


def sglang_cache_aware(view: View) -> FloatArray:
    load = np.where(view.eligible, _load(view), np.nan)
    most, least = np.nanmax(load), np.nanmin(load)
    shortest = _load(view) + 0.5 * _draws(view)
    if most - least > SGLANG_GAP and most > SGLANG_RATIO * least:
        return shortest
    matched = view.candidates.cached / max(view.ask.read_tokens, 1)
    if (matched[view.eligible] > SGLANG_MATCH).any():
        shortest = 1.0 - matched + 1e-3 * shortest / (shortest.max() + 1.0)
    return shortest


def llm_d(view: View) -> FloatArray:
    """Prefix, queue and cache scores from 0 to 1, weighted."""
    candidates = view.candidates
    prefix = candidates.cached / max(view.ask.read_tokens, 1)
    load = _load(view)
    spread = max(float(load.max() - load.min()), 1.0)
    queue = (load.max() - load) / spread
    used = candidates["kv_reserved_bytes"] / np.maximum(candidates["memory_bytes"], 1.0)
    weights = LLM_D_WEIGHTS
    score = weights["prefix"] * prefix + weights["queue"] * queue + weights["kv"] * (1.0 - used)
    lowest: FloatArray = 1e-6 * _draws(view) - score
    return lowest


def openrouter_price(view: View) -> FloatArray:
    """A draw weighted by one over the price squared: the lowest of exponential draws."""
    price = np.maximum(view.candidates["ask_pct"], 1.0) / 100.0
    return -np.log(_draws(view)) * price**2


def darkbloom_cost(view: View) -> FloatArray:
    """The published cost in milliseconds; its tie window of three seconds by queue depth."""
    candidates, ask = view.candidates, view.ask
    running = candidates["running"]
    solo_tps = 1e3 / np.maximum(candidates["step_1_ms"] * candidates["scale_step"], 1e-6)
    tps = np.maximum(solo_tps / (1.0 + 0.39 * running), 1.0)
    prefill_tps = np.minimum(12.0 * solo_tps, 20_000.0)
    cost = 3_000.0 * running + 750.0 * candidates["in_flight"]
    cost = cost + 1e3 * candidates["expected_sum"] / tps
    cost = cost + 1e3 * (ask.prompt_tokens / prefill_tps + ask.max_tokens / tps)
    best = float(cost[view.eligible].min())
    return np.where(cost <= best + 3_000.0, best + running + 0.5 * _draws(view), cost)


def always_busiest(view: View) -> FloatArray:
    """The one with the most to do, as long as it has a slot: wrong on purpose."""
    return -_load(view) + 0.5 * _draws(view)


def best_known(lengths: Mapping[RequestId, int]) -> Scorer:
    """Our terms for the true length of the answer, which only a simulation has."""

    def score(view: View) -> FloatArray:
        ask = view.ask
        tokens = max(float(lengths.get(ask.request_id, 1)) - ask.said_tokens, 1.0)
        told = replace(ask, expected_tokens=tokens)
        knowing = View(view.candidates, told, view.eligible, view.seed)
        total: FloatArray = np.sum([scorer(knowing) for scorer in SCORERS.values()], axis=0)
        return total

    return score
