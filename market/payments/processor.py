"""The payment processor as the market sees it: a port, its records, its three kinds of failure.

`actors.stripe.processor` implements it over Stripe; the fake Stripe in `actors.fake_stripe`
answers the same HTTP. Sums are whole cents of USD. Every call that moves money carries an id
of ours, which is its idempotency key and is stored with the object at the processor, so that
after any interruption the object can be found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from market.errors import MarketError


class ProcessorError(MarketError):
    """Something the processor said or did not say."""

    status = 503
    type = "service_unavailable"


class ProcessorRefused(ProcessorError):
    """A definite no: nothing has happened and repeating the same call will not help.

    `code` is the processor's own (`balance_insufficient`, `account_invalid`, …).
    """


class ProcessorBusy(ProcessorError):
    """A definite "not now": nothing has happened; ask again after `retry_after_s`."""


class ProcessorUnknown(ProcessorError):
    """No answer, or one that does not say whether the call took effect: look before acting."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A hosted payment page for one top-up.

    `intent` is the money object (`pi_…`) once there is one. `fee_cents` is what the
    processor keeps of a paid one, as far as known.
    """

    session: str
    url: str
    topup_id: str
    status: Literal["open", "complete", "expired"]
    paid: bool
    amount_cents: int
    currency: str
    intent: str | None = None
    fee_cents: int = 0


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who can be paid. `active` only when transfers to it are allowed now.

    `requirements` are short names of what is missing, for the person to read.
    """

    account: str
    country: str
    active: bool
    requirements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money moved from the platform to a recipient."""

    transfer: str
    payout_id: str
    account: str
    amount_cents: int
    reversed_cents: int = 0


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back to a payer."""

    refund: str
    refund_id: str
    intent: str
    amount_cents: int
    status: Literal["pending", "succeeded", "failed"]


DisputeStatus = Literal["open", "won", "lost"]


@dataclass(frozen=True, slots=True)
class Dispute:
    """A payer's bank took money back, or has given it back again.

    `withdrawn_cents` is what has left the platform's balance for it and not come back;
    `fee_cents` is the processor's fee on top of it, not returned when won.
    """

    dispute: str
    intent: str
    amount_cents: int
    withdrawn_cents: int
    fee_cents: int
    status: DisputeStatus


@dataclass(frozen=True, slots=True)
class ProcessorBalance:
    """The platform's own money at the processor; pending is not yet available."""

    available_cents: int
    pending_cents: int


@dataclass(frozen=True, slots=True)
class BalanceLine:
    """One movement of the platform's balance. `net_cents` = amount − fee, signed.

    `source` is the object that caused it (`ch_…`, `re_…`, `tr_…`, `dp_…`); `our_id` is the id
    of ours that the object carries, "" when it has none; `intent` the payment it belongs to,
    or the transfer that a reversal takes back.
    """

    line: str
    kind: str
    source: str
    our_id: str
    intent: str
    amount_cents: int
    fee_cents: int
    net_cents: int
    created_s: int


@dataclass(frozen=True, slots=True)
class ProcessorEvent:
    """A signed notice that something happened to an object. A hint: the object is asked again.

    `subject` is the id of the object it is about and `kind` the event's own type.
    """

    event: str
    kind: str
    subject: str
    created_s: int


class PaymentProcessor(Protocol):
    """What the market asks of Stripe. Each call raises one of the three ProcessorErrors."""

    async def open_checkout(
        self, topup_id: str, amount_cents: int, *, success_url: str, cancel_url: str
    ) -> Checkout:
        """A payment page for this top-up; again with the same id and amount is the same page."""
        ...

    async def checkout(self, session: str) -> Checkout: ...

    async def checkouts_of(self, intent: str) -> Sequence[Checkout]:
        """The payment pages behind a money object: none or one."""
        ...

    async def open_recipient(self, owner_ref: str, country: str) -> Recipient:
        """An account that can be paid; `owner_ref` is ours, the country cannot change later."""
        ...

    async def recipient(self, account: str) -> Recipient: ...

    async def onboarding_url(self, account: str, *, return_url: str, refresh_url: str) -> str:
        """A hosted form, good for one visit within minutes."""
        ...

    async def transfer(
        self, payout_id: str, account: str, amount_cents: int, attempt: int = 0
    ) -> Transfer:
        """Pay somebody. After a definite no the same payout needs another `attempt` to be tried
        again, since a processor repeats an answer it gave under the same key.
        """
        ...

    async def find_transfer(self, payout_id: str) -> Transfer | None:
        """The transfer that carries this id of ours, if the processor has executed one."""
        ...

    async def refund(self, refund_id: str, intent: str, amount_cents: int) -> Refund: ...

    async def find_refund(self, refund_id: str, intent: str) -> Refund | None: ...

    async def refund_by_id(self, refund: str) -> Refund: ...

    async def dispute(self, dispute: str) -> Dispute: ...

    async def disputes_since(self, created_s: int) -> Sequence[Dispute]: ...

    async def balance(self) -> ProcessorBalance: ...

    async def lines_since(self, created_s: int) -> Sequence[BalanceLine]:
        """Every movement of the platform's balance since then, oldest first."""
        ...

    async def events_since(self, created_s: int) -> Sequence[ProcessorEvent]:
        """Every event since then, oldest first: what a lost webhook is found by."""
        ...

    def read_event(self, payload: bytes, signature: str) -> ProcessorEvent:
        """Verify a webhook; raises InvalidRequest for whatever is not a fresh event of ours."""
        ...

    async def close(self) -> None: ...
