"""What the door needs of the rest of the market, as protocols.

The gateway app is built from these and from nothing else: it knows no Ray, no SQL and no
engine. `actors/clients.py` implements them over the named actors; the tests implement them
in memory. Every method may raise a `MarketError`, which the door turns into the envelope;
an actor that is away raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from market import messages
from market.accounting.asking import RequestsAsked, SumsAsked, UsePage, WorkPage
from market.accounting.earned import EarningsStatement
from market.accounting.histories import JobPage, UsagePage
from market.accounting.prices import Price
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import (
    OwnerRow,
    PayeeRow,
    PayoutRow,
    PriceRow,
    RefundRow,
    TopUpRow,
)
from market.accounting.statistics import Told, Used, UseQuestion, Worked, WorkQuestion
from market.catalogue import Catalogue
from market.messages import AccountantOp, AccountantReply, KeyLimits, KeyRecord, KeySpend, RateState
from market.payments.desk import PaymentAct
from market.routing.messages import Busy, Grant, ModelAvailability, Outcome, Quote, RouteRequest
from market.routing.public import PublicFleet
from market.types import AccountId, Event, GatewayId, Job, KeyId, ModelId, RequestId
from serve_app.money_views import BalanceView, UsageView, WithdrawalQuoteView
from serve_app.sealed import Sealer


class AccountantPort(Protocol):
    """The one writer of money. Hot operations are coalesced behind `op`."""

    async def op(self, op: AccountantOp) -> AccountantReply:
        """Do one operation; its answer is durable when this returns.

        Every operation is idempotent, so the door repeats a settle until it is answered.
        Operations of one caller are applied in the order of the calls. Raises a
        MarketError: the refusal itself, or Unavailable when the accountant is away.
        """
        ...

    async def create_account(
        self, name: str, *, idempotency: str | None, fingerprint: str
    ) -> tuple[AccountId, KeyRecord, str]:
        """Open an account; returns it, its management key's record and that key's secret.

        The same `idempotency` gives the same three again. `fingerprint` says where the
        sign-up comes from: promo credit is granted once a place.
        """
        ...

    async def account(self, account: AccountId) -> OwnerRow:
        """The account's row: tier, freeze, promo credit granted."""
        ...

    async def create_key(
        self,
        account: AccountId,
        name: str,
        scopes: frozenset[str],
        expires_s: float | None,
        limits: KeyLimits | None = None,
        idempotency: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key; the secret is returned once. `expires_s` is a Unix time or None."""
        ...

    async def rotate_key(
        self, account: AccountId, key_id: KeyId, grace_s: float, idempotency: str | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key in place of one that lives on for `grace_s`; NotFound for anyone else's."""
        ...

    async def change_key(
        self, account: AccountId, key_id: KeyId, name: str | None, limits: KeyLimits | None
    ) -> KeyRecord:
        """Rename a key or replace its limits; NotFound for anyone else's."""
        ...

    async def key_spend(self, account: AccountId, key_id: KeyId) -> KeySpend:
        """What a key with caps has spent in its present windows."""
        ...

    async def standing(self, account: AccountId) -> tuple[str, RateState]:
        """The account's tier, and what is left of its limits now."""
        ...

    async def list_keys(self, account: AccountId) -> Sequence[KeyRecord]: ...

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        """Revoke a key of this account, idempotently; NotFound for anyone else's."""
        ...

    async def balance(self, account: AccountId) -> BalanceView: ...

    async def usage(self, account: AccountId, limit: int) -> Sequence[UsageView]:
        """Newest first, at most `limit` settled requests."""
        ...

    async def generation(self, account: AccountId, request_id: RequestId) -> UsageView:
        """One request of this account in any status; NotFound for anyone else's."""
        ...

    async def deliveries(self, account: AccountId, request_id: RequestId) -> Sequence[DeliveryRow]:
        """What each Mac delivered of one request of this account; empty while it runs."""
        ...

    async def holds(self, account: AccountId) -> Sequence[RequestRow]:
        """The running requests that hold money of this account, oldest first."""
        ...

    async def earnings(self, account: AccountId, limit: int) -> EarningsStatement:
        """What the account's Macs have earned, with the newest `limit` payments."""
        ...

    async def usage_page(self, account: AccountId, asked: RequestsAsked) -> UsagePage:
        """Charged requests, newest first; NotFound for a key that is not the account's."""
        ...

    async def job_page(self, account: AccountId, asked: RequestsAsked) -> JobPage:
        """Paid jobs, newest first; NotFound for a machine that never earned for the account."""
        ...

    async def use_page(self, account: AccountId, asked: SumsAsked) -> UsePage:
        """Sums of what was used. Raises NotFound and InvalidRequest."""
        ...

    async def work_page(self, account: AccountId, asked: SumsAsked) -> WorkPage:
        """Sums of what Macs did and earned. Raises NotFound and InvalidRequest."""
        ...

    def prices(self) -> Mapping[ModelId, Price]:
        """What models cost, from cache, at most a second old while the accountant answers.

        Never waits, never raises; a model that is not in it costs what its card says.
        """
        ...

    async def price_history(self, model: str) -> Sequence[PriceRow]:
        """Every price that was set for a model, oldest first; NotFound for an unknown one."""
        ...

    async def outcome(self, account: AccountId, request_id: RequestId) -> bytes | None:
        """The sealed answer that is kept of a request under its caller's own key, if any."""
        ...

    async def worked(self, question: WorkQuestion) -> Told[Worked]:
        """As `market.accounting.statistics.Statistics`."""
        ...

    async def used(self, question: UseQuestion) -> Told[Used]:
        """As `market.accounting.statistics.Statistics`."""
        ...


class PaymentsPort(Protocol):
    """Money in and out of the market. Someone else's id is NotFound in every method.

    `idempotency` is the caller's own key: with the same contents the same object is answered,
    with others Conflict. `before_ns` pages back through lists that are newest first.
    """

    async def known(self, account: AccountId, act: PaymentAct, idempotency: str) -> bool:
        """Whether this account did this under this key before: then its answer is that one's."""
        ...

    async def topup(
        self, account: AccountId, amount_cents: int, idempotency: str | None
    ) -> TopUpRow: ...

    async def topups(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[TopUpRow]: ...

    async def topup_of(self, account: AccountId, topup_id: str) -> TopUpRow: ...

    async def refund(
        self,
        account: AccountId,
        topup_id: str,
        amount_cents: int | None,
        idempotency: str | None,
    ) -> RefundRow:
        """Give unspent money of a top-up back; None is as much as can be."""
        ...

    async def onboard(
        self, account: AccountId, country: str, idempotency: str | None
    ) -> tuple[PayeeRow, str]:
        """How the account is paid, and the address of a form for its owner to fill in."""
        ...

    async def payee(self, account: AccountId) -> PayeeRow | None: ...

    async def set_weekly(self, account: AccountId, on: bool) -> PayeeRow: ...

    async def quote_withdrawal(
        self, account: AccountId, amount_cents: int | None
    ) -> WithdrawalQuoteView: ...

    async def withdraw(
        self,
        account: AccountId,
        amount_cents: int | None,
        expected_fee_nano: int | None,
        idempotency: str | None,
    ) -> PayoutRow:
        """Send earnings to their owner; Conflict `fee_changed` when the fee is another one."""
        ...

    async def payouts(
        self, account: AccountId, limit: int, before_ns: int | None
    ) -> Sequence[PayoutRow]: ...

    async def payout_of(self, account: AccountId, payout_id: str) -> PayoutRow: ...

    async def webhook(self, payload: bytes, signature: str) -> None:
        """Take a notice of the processor; InvalidRequest for what it did not sign."""
        ...


class RouterPort(Protocol):
    """Who serves it. Batching, polling and the queue's long wait are hidden behind `route`."""

    async def route(self, request: RouteRequest) -> Grant | Busy:
        """A reserved slot; `Busy` only when `request.funding is None`.

        With funding this waits for at most `deadline_s` in the fair queue and then raises
        Unavailable. If the awaiting task is cancelled the implementation leaves the queue
        and gives back a grant that still arrives: the door never learns of that one.
        """
        ...

    async def quote(self, request: RouteRequest) -> Quote:
        """What would become of the request; nothing is reserved. Raises Unavailable."""
        ...

    async def told(self, request_id: RequestId) -> Mapping[str, Any] | None:
        """What is kept of the decisions on a request and of their outcomes, with public ids only
        (`market.routing.log.explain`); None when nothing is. Raises Unavailable.
        """
        ...

    def calibration(self) -> Mapping[ModelId, Mapping[str, object]]:
        """How predictions compare with what happened, by model, from cache: never waits."""
        ...

    def report(self, outcome: Outcome) -> None:
        """Free the grant and teach the router. Fire and forget; never raises."""
        ...

    async def public_fleet(self, epoch: int) -> PublicFleet:
        """The public Macs as they were when this epoch, a Unix second, was first asked for.

        Raises Unavailable while the router is away or does not know its Macs yet.
        """
        ...

    def availability(self) -> Sequence[ModelAvailability]:
        """The last known state of the fleet, from cache: never waits, never raises."""
        ...


class ProvidersPort(Protocol):
    """The token transport to every provider of this gateway."""

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        """Send the job where the grant says; as `ProviderLink.submit` otherwise."""
        ...

    def cancel(self, grant: Grant, request_id: RequestId) -> None:
        """As `ProviderLink.cancel`. Never raises; a dead link has nothing to cancel."""
        ...


class ServedModelPort(Protocol):
    """The text side of one model at the gateway: template and tokenizer, no weights.

    Both methods are thread-safe and are called on worker threads.
    """

    @property
    def model(self) -> ModelId: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of the rendered chat template; InvalidRequest if the template refuses."""
        ...

    def text(self, prompt: str) -> tuple[int, ...]:
        """Token ids of plain text for /v1/completions."""
        ...


class ModelsPort(Protocol):
    """The models whose tokenizer this gateway holds. Never waits."""

    def get(self, model: ModelId) -> ServedModelPort | None: ...


class ClockPort(Protocol):
    """Time as the door reads it."""

    def now_s(self) -> float:
        """Unix time, for stamps."""
        ...

    def monotonic_s(self) -> float:
        """For durations; never goes back."""
        ...


DRAINING: Final = messages.DRAINING
"""The problem `ReadinessPort` names while a drain goes on; /readyz then answers `draining`."""


class ReadinessPort(Protocol):
    """Whether this gateway could serve now."""

    async def problems(self) -> Sequence[str]:
        """Why not, one sentence each; empty when both actors answer and a Mac is ready."""
        ...


KeyHasher = Callable[[str], bytes | None]
"""The keyed hash of an API key's secret; None when its form or checksum is wrong."""


@dataclass(frozen=True, slots=True)
class GatewayPorts:
    """Everything `serve_app.app.create_app` is built from.

    `front` is the token by which our own HAProxy vouches for a client's address. `alias_key`
    makes the pseudonyms of accounts; public figures are of `group_min` accounts at least.
    """

    gateway: GatewayId
    accountant: AccountantPort
    payments: PaymentsPort
    router: RouterPort
    providers: ProvidersPort
    models: ModelsPort
    catalogue: Catalogue
    clock: ClockPort
    readiness: ReadinessPort
    hash_key: KeyHasher
    sealer: Sealer
    front: str = ""
    alias_key: bytes = field(default=b"", repr=False)
    group_min: int = 1


class AdminPort(Protocol):
    """What the operator's listener can ask. Records are JSON-able."""

    async def status(self) -> dict[str, Any]: ...

    async def metrics(self) -> Mapping[str, float]:
        """Cumulative counters and gauges of the whole market by metric name."""
        ...

    async def verify(self, *, full: bool) -> dict[str, Any]:
        """Verify the ledger, all of it or what is new; `ok` is a bool, `problems` sentences."""
        ...
