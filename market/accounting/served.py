"""What Macs served against what was paid: two witnesses of the same answers, compared.

The router writes down how each attempt ended, before the ledger has heard of it. So an answer
that was complete and is not in the ledger, or with fewer tokens, was served and not paid for:
its gateway died, or the accountant was away for longer than a lease. Whoever runs the market
can see it here and make it good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from market.accounting.rows import RequestRow
from market.routing.log import OutcomeRecord
from market.types import MachineId, RequestId

SETTLED_S: Final = 180.0
"""Within so many seconds an answer is settled, given up or expired; younger ones are left out."""
FOUND_MAX: Final = 1_000  # answers named; the count goes on


@dataclass(slots=True)
class MachineServed:
    """One machine's complete answers: as the router saw them end, and as they were paid."""

    answers: int = 0
    tokens: int = 0
    paid_answers: int = 0
    paid_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Unpaid:
    """An answer of which not all was paid. `status` is the ledger's word, or "unknown"."""

    request_id: RequestId
    machine: MachineId
    status: str
    served_tokens: int
    paid_tokens: int

    def as_json(self) -> dict[str, object]:
        return {
            "request_id": self.request_id,
            "machine": self.machine,
            "status": self.status,
            "served_tokens": self.served_tokens,
            "paid_tokens": self.paid_tokens,
        }


@dataclass(slots=True)
class Served:
    """The comparison so far; feed it answers with what the ledger says of them."""

    machines: dict[MachineId, MachineServed] = field(default_factory=dict)
    unpaid: list[Unpaid] = field(default_factory=list)
    unpaid_count: int = 0
    waiting: int = 0

    @property
    def ok(self) -> bool:
        return self.unpaid_count == 0

    def add(
        self,
        outcomes: Iterable[OutcomeRecord],
        ended: Mapping[RequestId, RequestRow],
        held: frozenset[RequestId],
    ) -> None:
        """Compare complete answers with the requests that have ended, and those still on hold."""
        for outcome in outcomes:
            request, row = outcome.request_id, ended.get(outcome.request_id)
            if row is None and request in held:
                self.waiting += 1
                continue
            mac = self.machines.setdefault(outcome.machine, MachineServed())
            paid = 0 if row is None else row.completion_tokens
            mac.answers += 1
            mac.tokens += outcome.completion_tokens
            mac.paid_answers += paid > 0 or (row is not None and row.status == "settled")
            mac.paid_tokens += paid
            if row is None or row.status == "voided" or paid < outcome.completion_tokens:
                self.unpaid_count += 1
                if len(self.unpaid) < FOUND_MAX:
                    status = "unknown" if row is None else row.status
                    self.unpaid.append(
                        Unpaid(request, outcome.machine, status, outcome.completion_tokens, paid)
                    )

    def as_json(self) -> dict[str, object]:
        """The whole comparison, JSON-able."""
        return {
            "ok": self.ok,
            "answers": sum(mac.answers for mac in self.machines.values()),
            "paid_answers": sum(mac.paid_answers for mac in self.machines.values()),
            "waiting": self.waiting,
            "unpaid_count": self.unpaid_count,
            "unpaid": [one.as_json() for one in self.unpaid],
            "machines": {
                machine: {
                    "answers": mac.answers,
                    "tokens": mac.tokens,
                    "paid_answers": mac.paid_answers,
                    "paid_tokens": mac.paid_tokens,
                }
                for machine, mac in sorted(self.machines.items())
            },
        }
