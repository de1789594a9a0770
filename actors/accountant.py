"""The accountant: one writer, balances in memory, one durable commit for many callers.

A thin shell around `market.accounting.books`: it brings clocks, randomness and the disk. Every batch
is applied to memory at once, and its replies leave only after the commit that contains it.
Memory is ahead of the disk in between; therefore any commit error is fatal. The actor
refuses everything from then on and is started afresh, reading the truth from the disk.
Every operation may be repeated safely, so callers simply ask again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from actors.group_commit import GroupCommit
from market import keys
from market.accounting.audit import VerifyReport
from market.accounting.books import Books
from market.accounting.holding import BookTerms
from market.accounting.operations import Operations
from market.accounting.rows import (
    KeyRow,
    LedgerStore,
    OwnerRow,
    RequestRow,
    scopes_text,
)
from market.catalogue import Catalogue
from market.errors import Conflict, MarketError, NotFound, Unavailable
from market.messages import AccountantOp, AccountantReply, Balance, KeyRecord, ResolveKey
from market.types import AccountId, KeyId, RequestId
from storage.database import SQLITE_VERSION, StorageError
from storage.ledger_store import SqliteLedgerStore
from storage.pepper import load_pepper
from storage.verify import verify

log = logging.getLogger(__name__)

PROMO_NANO: Final = 10_000_000_000  # $10 for a new account
SWEEP_S: Final = 1.0  # how often leases are looked at
METRICS: Final = "coster_ledger"  # what every metric's name begins with
RETRY_AFTER_S: Final = 2.0  # a restart takes one to two seconds


@dataclass(frozen=True, slots=True)
class AccountantSettings:
    """Where the ledger is and what the operator decided. Sums in nano-USD."""

    data: Path
    catalogue: Catalogue = field(default_factory=Catalogue)
    fee_bps: int = 0
    promo_nano: int = PROMO_NANO
    lease_ttl_s: float = 60.0
    lock_wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of the books, injectable."""

    wall_ns: Callable[[], int] = time.time_ns
    tick_ns: Callable[[], int] = time.monotonic_ns


