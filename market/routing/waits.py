"""When a slot will be free, from when what runs now is expected to end.

The answer to "how long must I wait?" before joining a queue, and to "when shall I come back?"
after being refused: the same arithmetic, so that who comes back when told finds a place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import ceil

RETRY_S_MIN = 1.0
RETRY_S_MAX = 600.0


def wait_s(ends_s: Iterable[float], ahead_s: Sequence[float], slots: int, now_s: float) -> float:
    """Seconds until the request before which these others come has a slot.

    `ends_s` are when the slots in use are expected to be free, `slots` all there are; each of
    those ahead takes the first that is free and holds it for its `ahead_s`.
    """
    if slots <= 0:
        return float("inf")
    free = [max(end_s, now_s) for end_s in ends_s][:slots]
    free += [now_s] * (slots - len(free))
    heapq.heapify(free)
    for service_s in ahead_s:
        heapq.heapreplace(free, free[0] + service_s)
    return free[0] - now_s


def retry_after_s(seconds: float) -> float:
    """What `Retry-After` says: whole seconds, never too early."""
    return float(min(max(ceil(seconds), RETRY_S_MIN), RETRY_S_MAX))
