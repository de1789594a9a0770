"""Ranks, shares and averages of public lists: the arithmetic, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHARE_PARTS: Final = 10_000
"""Shares are told in ten-thousandths."""


def dense_ranks(sizes: Sequence[int]) -> list[int]:
    """The rank of each, the largest first: equal ones share a rank and none is skipped."""
    ranks = {size: rank for rank, size in enumerate(sorted(set(sizes), reverse=True), start=1)}
    return [ranks[size] for size in sizes]


def shares(sizes: Sequence[int], whole: int) -> list[float]:
    """What part of the whole each is, to four decimals; together at most 1.

    Each is rounded to the nearest. Where that would make the sum more than 1, those that were
    rounded up the most are rounded down instead.
    """
    if whole <= 0:
        return [0.0] * len(sizes)
    parts = [(2 * size * SHARE_PARTS + whole) // (2 * whole) for size in sizes]
    gained = sorted(
        range(len(sizes)), key=lambda at: parts[at] * whole - sizes[at] * SHARE_PARTS, reverse=True
    )
    for at in gained[: max(sum(parts) - SHARE_PARTS, 0)]:
        parts[at] -= 1
    return [part / SHARE_PARTS for part in parts]


def average(whole: int, count: int) -> float:
    """The mean to one decimal, halves upwards; 0 of nothing."""
    if count <= 0:
        return 0.0
    return (20 * whole + count) // (2 * count) / 10
