"""The accountant's mind: what each operation means, over the ledger, keys and limits.

Pure. Time arrives as two numbers: `now_ns`, the wall clock made monotonic, which dates
rows, and `tick_ns`, a monotonic clock, which runs leases and rates. Randomness and hashes
are made by the caller. An operation applies whole or raises a MarketError and changes
nothing; repeating one that applied returns the first answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from market import keys
from market.accounting import admission
from market.accounting.answers import (
    admitted,
    check_attempts,
    check_settle,
    check_text,
    check_usage,
    other_end,
    progress_of,
    running,
    settled,
    settled_before,
)
from market.accounting.customers import Customers, Key
from market.accounting.holding import BookTerms, hold_terms
from market.accounting.ledger import Ledger, OpenHold
from market.accounting.rows import (
    Changes,
    CheckpointRow,
    KeyRow,
    OwnerRow,
    RequestRow,
    Snapshot,
)
from market.errors import Conflict, Forbidden, NotFound
from market.messages import (
    AccountantOp,
    AccountantReply,
    Admit,
    Admitted,
    Balance,
    Checkpoint,
    KeyRecord,
    ResolveKey,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import AccountId, KeyId, RequestId

FINISHED_MAX: Final = 65_536  # finished requests remembered; older ones are found on disk
PAYEE_TIER: Final = "free"
"""What an account opened by its first earning may consume until its owner claims it."""
SWEEP_GAP_NS: Final = 60_000_000_000  # a longer pause between sweeps means we were asleep


class Books:
    """Applies operations and gathers what they change."""

    def __init__(self, terms: BookTerms, snapshot: Snapshot, *, now_ns: int, tick_ns: int) -> None:
        self.terms = terms
        self.last_ts_ns = snapshot.last_ts_ns
        self.ledger = Ledger(snapshot, lease_ends_tick_ns=tick_ns + terms.lease_ttl_ns)
        self.customers = Customers(snapshot)
        self._finished: dict[RequestId, RequestRow] = {}
        self._last_sweep_tick_ns = tick_ns
        today = admission.day_of(now_ns)
        for opened in self.ledger.holds.values():
            meter = self.customers.get(opened.terms.owner).meter
            meter.roll(today)
            if admission.day_of(opened.terms.created_ns) == meter.day:
                meter.reserve(opened.reserved_tokens)

    # ── the four operations and the look-up ───────────────────────────────────────────

    def apply(self, op: AccountantOp, *, wall_ns: int, tick_ns: int) -> AccountantReply:
        """Carry out one operation; raises a MarketError when it cannot be."""
        now_ns = self.stamp(wall_ns)
        match op:
            case Admit():
                return self._admit(op, now_ns, tick_ns)
            case Settle():
                return self._settle(op, now_ns)
            case Checkpoint():
                self._checkpoint(op, tick_ns)
                return None
            case Void():
                return self._void(op, now_ns)
            case ResolveKey():
                return self.customers.live_key(op.key_hash, now_ns).record

    def stamp(self, wall_ns: int) -> int:
        """Ledger time: the wall clock, but strictly growing whatever the clock does."""
        self.last_ts_ns = max(self.last_ts_ns + 1, wall_ns)
        return self.last_ts_ns

    def unknown(self, ops: Sequence[AccountantOp]) -> list[RequestId]:
        """The requests these operations name that are not in memory: look for them on disk."""
        holds, finished = self.ledger.holds, self._finished
        return [
            op.request_id
            for op in ops
            if not isinstance(op, ResolveKey)
            and op.request_id not in holds
            and op.request_id not in finished
        ]

    def remember(self, rows: Iterable[RequestRow]) -> None:
        """Keep finished requests in memory, the newest FINISHED_MAX of them."""
        for row in rows:
            self._finished[row.request_id] = row
        while len(self._finished) > FINISHED_MAX:
            del self._finished[next(iter(self._finished))]

    def take(self) -> Changes:
        """What to write now, in one commit."""
        changes = self.ledger.take()
        changes.last_ts_ns = self.last_ts_ns
        return changes

    def _admit(self, op: Admit, now_ns: int, tick_ns: int) -> Admitted:
        key = self.customers.live_key(op.key_hash, now_ns)
        if keys.INFERENCE not in key.record.scopes:
            raise Forbidden(
                f"The API key {key.row.prefix}… may not run inference; use a key with the "
                f"scope {keys.INFERENCE!r}.",
                None,
                "missing_scope",
            )
        opened = self.ledger.holds.get(op.request_id)
        if opened is not None:
            return self._admitted_before(op, opened, key, now_ns, tick_ns)
        if op.request_id in self._finished:
            raise Conflict(
                f"The request {op.request_id} has already ended; a new one needs a new id.",
                None,
                "request_finished",
                None,
                False,
            )
        owner = key.owner
        owner.meter.roll(admission.day_of(now_ns))
        tat_ns = admission.next_arrival_ns(owner.meter, owner.tier, tick_ns)
        terms = hold_terms(op, key, self.terms, self.ledger, now_ns)
        opened = self.ledger.hold(terms, lease_ends_tick_ns=tick_ns + self.terms.lease_ttl_ns)
        owner.meter.tat_ns = tat_ns
        owner.meter.reserve(opened.reserved_tokens)
        return admitted(terms, owner, now_ns, tick_ns)

    def _admitted_before(
        self, op: Admit, opened: OpenHold, key: Key, now_ns: int, tick_ns: int
    ) -> Admitted:
        terms = opened.terms
        asked = (key.row.id, op.model, op.prompt_tokens, op.max_tokens, op.max_tokens_cap, op.n)
        if asked != (terms.key_id, *terms[3:8]):
            raise Conflict(
                f"The request {op.request_id} is running with other parameters.",
                None,
                "request_id_reused",
                None,
                False,
            )
        return admitted(terms, key.owner, now_ns, tick_ns)

    def _settle(self, op: Settle, now_ns: int) -> Settled:
        opened = self.ledger.holds.get(op.request_id)
        if opened is None:
            return settled_before(op, self._ended(op.request_id))
        check_settle(op)
        check_usage(op.usage, opened)
        self._open_payee(op.payee, now_ns)
        row = self.ledger.settle(
            opened,
            progress_of(op),
            status="settled",
            finish_reason=op.finish_reason,
            attempts=op.attempts,
            ttft_ms=float(op.ttft_ms),
            total_ms=float(op.total_ms),
            now_ns=now_ns,
        )
        self._end(opened, row)
        return settled(row)

    def _void(self, op: Void, now_ns: int) -> Voided:
        opened = self.ledger.holds.get(op.request_id)
        if opened is None:
            row = self._ended(op.request_id)
            if row.cost_nano or row.status == "settled":
                raise other_end(row, "voided")
            return Voided(op.request_id)
        check_text("reason", op.reason)
        check_attempts(op.attempts)
        self._release(opened, "voided", op.reason, op.attempts, now_ns)
        return Voided(op.request_id)

    def _checkpoint(self, op: Checkpoint, tick_ns: int) -> None:
        opened = self.ledger.holds.get(op.request_id)
        if opened is None:
            self._ended(op.request_id)  # a late checkpoint of an ended request is harmless
            return
        check_usage(op.usage, opened)
        if op.payee is not None:
            check_text("payee", op.payee)
        check_text("machine", op.machine or "")
        check_text("provider", op.provider or "")
        progress = progress_of(op)
        # A failed-over request starts again at zero on another Mac; a payee, once known,
        # is only replaced by another payee.
        if op.payee is None:
            progress = opened.checkpoint
        self.ledger.checkpoint(opened, progress, tick_ns + self.terms.lease_ttl_ns)

    def _ended(self, request_id: RequestId) -> RequestRow:
        row = self._finished.get(request_id)
        if row is None:
            raise NotFound(
                f"The request {request_id} is not known to the ledger.",
                None,
                "request_not_found",
            )
        return row

    # ── leases ────────────────────────────────────────────────────────────────────────

    def expire(self, *, wall_ns: int, tick_ns: int) -> list[RequestRow]:
        """Close the holds whose lease has run out: at their last checkpoint, or for nothing.

        When the previous sweep is further back than SWEEP_GAP_NS, this process was asleep
        or stopped, and the gateways could not have renewed anything: all leases start
        afresh instead of expiring together.
        """
        gap_ns = tick_ns - self._last_sweep_tick_ns
        self._last_sweep_tick_ns = tick_ns
        if gap_ns > SWEEP_GAP_NS:
            for opened in self.ledger.holds.values():
                opened.lease_ends_tick_ns = tick_ns + self.terms.lease_ttl_ns
            return []
        due = [o for o in self.ledger.holds.values() if o.lease_ends_tick_ns <= tick_ns]
        return [
            self._release(opened, "expired", "lease_expired", 1, self.stamp(wall_ns))
            for opened in due
        ]

    def _release(
        self, opened: OpenHold, status: str, reason: str, attempts: int, now_ns: int
    ) -> RequestRow:
        """End a hold without a settlement: voided for nothing, expired at its checkpoint."""
        progress = CheckpointRow()
        if status == "expired" and opened.checkpoint.completion_tokens > 0:
            progress = opened.checkpoint
            if progress.payee is not None:
                self._open_payee(progress.payee, now_ns)
        row = self.ledger.settle(
            opened,
            progress,
            status="expired" if status == "expired" else "voided",
            finish_reason=reason,
            attempts=attempts,
            ttft_ms=0.0,
            total_ms=0.0,
            now_ns=now_ns,
        )
        self._end(opened, row)
        return row

    def _end(self, opened: OpenHold, row: RequestRow) -> None:
        owner = self.customers.get(row.owner)
        owner.meter.correct(
            day=admission.day_of(opened.terms.created_ns),
            reserved_tokens=opened.reserved_tokens,
            used_tokens=row.prompt_tokens + row.completion_tokens,
        )
        if owner.tier.tokens_per_day is not None:
            self.ledger.changes.quotas[row.owner] = (owner.meter.day, owner.meter.used_tokens)
        self.remember((row,))

    # ── customers ─────────────────────────────────────────────────────────────────────

    def _open_payee(self, payee: AccountId, now_ns: int) -> None:
        """A Mac may serve before its owner's account was opened: it earns into one of that id.

        The consumer's answer must not fail on it, and what was earned must not be lost.
        """
        if payee not in self.customers:
            check_text("payee", payee)
            self.create_owner(OwnerRow(payee, payee, PAYEE_TIER, now_ns), 0)

    def create_owner(self, row: OwnerRow, promo_nano: int) -> None:
        """Enter a new customer, with this much promo credit."""
        self.customers.add_owner(row)
        self.ledger.changes.owners.append(row)
        if promo_nano > 0:
            self.ledger.grant_promo(row.id, promo_nano, row.created_ns)

    def add_key(self, row: KeyRow) -> KeyRecord:
        """Enter a new key of a known owner."""
        record = self.customers.add_key(row)
        self.ledger.changes.keys.append(row)
        return record

    def revoke(self, owner_id: AccountId, key_id: KeyId, now_ns: int) -> KeyRecord:
        """End a key. Again is no error; a key of someone else is not found."""
        record, ended_now = self.customers.revoke(owner_id, key_id, now_ns)
        if ended_now:
            self.ledger.changes.revoked.append((key_id, now_ns))
        return record

    def balance(self, owner_id: AccountId) -> Balance:
        """What the owner has; raises NotFound."""
        self.customers.get(owner_id)
        return Balance(*self.ledger.available(owner_id), self.ledger.held(owner_id))

    def request(self, request_id: RequestId) -> RequestRow | None:
        """A request as it stands in memory: open, or among the lately finished."""
        opened = self.ledger.holds.get(request_id)
        return running(opened) if opened else self._finished.get(request_id)

    def open_requests(self, owner_id: AccountId) -> list[RequestRow]:
        """The owner's holds, oldest first."""
        return [
            running(opened)
            for opened in self.ledger.holds.values()
            if opened.terms.owner == owner_id
        ]

    def counts(self) -> dict[str, int]:
        """Sizes, for metrics."""
        return {
            **self.customers.counts(),
            "open_holds": len(self.ledger.holds),
            "finished_remembered": len(self._finished),
        }
