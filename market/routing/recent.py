"""The latest decisions in full, so that every candidate's verdict can still be shown.

A stored decision keeps its best eight; these keep what the policy saw, bounded by rows
because a decision over 1,000 Macs is a hundred times larger than one over ten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from market.policy.decision import Decision
from market.types import RequestId

MAX_ROWS = 50_000
"""Macs seen by the decisions kept, about 600 bytes each: 30 MB."""

MAX_DECISIONS = 1_000


class RecentDecisions:
    """The newest decision of each of the latest requests."""

    def __init__(self, max_rows: int = MAX_ROWS, max_decisions: int = MAX_DECISIONS) -> None:
        self._max_rows = max_rows
        self._max_decisions = max_decisions
        self._rows = 0
        self._kept: OrderedDict[RequestId, Decision] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, decision: Decision) -> None:
        """Keep this one; the oldest go when there are too many rows."""
        before = self._kept.pop(decision.ask.request_id, None)
        if before is not None:
            self._rows -= len(before.candidates)
        self._kept[decision.ask.request_id] = decision
        self._rows += len(decision.candidates)
        while len(self._kept) > 1 and (
            self._rows > self._max_rows or len(self._kept) > self._max_decisions
        ):
            _, oldest = self._kept.popitem(last=False)
            self._rows -= len(oldest.candidates)

    def newest(self) -> Iterator[Decision]:
        """All of them, the latest first."""
        return reversed(self._kept.values())

    def find(self, request_id: RequestId) -> Decision | None:
        """The request's newest decision, if it is recent enough."""
        return self._kept.get(request_id)
