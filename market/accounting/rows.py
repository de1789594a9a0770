"""What the ledger writes and reads back: rows, and a batch of changes.

Rows are plain tuples with names: they cross from the rules to a store thousands of times a
second, and a store writes them as they are. Nothing here knows SQL.

Two kinds of rows must not be confused. *Journal* rows (owner accounts, transfers, finished
requests, operations) are written once and never change; they are what the hash chain
covers. *State* rows are the present: counters and open holds, which have fields of their own
in `Changes`, and the rows of `market.accounting.state_rows`, which a store keeps without
knowing what they mean. Every sum in them can be computed again from the journal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from market.accounting.chart import Account, Code
from market.accounting.state_rows import Row, StateKey, StateRow, state_key
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId

RequestStatus = Literal["held", "settled", "voided", "expired"]


class AccountRow(NamedTuple):
    """A ledger account's identity; its counters travel separately."""

    number: int
    code: int
    owner: str


class TransferRow(NamedTuple):
    """One posting: `amount_nano` from the debit account to the credit account.

    (id, leg) is unique. `code` is a `market.accounting.chart.Posting`.
    """

    id: str
    leg: int
    debit: int
    credit: int
    amount_nano: int
    code: int
    ts_ns: int


class HoldRow(NamedTuple):
    """The frozen terms of an open hold."""

    request_id: RequestId
    owner: AccountId
    key_id: KeyId
    model: ModelId
    prompt_tokens: int
    asked_max_tokens: int | None
    max_tokens_cap: int
    n: int
    max_tokens: int
    promo_nano: int
    cash_nano: int
    earnings_nano: int
    price_in_nano: int
    price_out_nano: int
    fee_bps: int
    created_ns: int
    price_cached_nano: int | None = None  # None: written before it existed, as price_in_nano
    idempotency: str | None = None  # the caller's own key, hashed

    @property
    def cached_price_nano(self) -> int:
        """Nano-USD per prompt token that was found in a cache."""
        return self.price_in_nano if self.price_cached_nano is None else self.price_cached_nano


class CheckpointRow(NamedTuple):
    """How far an open request has come, as last reported."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    payee: AccountId | None = None
    machine: MachineId | None = None
    provider: ProviderId | None = None
    ask_pct: int = 100
    parts: str = ""  # of Macs that were lost, as `market.accounting.parts` writes them


class RequestRow(NamedTuple):
    """One request, finished: what was delivered, what it cost, who got it.

    The three `*_nano` funding columns say how the cost was paid; they add up to it, as do
    `provider_nano` and `fee_nano`. `held_nano` is what had been reserved.

    Payee, machine and provider are of the Mac that finished it. Whom else was paid, and at
    which prices, is in so many `DeliveryRow`s; None: all of it is the payee's, at these prices.
    """

    request_id: RequestId
    owner: AccountId
    key_id: KeyId
    model: ModelId
    status: RequestStatus
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nano: int
    provider_nano: int
    fee_nano: int
    promo_nano: int
    cash_nano: int
    earnings_nano: int
    held_nano: int
    price_in_nano: int
    price_out_nano: int
    fee_bps: int
    max_tokens: int
    n: int
    payee: AccountId | None
    machine: MachineId | None
    provider: ProviderId | None
    finish_reason: str
    attempts: int
    ttft_ms: float
    total_ms: float
    created_ns: int
    finished_ns: int
    price_cached_nano: int | None = None  # as in HoldRow
    deliveries: int | None = None

    @property
    def cached_price_nano(self) -> int:
        """Nano-USD per prompt token that was found in a cache."""
        return self.price_in_nano if self.price_cached_nano is None else self.price_cached_nano

    @property
    def created_s(self) -> float:
        return self.created_ns / 1e9

    @property
    def settled_s(self) -> float | None:
        """When it ended, in Unix seconds; None while it runs."""
        return self.finished_ns / 1e9 if self.finished_ns else None


class DeliveryRow(NamedTuple):
    """What one Mac delivered of a request, at which prices per token, and who was paid for it.

    Written, one for each Mac, only where the request's own row cannot say it: when more than
    one Mac delivered, or one asked less than the market's prices. `number` counts the Macs in
    the order of delivery, from 0; the last one has finished the answer.
    """

    request_id: RequestId
    number: int
    payee: AccountId
    machine: MachineId | None
    provider: ProviderId | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ask_pct: int
    price_in_nano: int
    price_cached_nano: int
    price_out_nano: int
    cost_nano: int
    provider_nano: int
    fee_nano: int
    promo_nano: int
    cash_nano: int
    earnings_nano: int

    def as_request(self, whole: RequestRow) -> RequestRow:
        """The request as this Mac's owner sees it: their tokens, their prices, their share."""
        return whole._replace(
            payee=self.payee,
            machine=self.machine,
            provider=self.provider,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            price_in_nano=self.price_in_nano,
            price_cached_nano=self.price_cached_nano,
            price_out_nano=self.price_out_nano,
            cost_nano=self.cost_nano,
            provider_nano=self.provider_nano,
            fee_nano=self.fee_nano,
            promo_nano=self.promo_nano,
            cash_nano=self.cash_nano,
            earnings_nano=self.earnings_nano,
        )


