"""Choosing among scored Macs.

`near_ties`: a prediction is never exact to the millisecond, so everything within a window of
the best counts as equal; among equals the least loaded relative to its capacity wins (counts
that ignore capacity are unstable on a fleet of unequal Macs), then a draw seeded by the request.
Now and then a Mac of which little is known is tried instead, so that it becomes known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from market.policy.candidates import FloatArray
from market.policy.scorers import View

TIE_WINDOW_MS = 25.0
TIE_WINDOW_SHARE = 0.05

EXPLORE_SHARE = 0.01
EXPLORE_SHARE_BATCH = 0.02
"""Of the requests that may be sent to a little-known Mac, batch requests first."""

KNOWN_AFTER = 8
"""Requests after which a model on a Mac counts as known."""

EXPLORE_WORST = 2.0
"""Nobody is sent to explore where it takes longer than this many times the best."""

Picker = Callable[[View, FloatArray], int]
"""Given the total of each candidate (only eligible ones count), the index of the chosen one."""


def draw(seed: int, name: str, among: int) -> int:
    """A number below `among`, the same for equal seed and name on every machine."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % among


def chance(seed: int, name: str) -> float:
    """A number from 0 to 1, likewise."""
    return draw(seed, name, 1 << 32) / (1 << 32)


def _name(view: View) -> str:
    return f"{view.ask.request_id}:{view.ask.attempt}"


def lowest(view: View, total_ms: FloatArray) -> int:
    """The lowest total; among exact ties the seed decides, not the order."""
    scores = np.where(view.eligible, total_ms, np.inf)
    best = np.flatnonzero(scores == scores.min())
    return int(best[draw(view.seed, _name(view), len(best))]) if len(best) > 1 else int(best[0])


def window_ms(view: View, best_ms: float) -> float:
    """How much worse than the best still counts as equal; nothing where the caller sorts."""
    if view.ask.preferences.sort is not None:
        return 0.0
    return max(TIE_WINDOW_MS, TIE_WINDOW_SHARE * best_ms)


def near_ties(view: View, total_ms: FloatArray) -> int:
    """The lowest total, near-ties by load."""
    wished = view.ask.preferences.sort is not None
    explored = None if wished else _explore(view, total_ms)
    if explored is not None:
        return explored
    candidates = view.candidates
    scores = np.where(view.eligible, total_ms, np.inf)
    best_ms = float(scores.min())
    # A plugin's numbers may be so large that the window has no end.
    tied = np.flatnonzero(view.eligible & (scores <= best_ms + window_ms(view, best_ms)))
    if len(tied) == 1:
        return int(tied[0])
    load = candidates["in_flight"][tied] / np.maximum(candidates["slots"][tied], 1)
    least = tied[load == load.min()]
    return int(least[draw(view.seed, _name(view), len(least))])


def _explore(view: View, total_ms: FloatArray) -> int | None:
    """A little-known Mac, rarely; None for most requests and when all are known."""
    unknown = view.eligible & (view.candidates["seen"] < KNOWN_AFTER)
    if not unknown.any() or unknown.sum() == view.eligible.sum():
        return None
    share = EXPLORE_SHARE_BATCH if view.ask.request_class == "batch" else EXPLORE_SHARE
    if chance(view.seed, f"explore:{_name(view)}") >= share:
        return None
    best_ms = float(total_ms[view.eligible].min())
    bearable = np.flatnonzero(unknown & (total_ms <= EXPLORE_WORST * best_ms))
    if len(bearable) == 0:
        return None
    least = bearable[view.candidates["seen"][bearable].argmin()]
    return int(least)
