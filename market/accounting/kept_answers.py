"""Inference under a caller's own key: one charge however often it is sent.

While the first request runs, a second one is told to wait; once it is paid for, the second
one gets the first one's answer. A request that cost nothing is forgotten, so that trying
again really tries again. Keys are scoped to their account; only hashes are kept, and the
answers are sealed by the gateways before they come here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.accounting.rows import Changes, HoldRow, RequestRow
from market.accounting.state_rows import IdempotencyRow, OutcomeRow
from market.errors import Conflict, InvalidRequest
from market.messages import Admit, Replay
from market.types import AccountId, RequestId

KEEP_NS: Final = 24 * 3_600_000_000_000
OUTCOME_BYTES_MAX: Final = 2**20
RUNNING_RETRY_S: Final = 2.0
HASH_CHARS: Final = 64


class KeptAnswers:
    """Which of the callers' own keys are in use, and what became of their requests."""

    def __init__(self, rows: Iterable[IdempotencyRow]) -> None:
        self._rows = {(row.owner, row.key): row for row in rows}

    def before(self, op: Admit, owner: AccountId) -> Replay | None:
        """What an earlier request under this key means for this one; None: nothing.

        Raises Conflict while it runs, and when it was another request.
        """
        if op.idempotency is None:
            return None
        if len(op.idempotency) > HASH_CHARS or len(op.fingerprint or "") > HASH_CHARS:
            raise InvalidRequest("An idempotency key travels as its hash.", "idempotency")
        row = self._rows.get((owner, op.idempotency))
        if row is None or row.request_id == op.request_id:
            return None
        if row.fingerprint != op.fingerprint:
            raise Conflict(
                "This Idempotency-Key was used before with another body. Use a new key for a "
                "new request.",
                None,
                "idempotency_key_reused",
                None,
                False,
            )
        if row.state == "running":
            raise Conflict(
                f"The first request with this Idempotency-Key ({row.request_id}) is still "
                "running; ask again shortly.",
                None,
                "idempotency_in_progress",
                RUNNING_RETRY_S,
                True,
            )
        return Replay(row.request_id, row.state == "kept")

    def begin(self, op: Admit, owner: AccountId, now_ns: int, changes: Changes) -> None:
        """The request has got its hold."""
        if op.idempotency is not None:
            self._put(
                IdempotencyRow(
                    owner,
                    op.idempotency,
                    op.fingerprint or "",
                    op.request_id,
                    "running",
                    now_ns,
                ),
                changes,
            )

    def end(self, terms: HoldRow, row: RequestRow, outcome: bytes | None, changes: Changes) -> None:
        """The request has ended: keep its answer, or forget that it was ever asked."""
        if terms.idempotency is None:
            return
        known = self._rows.get((terms.owner, terms.idempotency))
        if known is None or known.request_id != terms.request_id:
            return
        if row.status != "settled" and row.cost_nano == 0:
            del self._rows[terms.owner, terms.idempotency]
            changes.drop(known)
        elif outcome is not None and len(outcome) <= OUTCOME_BYTES_MAX:
            self._put(known._replace(state="kept"), changes)
            changes.put(OutcomeRow(row.request_id, outcome, row.finished_ns))
        else:
            self._put(known._replace(state="lost"), changes)

    def owns(self, owner: AccountId, request_id: RequestId) -> bool:
        """Whether this account has a kept answer of that request."""
        return any(
            row.owner == owner and row.request_id == request_id and row.state == "kept"
            for row in self._rows.values()
        )

    def forget(self, now_ns: int, changes: Changes) -> int:
        """Drop what is older than a day, unless it still runs; returns how many."""
        old = [
            row
            for row in self._rows.values()
            if row.state != "running" and now_ns - row.created_ns > KEEP_NS
        ]
        for row in old:
            del self._rows[row.owner, row.key]
            changes.drop(row)
            if row.state == "kept":
                changes.drop(OutcomeRow(row.request_id, b"", 0))
        return len(old)

    def _put(self, row: IdempotencyRow, changes: Changes) -> None:
        self._rows[row.owner, row.key] = row
        changes.put(row)
