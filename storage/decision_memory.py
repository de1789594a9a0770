"""The decision store for runs that need no disk: the simulator's, and short experiments."""

from __future__ import annotations

from collections.abc import Sequence

from market.decision_log import DecisionRecord, FleetSnapshot, Intent, LogRecord, OutcomeRecord
from market.types import MachineId, RequestId

MAX_RECORDS = 100_000
"""The oldest go beyond this."""


class MemoryDecisionStore:
    """A `market.ports.DecisionStore` that ends with its process."""

    def __init__(self) -> None:
        self._intents: dict[tuple[MachineId, str], Intent] = {}
        self._records: dict[tuple[str, RequestId, int], DecisionRecord | OutcomeRecord] = {}
        self._snapshots: list[FleetSnapshot] = []

    async def open(self) -> None:
        return

    async def intents(self) -> list[Intent]:
        return [self._intents[key] for key in sorted(self._intents)]

    async def put_intent(self, intent: Intent) -> None:
        self._intents[(intent.machine, intent.kind)] = intent

    async def drop_intent(self, machine: MachineId, kind: str) -> None:
        self._intents.pop((machine, kind), None)

    async def append(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            if isinstance(record, FleetSnapshot):
                self._snapshots = [*self._snapshots[-MAX_RECORDS:], record]
            else:
                key = (type(record).__name__, record.request_id, record.attempt)
                self._records.pop(key, None)
                self._records[key] = record
        while len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]

    async def records_of(self, request_id: RequestId) -> list[DecisionRecord | OutcomeRecord]:
        found = [r for r in self._records.values() if r.request_id == request_id]
        return sorted(found, key=lambda r: (r.attempt, isinstance(r, OutcomeRecord)))

    async def prune(self, before_s: float) -> int:
        old = [key for key, record in self._records.items() if _time_of(record) < before_s]
        for key in old:
            del self._records[key]
        kept = [snapshot for snapshot in self._snapshots if snapshot.taken_s >= before_s]
        gone = len(old) + len(self._snapshots) - len(kept)
        self._snapshots = kept
        return gone

    async def close(self) -> None:
        return


def _time_of(record: DecisionRecord | OutcomeRecord) -> float:
    return record.decided_s if isinstance(record, DecisionRecord) else record.ended_s