class Earned(NamedTuple):
    """What requests have paid in nano-USD, how many they were, and the newest of them.

    A request that several Macs delivered is here what these accounts have got of it.
    """

    total_nano: int
    jobs: int
    recent: tuple[RequestRow, ...]


class OperationRow(NamedTuple):
    """An act of administration, written down once: who did what, and why.

    `key` is unique: it is the hash of its caller's idempotency key, or an id of ours.
    `result` is the id it made, or the act as JSON.
    """

    key: str
    fingerprint: str
    result: str
    ts_ns: int


class Revenue(NamedTuple):
    """What one consumer's requests have earned one payee in some days."""

    payee: AccountId
    owner: AccountId
    earned_nano: int


@dataclass(slots=True)
class Changes:
    """Everything one commit must write, together or not at all.

    `counters` holds the final (dp, dpo, cp, cpo) of every account touched. A hold opened
    and closed within one batch never reaches the store.

    A store adds the sums of `requests` and `deliveries` to its rollups, then folds the minutes
    from one Unix second to the other, then forgets those that begin before a third.
    """

    state: dict[type[StateRow], dict[StateKey, StateRow | None]] = field(default_factory=dict)
    accounts: list[AccountRow] = field(default_factory=list)
    counters: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    transfers: list[TransferRow] = field(default_factory=list)
    opened: dict[RequestId, HoldRow] = field(default_factory=dict)
    closed: list[RequestId] = field(default_factory=list)
    checkpoints: dict[RequestId, CheckpointRow] = field(default_factory=dict)
    requests: list[RequestRow] = field(default_factory=list)
    deliveries: list[DeliveryRow] = field(default_factory=list)
    operations: list[OperationRow] = field(default_factory=list)
    fold: tuple[int, int] | None = None
    forget_minutes_s: int | None = None
    last_ts_ns: int = 0

    def put(self, row: StateRow) -> None:
        """Write this row, in place of one with the same key."""
        self.state.setdefault(type(row), {})[state_key(row)] = row

    def drop(self, row: StateRow) -> None:
        """Delete the row with this one's key."""
        self.state.setdefault(type(row), {})[state_key(row)] = None

    def __bool__(self) -> bool:
        return bool(
            self.opened
            or self.transfers
            or self.closed
            or self.requests
            or self.counters
            or self.checkpoints
            or self.state
            or self.accounts
            or self.operations
            or self.fold
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store remembers at start: the present, not the history.

    `state` has the rows of `market.accounting.state_rows.LOADED`; those that have ended are
    left on disk, where `LedgerStore.rows` finds them.
    """

    state: tuple[StateRow, ...] = ()
    accounts: tuple[tuple[AccountRow, tuple[int, int, int, int]], ...] = ()
    holds: tuple[tuple[HoldRow, CheckpointRow], ...] = ()
    operations: tuple[OperationRow, ...] = ()
    last_ts_ns: int = 0

    def rows(self, kind: type[Row]) -> list[Row]:
        """The state rows of one kind, in the order of the store."""
        return [row for row in self.state if isinstance(row, kind)]

    def account_objects(self) -> list[Account]:
        return [
            Account(row.number, Code(row.code), row.owner, *counters)
            for row, counters in self.accounts
        ]
