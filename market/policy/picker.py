"""Choosing among scored Macs: the fastest, but near-ties spread the load.

A prediction is never exact to the millisecond, so everything within a window of the best
counts as equal; among equals the least loaded relative to its capacity wins (counts that
ignore capacity are unstable on a fleet of unequal Macs), then a draw seeded by the request.
"""

from __future__ import annotations

import hashlib

import numpy as np

from market.policy.fleet import BoolArray, Candidates, FloatArray

TIE_WINDOW_MS = 25.0
TIE_WINDOW_SHARE = 0.05


def draw(seed: int, name: str, among: int) -> int:
    """A number below `among`, the same for equal seed and name on every machine."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % among


def pick(
    candidates: Candidates, total_ms: FloatArray, eligible: BoolArray, *, seed: int, name: str
) -> int | None:
    """The index of the chosen candidate, or None when none is eligible."""
    indices = np.flatnonzero(eligible)
    if len(indices) == 0:
        return None
    scores = total_ms[indices]
    best_ms = float(scores.min())
    window_ms = max(TIE_WINDOW_MS, TIE_WINDOW_SHARE * best_ms)
    tied = indices[scores <= best_ms + window_ms]
    if len(tied) == 1:
        return int(tied[0])
    load = candidates.in_flight[tied] / np.maximum(candidates.slots[tied], 1)
    least = tied[load == load.min()]
    return int(least[draw(seed, name, len(least))])
