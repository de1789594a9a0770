"""The present of the market that is not a sum: customers, keys, prices, payments under way.

Each kind of row is one table; a store keeps them all alike, by their keys, and knows no
meaning. What a row says about money is always also a transfer in the journal: these rows
only remember how far a conversation with the outside has come.

States are words. A row in one of its ENDED states never changes again and is not read at
start; everything else is in memory while the market runs.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from market.types import AccountId, KeyId, MachineId, ModelId, RequestId

Cell = int | str | float | bytes | None
StateKey = tuple[Cell, ...]


class OwnerRow(NamedTuple):
    """A customer of the market: who owns keys, credit and earnings.

    `fingerprint` is a keyed hash of where the sign-up came from, "" for accounts that the
    operator opened; `promo_nano` what was granted then. `paid_ns` is the first top-up.
    `fee_bps`, `requests_per_min` and `tokens_per_day` replace the market's and the tier's
    where they are not None. A `frozen` account may not spend or withdraw; it says why.
    """

    id: AccountId
    name: str
    tier: str
    created_ns: int
    fingerprint: str = ""
    promo_nano: int = 0
    paid_ns: int | None = None
    fee_bps: int | None = None
    requests_per_min: int | None = None
    tokens_per_day: int | None = None
    frozen: str = ""


class KeyRow(NamedTuple):
    """An API key as stored: its hash, never the key.

    `models` lists the only ones it may use, space separated, "" for all. Caps are nano-USD
    per UTC day, ISO week and month; None is no cap. `replaces` is the key it was rotated
    from, which lives on until its own `expires_ns`.
    """

    id: KeyId
    owner: AccountId
    hash: bytes
    name: str
    prefix: str
    scopes: str  # space separated, sorted
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None
    models: str = ""
    cap_day_nano: int | None = None
    cap_week_nano: int | None = None
    cap_month_nano: int | None = None
    replaces: KeyId | None = None


class KeySpendRow(NamedTuple):
    """What a capped key has spent in its latest day, week and month (numbers since 1970)."""

    key_id: KeyId
    day: int
    day_nano: int
    week: int
    week_nano: int
    month: int
    month_nano: int
    created_ns: int


class QuotaRow(NamedTuple):
    """Tokens that an account with a daily limit has used on its latest UTC day."""

    owner: AccountId
    day: int
    used_tokens: int


class PriceRow(NamedTuple):
    """A model's prices from a moment on, in nano-USD per token. Older rows are the history."""

    model: ModelId
    created_ns: int
    price_in_nano: int
    price_cached_nano: int
    price_out_nano: int
    actor: str
    reason: str


class LotRow(NamedTuple):
    """Earnings of one account that may be withdrawn from the UTC day `due_day` on."""

    payee: AccountId
    due_day: int
    amount_nano: int


class MachineRow(NamedTuple):
    """A machine that is linked to an account: it earns for it from now on."""

    machine: MachineId
    owner: AccountId
    created_ns: int


class IdempotencyRow(NamedTuple):
    """An inference request made under a caller's own key; `key` and `fingerprint` are hashes.

    `state` is running, kept (its answer is an OutcomeRow) or lost (charged, answer not kept).
    """

    owner: AccountId
    key: str
    fingerprint: str
    request_id: RequestId
    state: str
    created_ns: int


class OutcomeRow(NamedTuple):
    """The sealed answer of one request; only a gateway with the market's pepper can open it."""

    request_id: RequestId
    sealed: bytes
    created_ns: int


class PayeeRow(NamedTuple):
    """How an account is paid: its recipient at the processor and whether that is ready.

    `state` is pending, active or restricted; `requirements` say what is missing.
    """

    owner: AccountId
    country: str
    account: str
    state: str
    requirements: str
    weekly: int  # 1: takes part in the weekly run
    created_ns: int
    changed_ns: int


class TopUpRow(NamedTuple):
    """Money on its way in. `state`: asked, open, paid, expired or failed.

    `idempotency` is the hash of its caller's key, "" without one. `refunded_cents` and
    `disputed_cents` have gone back since.
    """

    id: str
    owner: AccountId
    amount_cents: int
    state: str
    session: str
    url: str
    intent: str
    refunded_cents: int
    disputed_cents: int
    idempotency: str
    reason: str
    created_ns: int
    changed_ns: int


