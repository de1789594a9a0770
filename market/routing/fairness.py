"""How evenly work and earnings are spread over Macs: measured and shown, never enforced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def gini(values: Sequence[float]) -> float | None:
    """0 when all have the same, towards 1 when one has everything; None without anything."""
    sorted_values = np.sort(np.asarray(values, dtype=np.float64))
    total = float(sorted_values.sum())
    if len(sorted_values) == 0 or total <= 0:
        return None
    ranks = np.arange(1, len(sorted_values) + 1)
    return float((2 * (ranks * sorted_values).sum()) / (len(sorted_values) * total)) - (
        len(sorted_values) + 1
    ) / len(sorted_values)


def jain(values: Sequence[float]) -> float | None:
    """Jain's index: 1 when all have the same, 1/n when one has everything."""
    numbers = np.asarray(values, dtype=np.float64)
    squares = float((numbers**2).sum())
    if len(numbers) == 0 or squares <= 0:
        return None
    return float(numbers.sum() ** 2 / (len(numbers) * squares))
