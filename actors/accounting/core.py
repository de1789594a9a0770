"""The accountant's core: the disk, the clocks, the hot path and its one commit for many callers.

Every batch is applied to memory at once, and its replies leave only after the commit that
contains it. Memory is ahead of the disk in between; therefore any commit error is fatal: the
process refuses everything from then on and is started afresh, reading the truth from disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from actors.accounting.auditing import Auditor, verdict
from actors.group_commit import GroupCommit
from market.accounting.admission import day_of
from market.accounting.audit import VerifyReport
from market.accounting.books import Books
from market.accounting.checkpoints import checkpoint_row
from market.accounting.folding import ROWS_MAX as FOLD_ROWS_MAX
from market.accounting.holding import BookTerms
from market.accounting.laws import broken_laws
from market.accounting.metric_families import LEDGER
from market.accounting.operations import Operations
from market.accounting.promos import PromoRules, Promos
from market.accounting.rollups import NS_PER_S
from market.accounting.rows import RequestRow, Snapshot
from market.accounting.state_rows import OwnerRow
from market.accounting.store import LedgerStore
from market.catalogue import Catalogue
from market.errors import MarketError, Unavailable
from market.messages import AccountantOp, AccountantReply, ResolveKey
from market.metrics import labelled
from market.payments.desk import Desk
from market.payments.laws import broken_payment_laws
from market.settings import PaymentSettings
from market.types import RequestId
from storage.database import Away, StorageError
from storage.opening import open_ledger, verify_ledger
from storage.pepper import load_pepper

log = logging.getLogger("coster.ledger")

SWEEP_S: Final = 1.0  # how often leases are looked at
HOUSEKEEPING_S: Final = 60.0  # how often earnings mature and old answers are forgotten
RETRY_AFTER_S: Final = 2.0  # a restart takes one to two seconds


@dataclass(frozen=True, slots=True)
class AccountantSettings:
    """Where the ledger is and what the operator decided. Sums in nano-USD.

    `database` is as in `MarketSettings`; it may hold a password.
    """

    data: Path
    database: str = field(default="", repr=False)
    catalogue: Catalogue = field(default_factory=Catalogue)
    fee_bps: int = 0
    promo: PromoRules = field(default_factory=PromoRules)
    promo_maturity_days: int = 0
    lease_ttl_s: float = 60.0
    lock_wait_s: float = 10.0
    payments: PaymentSettings = field(default_factory=PaymentSettings)


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of the books, injectable."""

    wall_ns: Callable[[], int] = time.time_ns
    tick_ns: Callable[[], int] = time.monotonic_ns