class PayoutRow(NamedTuple):
    """Money on its way out. `state`: decided, sent, unknown, paid, failed or reversed.

    `week` is the Monday (UTC day number) of a weekly payout, 0 for one on demand. The fee
    is the platform's own; `amount_cents` is what is transferred.
    """

    id: str
    owner: AccountId
    week: int
    amount_cents: int
    fee_nano: int
    account: str
    state: str
    transfer: str
    tries: int
    next_try_ns: int
    idempotency: str
    reason: str
    created_ns: int
    changed_ns: int


class RefundRow(NamedTuple):
    """Credit on its way back to the card. `state`: decided, unknown, pending, done or failed."""

    id: str
    owner: AccountId
    topup: str
    intent: str
    amount_cents: int
    state: str
    refund: str
    tries: int
    next_try_ns: int
    idempotency: str
    reason: str
    created_ns: int
    changed_ns: int


class DisputeRow(NamedTuple):
    """A payer's bank took money back. `state`: open, won or lost.

    `withdrawn_cents` is what has left us and not come back; of it `cash_nano` was taken
    from the account's credit and `owed_nano` is its debt.
    """

    id: str
    owner: AccountId
    topup: str
    amount_cents: int
    withdrawn_cents: int
    fee_cents: int
    cash_nano: int
    owed_nano: int
    state: str
    created_ns: int
    changed_ns: int


class EventRow(NamedTuple):
    """A notice from the processor, kept before it is answered. `state`: new, done or failed."""

    id: str
    kind: str
    subject: str
    state: str
    tries: int
    reason: str
    created_ns: int
    changed_ns: int


class VerifiedRow(NamedTuple):
    """Up to where an audit has found everything right: the next one may begin there.

    `counters` is JSON: what each account's transfers added up to at that batch, and the
    next numbers of the journals.
    """

    id: int
    number: int
    hash: bytes
    counters: str
    created_ns: int


class FoldedRow(NamedTuple):
    """How far minutes are folded, and from where on they are still there, in Unix seconds.

    There is one, with the id 1. Rollups of an hour, a day and all time hold exactly the minutes
    before `to_s`; callers' days and all time the whole hours before it. Minutes that begin
    before `minutes_from_s` are gone.
    """

    id: int
    to_s: int
    minutes_from_s: int


StateRow = (
    OwnerRow
    | KeyRow
    | KeySpendRow
    | QuotaRow
    | PriceRow
    | LotRow
    | MachineRow
    | IdempotencyRow
    | OutcomeRow
    | PayeeRow
    | TopUpRow
    | PayoutRow
    | RefundRow
    | DisputeRow
    | EventRow
    | VerifiedRow
    | FoldedRow
)
Row = TypeVar(
    "Row",
    OwnerRow,
    KeyRow,
    KeySpendRow,
    QuotaRow,
    PriceRow,
    LotRow,
    MachineRow,
    IdempotencyRow,
    OutcomeRow,
    PayeeRow,
    TopUpRow,
    PayoutRow,
    RefundRow,
    DisputeRow,
    EventRow,
    VerifiedRow,
    FoldedRow,
)

KEY_FIELDS: Final[dict[type[StateRow], int]] = {
    OwnerRow: 1,
    KeyRow: 1,
    KeySpendRow: 1,
    QuotaRow: 1,
    PriceRow: 2,
    LotRow: 2,
    MachineRow: 1,
    IdempotencyRow: 2,
    OutcomeRow: 1,
    PayeeRow: 1,
    TopUpRow: 1,
    PayoutRow: 1,
    RefundRow: 1,
    DisputeRow: 1,
    EventRow: 1,
    VerifiedRow: 1,
    FoldedRow: 1,
}
"""How many of a row's first fields are its key."""

ENDED: Final[dict[type[StateRow], tuple[str, ...]]] = {
    TopUpRow: ("paid", "expired", "failed"),
    PayoutRow: ("paid", "failed", "reversed"),
    RefundRow: ("done", "failed"),
    DisputeRow: ("won", "lost"),
    EventRow: ("done", "failed"),
}
"""The states in which a row is history; a store does not hand those out at start."""

LOADED: Final = tuple(kind for kind in KEY_FIELDS if kind is not OutcomeRow)
"""The kinds that are read at start; answers that are kept stay on disk."""


def state_key(row: StateRow) -> StateKey:
    """The part of a row that says which one it is."""
    return row[: KEY_FIELDS[type(row)]]


def newest(kind: type[StateRow]) -> str:
    """The column that rows of this kind are ordered by, newest last."""
    return "created_ns" if "created_ns" in kind._fields else kind._fields[0]


def scopes_text(scopes: frozenset[str] | set[str] | list[str] | tuple[str, ...]) -> str:
    """Scopes, or models, as one column holds them."""
    return " ".join(sorted(scopes))
