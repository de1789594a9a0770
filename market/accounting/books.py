"""The accountant's mind: what each operation means, over the ledger, keys and limits.

Pure. Time arrives as two numbers: `now_ns`, the wall clock made monotonic, which dates
rows, and `tick_ns`, a monotonic clock, which runs leases and rates. Randomness and hashes
are made by the caller. An operation applies whole or raises a MarketError and changes
nothing; repeating one that applied returns the first answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

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
from market.accounting.caps import windows_of
from market.accounting.customers import Key, check_may_spend
from market.accounting.ended import Ended
from market.accounting.folding import Folding
from market.accounting.holding import BookTerms, hold_terms
from market.accounting.kept_answers import KeptAnswers
from market.accounting.ledger import Ledger, OpenHold
from market.accounting.parts import check_parts, parts_of, parts_text, same_macs
from market.accounting.registry import Registry
from market.accounting.rows import (
    Changes,
    CheckpointRow,
    RequestRow,
    Snapshot,
)
from market.accounting.state_rows import (
    FoldedRow,
    IdempotencyRow,
    KeyRow,
    OwnerRow,
    QuotaRow,
)
from market.errors import Conflict, PaymentRequired, RateLimited
from market.messages import (
    AccountantOp,
    AccountantReply,
    Admit,
    Admitted,
    Checkpoint,
    KeyRecord,
    Part,
    Replay,
    ResolveKey,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import AccountId, MachineId, RequestId

PAYEE_TIER: Final = "free"
"""What an account opened by its first earning may consume until its owner claims it."""
SWEEP_GAP_NS: Final = 60_000_000_000  # a longer pause between sweeps means we were asleep


class Books(Registry):
    """Applies operations and gathers what they change."""

    def __init__(self, terms: BookTerms, snapshot: Snapshot, *, now_ns: int, tick_ns: int) -> None:
        self.last_ts_ns = snapshot.last_ts_ns
        ledger = Ledger(snapshot, lease_ends_tick_ns=tick_ns + terms.lease_ttl_ns)
        super().__init__(terms, snapshot, ledger)
        self.answers = KeptAnswers(snapshot.rows(IdempotencyRow))
        self.ended = Ended()
        self.folding = Folding(snapshot.rows(FoldedRow))
        self._last_sweep_tick_ns = tick_ns
        # Ledger time, not the wall's: after a step back of the clock the holds of the day that
        # the ledger has already reached must still count.
        present_ns = max(now_ns, self.last_ts_ns)
        today = admission.day_of(present_ns)
        for opened in self.ledger.holds.values():
            parts_of(opened.checkpoint.parts)  # unreadable ones must be seen now, not at the end
            meter = self.customers.get(opened.terms.owner).meter
            meter.roll(today)
            if admission.day_of(opened.terms.created_ns) == meter.day:
                meter.reserve(opened.reserved_tokens)
            key = self.customers.key_of_hold(opened.terms.key_id)
            if key is not None and key.caps is not None:
                key.meter.roll(windows_of(present_ns))
                key.meter.reserve(opened.held_nano, windows_of(opened.terms.created_ns))

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
                record = self.customers.live_key(op.key_hash, now_ns).record
                machines = self.machines_of(record.account)
                return replace(record, machines=machines) if machines else record

    def stamp(self, wall_ns: int) -> int:
        """Ledger time: the wall clock, but strictly growing whatever the clock does."""
        next_ns = self.last_ts_ns + 1
        self.last_ts_ns = now_ns = wall_ns if wall_ns > next_ns else next_ns
        return now_ns

    def unknown(self, ops: Sequence[AccountantOp]) -> list[RequestId]:
        """The requests these operations name that are not in memory: look for them on disk."""
        holds, finished = self.ledger.holds, self.ended.rows
        return [
            op.request_id
            for op in ops
            if not isinstance(op, ResolveKey)
            and op.request_id not in holds
            and op.request_id not in finished
        ]

    def take(self) -> Changes:
        """What to write now, in one commit."""
        changes = self.ledger.take()
        changes.last_ts_ns = self.last_ts_ns
        return changes

    def _admit(self, op: Admit, now_ns: int, tick_ns: int) -> Admitted | Replay:
        key = self.customers.live_key(op.key_hash, now_ns)
        card = self.terms.catalogue.get(op.model)
        check_may_spend(key, op.model)
        if op.idempotency is not None:
            replay = self.answers.before(op, key.owner.row.id)
            if replay is not None:
                return replay
        opened = self.ledger.holds.get(op.request_id)
        if opened is not None:
            return self._admitted_before(op, opened, key, now_ns, tick_ns)
        if op.request_id in self.ended.rows:
            raise Conflict(
                f"The request {op.request_id} has already ended; a new one needs a new id.",
                None,
                "request_finished",
                None,
                False,
            )
        owner = key.owner
        owner.meter.roll(admission.day_of(now_ns))
        try:
            tat_ns = admission.next_arrival_ns(owner.meter, owner.tier, tick_ns)
            terms = hold_terms(op, key, self.terms, self.prices.now(card), self.ledger, now_ns)
        except (RateLimited, PaymentRequired) as refusal:
            rate = admission.rate_state(owner.meter, owner.tier, now_ns=now_ns, tick_ns=tick_ns)
            raise refusal.with_rate(rate) from None
        opened = self.ledger.hold(terms, lease_ends_tick_ns=tick_ns + self.terms.lease_ttl_ns)
        owner.meter.tat_ns = tat_ns
        owner.meter.reserve(opened.reserved_tokens)
        if key.caps is not None:
            key.meter.reserve(opened.held_nano, windows_of(now_ns))
        if op.idempotency is not None:
            self.answers.begin(op, owner.row.id, now_ns, self.ledger.changes)
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
            row = self.ended.known(op.request_id)
            same = same_macs(op, row, self.ended.deliveries(op.request_id), self._earner)
            return settled_before(op, row, same_macs=same)
        check_settle(op)
        check_usage(op.usage, opened)
        check_parts(op)
        payee = self._earner(op.payee, op.machine)
        before = self._open_payees(payee, op.before, now_ns)
        row = self.ledger.settle(
            opened,
            progress_of(op, payee),
            status="settled",
            finish_reason=op.finish_reason,
            attempts=op.attempts,
            ttft_ms=float(op.ttft_ms),
            total_ms=float(op.total_ms),
            now_ns=now_ns,
            due_day=self._due_day(now_ns),
            before=before,
        )
        self._end(opened, row, op.outcome)
        return settled(row)

    def _void(self, op: Void, now_ns: int) -> Voided:
        opened = self.ledger.holds.get(op.request_id)
        if opened is None:
            row = self.ended.known(op.request_id)
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
            self.ended.known(op.request_id)  # a late checkpoint of an ended request is harmless
            return
        check_usage(op.usage, opened)
        if op.payee is not None:
            check_text("payee", op.payee)
        check_text("machine", op.machine or "")
        check_text("provider", op.provider or "")
        check_parts(op)
        progress = progress_of(op, op.payee)
        if op.before:
            progress = progress._replace(parts=parts_text(op.before))
        # A failed-over request starts again at zero on another Mac; a payee, once known,
        # is only replaced by another payee.
        if op.payee is None:
            progress = opened.checkpoint
        self.ledger.checkpoint(opened, progress, tick_ns + self.terms.lease_ttl_ns)

    def change_key(self, row: KeyRow) -> KeyRecord:
        """Replace a key's row. A cap binds at once: what the key has running counts too."""
        record = super().change_key(row)
        key = self.customers.key(row.owner, row.id)
        if key.caps is not None:
            key.meter.roll(windows_of(self.last_ts_ns))
            key.meter.reserved = [0, 0, 0]
            for opened in self.ledger.holds.values():
                holder = self.customers.key_of_hold(opened.terms.key_id)
                if holder is not None and holder.meter is key.meter:
                    key.meter.reserve(opened.held_nano, windows_of(opened.terms.created_ns))
        return record

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
        before: tuple[Part, ...] = ()
        if status == "expired" and opened.checkpoint.completion_tokens > 0:
            progress = opened.checkpoint
            if progress.payee is not None:
                payee = self._earner(progress.payee, progress.machine)
                progress = progress._replace(payee=payee)
                before = self._open_payees(payee, parts_of(progress.parts), now_ns)
        row = self.ledger.settle(
            opened,
            progress,
            status="expired" if status == "expired" else "voided",
            finish_reason=reason,
            attempts=attempts,
            ttft_ms=0.0,
            total_ms=0.0,
            now_ns=now_ns,
            due_day=self._due_day(now_ns),
            before=before,
        )
        self._end(opened, row)
        return row

    def _due_day(self, now_ns: int) -> int | None:
        days = self.terms.promo_maturity_days
        return admission.day_of(now_ns) + days if days else None

    def _end(self, opened: OpenHold, row: RequestRow, outcome: bytes | None = None) -> None:
        if opened.terms.idempotency is not None:
            self.answers.end(opened.terms, row, outcome, self.ledger.changes)
        owner = self.customers.get(row.owner)
        limited = owner.tier.tokens_per_day is not None
        # Only what is also written counts: a restart must not change what is left.
        owner.meter.correct(
            day=admission.day_of(opened.terms.created_ns),
            reserved_tokens=opened.reserved_tokens,
            used_tokens=row.prompt_tokens + row.completion_tokens if limited else 0,
        )
        if limited:
            self.ledger.changes.put(QuotaRow(row.owner, owner.meter.day, owner.meter.used_tokens))
        key = self.customers.key_of_hold(row.key_id)
        if key is not None and key.caps is not None:
            key.meter.correct(
                windows_of(opened.terms.created_ns),
                held_nano=opened.held_nano,
                cost_nano=row.cost_nano,
            )
            self.ledger.changes.put(key.meter.row(key.row))
        written = self.ledger.changes.deliveries
        self.ended.add(row, written[-row.deliveries :] if row.deliveries else ())

    # ── who earns ─────────────────────────────────────────────────────────────────────

    def _earner(self, payee: AccountId, machine: MachineId | None) -> AccountId:
        """Who a machine earns for: the account it is linked to, whatever its label says."""
        return payee if machine is None else self.machines.get(machine, payee)

    def _open_payees(
        self, payee: AccountId, before: Sequence[Part], now_ns: int
    ) -> tuple[Part, ...]:
        """Open whoever is paid and has no account yet; the parts, with who earns for each."""
        if not before:
            self._open_payee(payee, now_ns)
            return ()
        if payee not in self.customers:
            check_text("payee", payee)  # before anything has changed
        parts = tuple(
            replace(part, payee=self._earner(part.payee, part.machine)) for part in before
        )
        for part in parts:
            self._open_payee(part.payee, now_ns)
        self._open_payee(payee, now_ns)
        return parts

    def _open_payee(self, payee: AccountId, now_ns: int) -> None:
        """A Mac may serve before its owner's account was opened: it earns into one of that id.

        The consumer's answer must not fail on it, and what was earned must not be lost.
        """
        if payee not in self.customers:
            check_text("payee", payee)
            self.create_owner(OwnerRow(payee, payee, PAYEE_TIER, now_ns), 0)

    def request(self, request_id: RequestId) -> RequestRow | None:
        """A request as it stands in memory: open, or among the lately finished."""
        opened = self.ledger.holds.get(request_id)
        return running(opened) if opened else self.ended.rows.get(request_id)

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
            "finished_remembered": len(self.ended.rows),
        }