class AccountantCore:
    """Opens the ledger, applies batches and commits them. All on one asyncio loop."""

    def __init__(
        self,
        settings: AccountantSettings,
        *,
        on_fatal: Callable[[str], None] | None = None,
        clock: Clock | None = None,
        store: LedgerStore | None = None,
    ) -> None:
        """`on_fatal` is called once, with the reason, when this process must be replaced."""
        self._settings = settings
        self._on_fatal = on_fatal
        self._clock = clock or Clock()
        self._given_store = store
        self._sweeper: asyncio.Task[None] | None = None
        self._audit: asyncio.Task[None] | None = None
        self._folds = asyncio.Lock()  # one step at a time
        self._applied = 0
        self._expired = 0
        self._refusals: Counter[str] = Counter()
        self._refusal: Unavailable | None = _unavailable(
            "The accountant has not started.", "starting"
        )
        self._stopped = False

    @property
    def failed(self) -> str | None:
        """Why this process must be replaced, or None while all is well."""
        return self._commits.failed if self._sweeper else None

    async def start(self) -> None:
        """Open the ledger and begin. Raises StorageError with the reason and the fix."""
        settings, clock = self._settings, self._clock
        self._pepper = load_pepper(settings.data)
        self._store = self._given_store or await open_ledger(
            settings.data,
            settings.database,
            now_ns=clock.wall_ns(),
            lock_wait_s=settings.lock_wait_s,
        )
        try:
            self._read(await self._store.load())
            self._auditor = Auditor(self._on_disk, clock.tick_ns)
            report = await self._auditor.run(0)
            if not report.ok:
                raise StorageError(verdict(report))
        except BaseException:
            await self._store.close()
            raise
        self._books.adopt_prices(self._now_ns())
        self._commits = GroupCommit(self._books, self._store, self._refuse, clock.tick_ns)
        self._refusal = None
        await self._keep_checkpoint(report)
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="accountant-sweep")
        log.info("accountant started: %s", self._store.kept_in)

    def _read(self, snapshot: Snapshot) -> None:
        """The books as the disk has them; raises StorageError when they cannot be true."""
        settings, clock = self._settings, self._clock
        terms = BookTerms(
            catalogue=settings.catalogue,
            fee_bps=settings.fee_bps,
            lease_ttl_ns=int(settings.lease_ttl_s * 1e9),
            promo_maturity_days=settings.promo_maturity_days,
        )
        try:
            self._books = Books(terms, snapshot, now_ns=clock.wall_ns(), tick_ns=clock.tick_ns())
            self._operations = Operations(snapshot.operations)
            self._promos = Promos(settings.promo, snapshot.rows(OwnerRow))
            self._desk = Desk(self._books, snapshot, settings.payments)
            problems = [*broken_laws(self._books.ledger), *broken_payment_laws(self._desk)]
        except (LookupError, ValueError, TypeError, OverflowError, MarketError) as error:
            problems = [f"its rows do not fit together ({type(error).__name__}: {error})."]
        if problems:
            raise StorageError(
                "The ledger contradicts itself: "
                + " ".join(problems)
                + " Run `coster ledger verify` and restore a backup."
            )

    def _on_disk(self, full: bool) -> VerifyReport:
        if self._given_store is not None:
            return VerifyReport()  # a store without a disk has nothing that could rot
        return verify_ledger(self._settings.data, self._settings.database, full=full)

    async def audit(self, *, full: bool = False) -> VerifyReport:
        """Check the ledger on disk while work goes on, and remember how far it is right.

        From the last checkpoint, or with `full` all of it. Findings end this process.
        """
        report = await self._auditor.run(self._commits.commits, full=full)
        if report.ok:
            await self._keep_checkpoint(report)
        else:
            self._commits.fail(verdict(report))
        return report

    async def _audit_now(self) -> None:
        try:
            await self.audit()
        except Away as error:  # a server that is away says nothing about the books
            log.warning("the audit could not be made now and is tried again: %s", error)
        except Exception as error:  # noqa: BLE001  an audit that cannot be made proves nothing
            self._commits.fail(f"the audit could not be made: {type(error).__name__}: {error}")

    async def _keep_checkpoint(self, report: VerifyReport) -> None:
        found = self._auditor.moved(report)
        if found is not None and self._refusal is None:
            self._books.ledger.changes.put(checkpoint_row(found, self._now_ns()))
            await self._commits.durable()

    async def stop(self) -> None:
        """Write what is pending and let go of the folder. Idempotent."""
        if self._sweeper is None or self._stopped:
            return
        self._stopped = True
        self._refusal = self._refusal or _unavailable("The accountant is stopping.", "stopping")
        if self._audit is not None:
            await asyncio.gather(self._audit, return_exceptions=True)
        await self._commits.close()
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._store.close()

    # ── the hot path ──────────────────────────────────────────────────────────────────

    async def batch(self, ops: Sequence[AccountantOp]) -> list[AccountantReply | MarketError]:
        """Carry out operations in order; replies come when all of it is durable.

        Each operation stands alone: a refused one is answered by its error and does not
        hinder the others. When the ledger cannot be written, every answer is Unavailable
        and the caller should ask again.
        """
        if self._refusal:
            return [self._refusal] * len(ops)
        unknown = self._books.unknown(ops)
        if unknown:
            try:
                await self._look_up(unknown)
            except StorageError as error:
                self._commits.fail(str(error))
        if self._refusal:
            return [self._refusal] * len(ops)
        replies = [self._apply(op) for op in ops]
        self._applied += len(ops)
        if any(not isinstance(op, ResolveKey) for op in ops):
            await self._commits.durable()
            if self._refusal:
                return [self._refusal] * len(ops)
        return replies

    async def _look_up(self, unknown: Sequence[RequestId]) -> None:
        """Bring ended requests back into memory: one may be settled again after a restart."""
        rows = await self._store.finished(unknown)
        several = [row.request_id for row in rows if row.deliveries is not None]
        deliveries = await self._store.deliveries(several) if several else []
        self._books.ended.remember(rows, deliveries)

    def _apply(self, op: AccountantOp) -> AccountantReply | MarketError:
        clock = self._clock
        try:
            return self._books.apply(op, wall_ns=clock.wall_ns(), tick_ns=clock.tick_ns())
        except MarketError as error:
            self._refusals[error.code or error.type] += 1
            return error

    async def _sweep_forever(self) -> None:
        next_ns = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._refusal:
                return
            await self.sweep()
            if self._auditor.due(self._commits.commits) and (
                self._audit is None or self._audit.done()
            ):
                self._audit = asyncio.create_task(self._audit_now(), name="accountant-audit")
            if self._clock.tick_ns() >= next_ns:
                next_ns = self._clock.tick_ns() + int(HOUSEKEEPING_S * 1e9)
                await self.tidy_up()

    async def tidy_up(self) -> None:
        """Release the earnings that are due, forget what was kept for a day, fold minutes."""
        problems = broken_payment_laws(self._desk)
        if problems:
            self._commits.fail("payments contradict the books: " + " ".join(problems))
            return
        now_ns = self._now_ns()
        matured = self._books.ledger.mature(day_of(now_ns), now_ns)
        forgotten = self._books.answers.forget(now_ns, self._books.ledger.changes)
        if matured or forgotten:
            log.info("%d lots of earnings matured, %d kept answers ended", matured, forgotten)
            await self._written()
        await self.fold()

    async def fold(self) -> bool:
        """Fold minutes that are over, and forget old ones: one step. Whether more is left."""
        folding, histories = self._books.folding, self._store.histories
        async with self._folds:
            try:
                now_s = self._now_ns() // NS_PER_S
                from_s, over_s = folding.to_fold(now_s)
                if from_s < over_s:
                    to_s = await histories.minutes_within(from_s, over_s, FOLD_ROWS_MAX)
                    folding.fold(to_s, self._books.ledger.changes)
                    await self._written()
                kept_s, old_s = folding.to_forget(now_s)
                if kept_s < old_s:
                    before_s = await histories.minutes_within(kept_s, old_s, FOLD_ROWS_MAX)
                    folding.forget(before_s, self._books.ledger.changes)
                    await self._written()
            except StorageError as error:  # it was read, not written: the next step tries again
                log.warning("minutes could not be folded now: %s", error)
                return True
            return folding.to_fold(now_s)[0] < over_s or folding.to_forget(now_s)[0] < old_s

    async def sweep(self) -> list[RequestRow]:
        """Close the holds whose gateway has been silent for a whole lease."""
        rows = self._books.expire(wall_ns=self._clock.wall_ns(), tick_ns=self._clock.tick_ns())
        for row in rows:
            self._expired += 1
            about = {"request_id": row.request_id}
            log.warning("a hold expired at %d nano-USD", row.cost_nano, extra=about)
        if rows:
            await self._commits.durable()
        return rows

    def _refuse(self, reason: str) -> None:
        """The commit loop has stopped: refuse everything and ask to be replaced."""
        self._refusal = _unavailable(
            "The ledger cannot be written just now. Try again.", "ledger_unavailable"
        )
        if self._on_fatal:
            self._on_fatal(reason)

    async def describe(self) -> dict[str, object]:
        """Who this is, for `status`."""
        return {
            "pid": os.getpid(),
            "role": "accountant",
            "state": "failed" if self.failed else "refusing" if self._refusal else "running",
            "reason": self.failed or "",
            "data": str(self._settings.data),
            "books": self._store.kept_in,
            **self._books.counts(),
        }

    async def metrics(self) -> dict[str, float]:
        """By Prometheus' names: `…_total` counts since the start, the others are present sizes."""
        totals = {
            "operations": self._applied,
            "leases_expired": self._expired,
            "commits": self._commits.commits,
            "commit_seconds": self._commits.commit_ns / 1e9,
        }
        return {
            **{f"{LEDGER}_{name}_total": float(value) for name, value in totals.items()},
            **{
                labelled(f"{LEDGER}_refusals_total", code=code): float(count)
                for code, count in self._refusals.items()
            },
            **{f"{LEDGER}_{name}": float(size) for name, size in self._books.counts().items()},
            **{f"{LEDGER}_{name}": value for name, value in self._auditor.figures().items()},
        }

    def _check_alive(self) -> None:
        if self._refusal:
            raise self._refusal

    async def _written(self) -> None:
        await self._commits.durable()
        self._check_alive()

    def _now_ns(self) -> int:
        return self._books.stamp(self._clock.wall_ns())


def _unavailable(message: str, code: str) -> Unavailable:
    return Unavailable(message, None, code, RETRY_AFTER_S, True)
