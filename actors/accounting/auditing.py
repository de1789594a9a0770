"""The accountant's own audits: before it opens, and then of whatever is new, now and again.

Each begins where the last one has found everything right, on a read-only connection in a
thread of its own. One that finds something stops the accountant: a market that goes on over
books that do not add up makes the damage larger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from market.accounting.audit import VerifyReport
from market.accounting.checkpoints import Checkpoint

AUDIT_COMMITS: Final = 20_000  # commits after which what is new is audited
AUDIT_S: Final = 300.0  # and seconds, when there was any commit
PROBLEMS_SHOWN: Final = 3

Audit = Callable[[bool], VerifyReport]
"""Audit the ledger on disk: all of it, or (False) from the last checkpoint. Called in a thread."""


class Auditor:
    """When an audit is due, and what the audits so far have said."""

    def __init__(self, audit: Audit, tick_ns: Callable[[], int]) -> None:
        self._audit = audit
        self._tick_ns = tick_ns
        self._last_tick_ns = tick_ns()
        self._last_commits = 0
        self.audited = Checkpoint()
        self.audits = 0
        self.audit_ns = 0
        self.problems = 0

    def due(self, commits: int) -> bool:
        """Whether enough was committed, or enough time has passed with something committed."""
        new = commits - self._last_commits
        waited_ns = self._tick_ns() - self._last_tick_ns
        return new >= AUDIT_COMMITS or (new > 0 and waited_ns >= AUDIT_S * 1e9)

    async def run(self, commits: int, *, full: bool = False) -> VerifyReport:
        """Audit now. `commits` is how many there have been, for `due`."""
        begin_ns = self._tick_ns()
        self._last_commits, self._last_tick_ns = commits, begin_ns
        report = await asyncio.to_thread(self._audit, full)
        self.audits += 1
        self.audit_ns += self._tick_ns() - begin_ns
        self.problems = report.problem_count
        return report

    def moved(self, report: VerifyReport) -> Checkpoint | None:
        """The checkpoint to keep after this report, None when there is no new one."""
        found = report.checkpoint
        if found is None or (found.number, found.hash) == (self.audited.number, self.audited.hash):
            return None
        self.audited = found
        return found

    def figures(self) -> dict[str, float]:
        """Metrics: counts since the start end in `_total`."""
        return {
            "audits_total": float(self.audits),
            "audit_seconds_total": self.audit_ns / 1e9,
            "audit_problems": float(self.problems),
            "audited_batch": float(self.audited.number),
        }


def verdict(report: VerifyReport) -> str:
    """What a report that is not green says, in a few sentences, with the way back."""
    shown = " ".join(report.problems[:PROBLEMS_SHOWN])
    more = report.problem_count - PROBLEMS_SHOWN
    rest = f" And {more} more." if more > 0 else ""
    return (
        f"The ledger does not add up: {shown}{rest} Leave the data folder as it is, look with "
        "`coster ledger verify --full`, and bring the last backup back with `coster ledger "
        "restore`."
    )