class Accountant:
    """Keeps the books. All methods run on one asyncio loop."""

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
        self._store = self._given_store or await SqliteLedgerStore.open(
            settings.data, now_ns=clock.wall_ns(), lock_wait_s=settings.lock_wait_s
        )
        snapshot = await self._store.load()
        terms = BookTerms(
            catalogue=settings.catalogue,
            fee_bps=settings.fee_bps,
            lease_ttl_ns=int(settings.lease_ttl_s * 1e9),
        )
        self._books = Books(terms, snapshot, now_ns=clock.wall_ns(), tick_ns=clock.tick_ns())
        self._operations = Operations(snapshot.operations)
        problems = self._books.ledger.check()
        if problems:
            await self._store.close()
            raise StorageError(
                "The ledger contradicts itself: "
                + " ".join(problems)
                + " Run `coster ledger verify` and restore a backup."
            )
        self._commits = GroupCommit(self._books, self._store, self._refuse, clock.tick_ns)
        self._refusal = None
        self._sweeper = asyncio.create_task(self._sweep_forever(), name="accountant-sweep")
        log.info("accountant started: sqlite %s", SQLITE_VERSION)

    async def stop(self) -> None:
        """Write what is pending and let go of the folder. Idempotent."""
        if self._sweeper is None or self._stopped:
            return
        self._stopped = True
        self._refusal = self._refusal or _unavailable("The accountant is stopping.", "stopping")
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
                self._books.remember(await self._store.finished(unknown))
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

    def _apply(self, op: AccountantOp) -> AccountantReply | MarketError:
        clock = self._clock
        try:
            return self._books.apply(op, wall_ns=clock.wall_ns(), tick_ns=clock.tick_ns())
        except MarketError as error:
            self._refusals[error.code or error.type] += 1
            return error

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._refusal:
                return
            await self.sweep()

    async def sweep(self) -> list[RequestRow]:
        """Close the holds whose gateway has been silent for a whole lease."""
        rows = self._books.expire(wall_ns=self._clock.wall_ns(), tick_ns=self._clock.tick_ns())
        for row in rows:
            self._expired += 1
            log.warning("hold %s expired at %d nano-USD", row.request_id, row.cost_nano)
        if rows:
            await self._commits.durable()
        return rows

    def _refuse(self, reason: str) -> None:
        """The commit loop has stopped: refuse everything and ask to be replaced."""
        self._refusal = _unavailable(
            "The ledger cannot be written just now; nothing was charged for this call. Try again.",
            "ledger_unavailable",
        )
        if self._on_fatal:
            self._on_fatal(reason)

    # ── accounts and keys ─────────────────────────────────────────────────────────────

    async def create_account(
        self,
        name: str,
        tier: str = "free",
        promo_nano: int | None = None,
        idempotency: str | None = None,
    ) -> tuple[AccountId, KeyRecord, str]:
        """A new account, its management key and that key's secret, which is shown only once.

        With an idempotency key a repetition creates nothing and raises Conflict: the
        first secret is not kept, so it cannot be said again.
        """
        self._check_alive()
        if idempotency is not None:
            self._operations.check("create_account", idempotency, (name, tier, promo_nano))
        now_ns = self._now_ns()
        owner = OwnerRow(
            AccountId(keys.new_id("acct", secrets.token_bytes(12))), name, tier, now_ns
        )
        self._books.create_owner(owner, self._promo(promo_nano))
        record, secret = self._new_key(owner.id, "management", keys.MANAGEMENT_SCOPES, None)
        if idempotency is not None:
            done = self._operations.remember(
                "create_account", idempotency, (name, tier, promo_nano), owner.id, now_ns
            )
            self._books.ledger.changes.operations.append(done)
        await self._written()
        return owner.id, record, secret

    async def ensure_account(
        self, account: AccountId, name: str, tier: str = "free", promo_nano: int | None = None
    ) -> OwnerRow:
        """The account of this id, created on first call; for accounts the operator names."""
        self._check_alive()
        if account not in self._books.customers:
            row = OwnerRow(account, name, tier, self._now_ns())
            self._books.create_owner(row, self._promo(promo_nano))
            await self._written()
        return self._books.customers.get(account).row

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str] = keys.INFERENCE_SCOPES,
        expires_s: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret, which is shown only once. `expires_s`: Unix time."""
        self._check_alive()
        record, secret = self._new_key(account, name, scopes, expires_s)
        await self._written()
        return record, secret

    async def ensure_key(
        self, account: AccountId, name: str, scopes: Iterable[str], secret: str
    ) -> KeyRecord:
        """The key with this secret, entered on first call; for keys the operator keeps."""
        self._check_alive()
        known = self._books.customers.find_key(keys.key_hash(secret, self._pepper))
        if known is not None:
            if known.account != account:
                raise Conflict("This key belongs to another account.", None, "key_taken")
            return known
        record = self._enter_key(account, name, scopes, None, secret)
        await self._written()
        return record

    async def list_keys(self, account: AccountId) -> list[KeyRecord]:
        """Every key of the account, oldest first, revoked ones included."""
        self._check_alive()
        return self._books.customers.keys_of(account)

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        """End a key now. Again is no error; someone else's key is NotFound."""
        self._check_alive()
        record = self._books.revoke(account, key_id, self._now_ns())
        await self._written()
        return record

    def _new_key(
        self, account: AccountId, name: str, scopes: Iterable[str], expires_s: float | None
    ) -> tuple[KeyRecord, str]:
        secret = keys.new_secret(secrets.token_bytes(keys.RANDOM_BYTES))
        return self._enter_key(account, name, scopes, expires_s, secret), secret

    def _enter_key(
        self,
        account: AccountId,
        name: str,
        scopes: Iterable[str],
        expires_s: float | None,
        secret: str,
    ) -> KeyRecord:
        row = KeyRow(
            id=KeyId(keys.new_id("key", secrets.token_bytes(12))),
            owner=account,
            hash=keys.key_hash(secret, self._pepper),
            name=name,
            prefix=keys.shown_prefix(secret),
            scopes=scopes_text(scopes),
            created_ns=self._now_ns(),
            expires_ns=None if expires_s is None else int(expires_s * 1e9),
            revoked_ns=None,
        )
        return self._books.add_key(row)

    # ── statements ────────────────────────────────────────────────────────────────────

    async def balance(self, account: AccountId) -> Balance:
        """What the account has; raises NotFound."""
        self._check_alive()
        return self._books.balance(account)

    async def usage(self, account: AccountId, limit: int = 100) -> list[RequestRow]:
        """The account's charged requests, newest first."""
        self._check_alive()
        self._books.customers.get(account)
        return await self._store.usage(account, limit)

    async def holds(self, account: AccountId) -> list[RequestRow]:
        """The account's running requests, oldest first."""
        self._check_alive()
        self._books.customers.get(account)
        return self._books.open_requests(account)

    async def generation(self, account: AccountId | None, request_id: RequestId) -> RequestRow:
        """One request, running or ended. Someone else's is NotFound; None sees them all."""
        self._check_alive()
        row = self._books.request(request_id)
        if row is None:
            rows = await self._store.finished([request_id])
            row = rows[0] if rows else None
        if row is None or account not in (None, row.owner):
            raise NotFound(
                f"There is no request {request_id[:60]!r}.", "request_id", "request_not_found"
            )
        return row

    async def verify(self) -> VerifyReport:
        """Check the whole ledger on disk, while work goes on."""
        return await asyncio.to_thread(verify, self._settings.data)

    async def describe(self) -> dict[str, object]:
        """Who this is, for `status`."""
        return {
            "pid": os.getpid(),
            "role": "accountant",
            "state": "failed" if self.failed else "refusing" if self._refusal else "running",
            "reason": self.failed or "",
            "data": str(self._settings.data),
            "sqlite": SQLITE_VERSION,
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
            **{f"{METRICS}_{name}_total": float(value) for name, value in totals.items()},
            **{
                f'{METRICS}_refusals_total{{code="{code}"}}': float(count)
                for code, count in self._refusals.items()
            },
            **{f"{METRICS}_{name}": float(size) for name, size in self._books.counts().items()},
        }

    def _check_alive(self) -> None:
        if self._refusal:
            raise self._refusal

    async def _written(self) -> None:
        await self._commits.durable()
        self._check_alive()

    def _promo(self, promo_nano: int | None) -> int:
        return self._settings.promo_nano if promo_nano is None else promo_nano

    def _now_ns(self) -> int:
        return self._books.stamp(self._clock.wall_ns())


def _unavailable(message: str, code: str) -> Unavailable:
    return Unavailable(message, None, code, RETRY_AFTER_S, True)
