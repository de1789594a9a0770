"""The doorway to Stripe: the market's payment processor over stripe-python's async client.

Retries are ours (see `actors.stripe.calls`): the package's own never repeat a 429 and
would hide which attempt was unsettled. Idempotency keys are ours too, made of our ids; Stripe
forgets them after 24 hours, so a caller that is told "unknown" looks with `find_…` first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import aiohttp
import stripe

from actors.stripe import reading
from actors.stripe.calls import Doubt, Effect, Failure, Patience, judge_answer, persist
from actors.stripe.webhook import read_webhook
from market.payments.processor import (
    BalanceLine,
    Checkout,
    Dispute,
    ProcessorBalance,
    ProcessorEvent,
    ProcessorUnknown,
    Recipient,
    Refund,
    Transfer,
)

PAGE_OBJECTS = 100
LISTED_OBJECTS_MAX = 100_000
FEE = "payment_intent.latest_charge.balance_transaction"
PRODUCT = "Inference credit"

T = TypeVar("T")

stripe.enable_telemetry = False


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """How to reach Stripe, or what stands in for it.

    `webhook_secret` may be several, separated by commas: each destination at Stripe has its
    own, and snapshot and thin events need two. `api_base` is None for Stripe itself.
    """

    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    api_base: str | None = None
    timeout_s: float = 20.0
    connect_timeout_s: float = 5.0
    patience: Patience = field(default_factory=Patience)


class _Pages(Protocol):
    """What both APIs' lists have in common."""

    def auto_paging_iter(self) -> Any: ...


class StripeProcessor:
    """`market.payments.processor.PaymentProcessor` over Stripe.

    Make it, and close it, inside the event loop that uses it: its connections belong there.
    """

    def __init__(self, settings: StripeSettings) -> None:
        asyncio.get_running_loop()
        self._settings = settings
        self._secrets = [part.strip() for part in settings.webhook_secret.split(",") if part]
        self._http = stripe.AIOHTTPClient(
            timeout=aiohttp.ClientTimeout(
                total=settings.timeout_s, sock_connect=settings.connect_timeout_s
            )
        )
        client = stripe.StripeClient(
            settings.api_key,
            stripe_version=reading.API_VERSION,
            base_addresses={"api": settings.api_base} if settings.api_base else {},
            max_network_retries=0,
            http_client=self._http,
        )
        self._v1, self._v2 = client.v1, client.v2

    async def open_checkout(
        self, topup_id: str, amount_cents: int, *, success_url: str, cancel_url: str
    ) -> Checkout:
        ours = {reading.OUR_ID: topup_id}

        async def call() -> stripe.StripeObject:
            return await self._v1.checkout.sessions.create_async(
                {
                    "mode": "payment",
                    "client_reference_id": topup_id,
                    "metadata": ours,
                    "payment_intent_data": {"metadata": ours},
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": reading.CURRENCY,
                                "unit_amount": amount_cents,
                                "product_data": {"name": PRODUCT},
                            },
                        }
                    ],
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                },
                {"idempotency_key": f"topup:{topup_id}"},
            )

        page = await self._one("open a checkout", call, reading.checkout_of, effect=Effect.MAKES)
        _require_same(
            "open a checkout", (page.topup_id, page.amount_cents), (topup_id, amount_cents)
        )
        return page

    async def checkout(self, session: str) -> Checkout:
        return await self._one(
            "show a checkout",
            lambda: self._v1.checkout.sessions.retrieve_async(session, {"expand": [FEE]}),
            reading.checkout_of,
        )

    async def checkouts_of(self, intent: str) -> Sequence[Checkout]:
        found = await self._all(
            "list the checkouts of a payment",
            lambda: self._v1.checkout.sessions.list_async(
                {"payment_intent": intent, "limit": PAGE_OBJECTS}
            ),
            reading.checkout_of,
        )
        return [await self.checkout(page.session) for page in found]

    async def open_recipient(self, owner_ref: str, country: str) -> Recipient:
        async def call() -> stripe.StripeObject:
            return await self._v2.core.accounts.create_async(
                {
                    "dashboard": "express",
                    "identity": {"country": country},
                    "configuration": {
                        "recipient": {
                            "capabilities": {
                                "stripe_balance": {"stripe_transfers": {"requested": True}}
                            }
                        }
                    },
                    "defaults": {
                        "responsibilities": {
                            "fees_collector": "application",
                            "losses_collector": "application",
                        }
                    },
                    "metadata": {reading.OUR_ID: owner_ref},
                    "include": ["configuration.recipient", "identity", "requirements"],
                },
                {"idempotency_key": f"recipient:{owner_ref}"},
            )

        return await self._one("open a recipient", call, reading.recipient_of, effect=Effect.MAKES)

    async def recipient(self, account: str) -> Recipient:
        return await self._one(
            "show a recipient",
            lambda: self._v2.core.accounts.retrieve_async(
                account,
                {"include": ["configuration.recipient", "identity", "requirements"]},
            ),
            reading.recipient_of,
        )

    async def onboarding_url(self, account: str, *, return_url: str, refresh_url: str) -> str:
        async def call() -> stripe.StripeObject:
            return await self._v2.core.account_links.create_async(
                {
                    "account": account,
                    "use_case": {
                        "type": "account_onboarding",
                        "account_onboarding": {
                            "refresh_url": refresh_url,
                            "return_url": return_url,
                        },
                    },
                }
            )

        return await self._one("open an onboarding form", call, lambda link: str(link["url"]))

    async def transfer(
        self, payout_id: str, account: str, amount_cents: int, attempt: int = 0
    ) -> Transfer:
        async def call() -> stripe.StripeObject:
            return await self._v1.transfers.create_async(
                {
                    "amount": amount_cents,
                    "currency": reading.CURRENCY,
                    "destination": account,
                    "transfer_group": payout_id,
                    "metadata": {reading.OUR_ID: payout_id},
                },
                {"idempotency_key": f"payout:{payout_id}" + (f":{attempt}" if attempt else "")},
            )

        made = await self._one("pay a recipient", call, reading.transfer_of, effect=Effect.PAYS)
        asked = (payout_id, account, amount_cents)
        _require_same("pay a recipient", (made.payout_id, made.account, made.amount_cents), asked)
        return made

    async def find_transfer(self, payout_id: str) -> Transfer | None:
        found = await self._all(
            "look for a transfer",
            lambda: self._v1.transfers.list_async(
                {"transfer_group": payout_id, "limit": PAGE_OBJECTS}
            ),
            reading.transfer_of,
        )
        return _only("transfers", [made for made in found if made.payout_id == payout_id])

    async def refund(self, refund_id: str, intent: str, amount_cents: int) -> Refund:
        async def call() -> stripe.StripeObject:
            return await self._v1.refunds.create_async(
                {
                    "payment_intent": intent,
                    "amount": amount_cents,
                    "metadata": {reading.OUR_ID: refund_id},
                },
                {"idempotency_key": f"refund:{refund_id}"},
            )

        made = await self._one("refund a payment", call, reading.refund_of, effect=Effect.PAYS)
        _require_same(
            "refund a payment",
            (made.refund_id, made.intent, made.amount_cents),
            (refund_id, intent, amount_cents),
        )
        return made

    async def find_refund(self, refund_id: str, intent: str) -> Refund | None:
        found = await self._all(
            "look for a refund",
            lambda: self._v1.refunds.list_async({"payment_intent": intent, "limit": PAGE_OBJECTS}),
            reading.refund_of,
        )
        return _only("refunds", [made for made in found if made.refund_id == refund_id])

    async def refund_by_id(self, refund: str) -> Refund:
        return await self._one(
            "show a refund", lambda: self._v1.refunds.retrieve_async(refund), reading.refund_of
        )

    async def dispute(self, dispute: str) -> Dispute:
        return await self._one(
            "show a dispute", lambda: self._v1.disputes.retrieve_async(dispute), reading.dispute_of
        )

    async def disputes_since(self, created_s: int) -> Sequence[Dispute]:
        return await self._all(
            "list disputes",
            lambda: self._v1.disputes.list_async(
                {"created": {"gte": created_s}, "limit": PAGE_OBJECTS}
            ),
            reading.dispute_of,
        )

    async def balance(self) -> ProcessorBalance:
        return await self._one(
            "show the balance", self._v1.balance.retrieve_async, reading.balance_of
        )

    async def lines_since(self, created_s: int) -> Sequence[BalanceLine]:
        return await self._all(
            "list the balance's movements",
            lambda: self._v1.balance_transactions.list_async(
                {
                    "created": {"gte": created_s},
                    "currency": reading.CURRENCY,
                    "limit": PAGE_OBJECTS,
                    "expand": ["data.source"],
                }
            ),
            reading.line_of,
        )

    async def events_since(self, created_s: int) -> Sequence[ProcessorEvent]:
        snapshots = await self._all(
            "list events",
            lambda: self._v1.events.list_async(
                {"created": {"gte": created_s}, "limit": PAGE_OBJECTS}
            ),
            reading.event_of,
        )
        since = datetime.fromtimestamp(created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        thin = await self._all(
            "list account events",
            lambda: self._v2.core.events.list_async(
                {"created": {"gte": since}, "limit": PAGE_OBJECTS}
            ),
            reading.event_of,
        )
        return sorted([*snapshots, *thin], key=lambda event: event.created_s)

    def read_event(self, payload: bytes, signature: str) -> ProcessorEvent:
        return read_webhook(payload, signature, self._secrets, int(time.time()))

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def _one(
        self,
        what: str,
        call: Callable[[], Awaitable[stripe.StripeObject]],
        read: Callable[[reading.Object], T],
        *,
        effect: Effect = Effect.READS,
    ) -> T:
        async def answered() -> Any:
            return await call()

        answer = await persist(what, answered, _judge, self._settings.patience, effect=effect)
        return _read(what, read, answer)

    async def _all(
        self,
        what: str,
        call: Callable[[], Awaitable[_Pages]],
        read: Callable[[reading.Object], T],
    ) -> list[T]:
        """Every object of a list, oldest first: both APIs answer the newest first."""

        async def collected() -> list[Any]:
            pages: AsyncIterator[Any] = (await call()).auto_paging_iter()
            found = []
            async for item in pages:
                found.append(item)
                if len(found) > LISTED_OBJECTS_MAX:
                    raise ValueError("the list does not end")
            return found

        found = await persist(what, collected, _judge, self._settings.patience, effect=Effect.READS)
        return [_read(what, read, item) for item in reversed(found)]


def _read(what: str, read: Callable[[reading.Object], T], answer: Any) -> T:
    try:
        return read(answer.to_dict())
    except reading.MALFORMED as error:
        raise ProcessorUnknown(
            f"Stripe, asked to {what}, gave an answer that cannot be read "
            f"({type(error).__name__}). Look the object up.",
            None,
            "malformed_answer",
        ) from None


def _require_same(what: str, answered: tuple[object, ...], asked: tuple[object, ...]) -> None:
    if answered != asked:
        raise ProcessorUnknown(
            f"Stripe, asked to {what}, answered about another one. Look the object up.",
            None,
            "other_object",
        )


def _only(kind: str, found: Sequence[T]) -> T | None:
    if len(found) > 1:
        raise ProcessorUnknown(
            f"Stripe holds {len(found)} {kind} with one id of ours; a person must look.",
            None,
            "several_objects",
        )
    return found[0] if found else None


NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The connection was never made: nothing can have happened."""


def _judge(error: Exception) -> Failure | None:
    if isinstance(error, stripe.APIConnectionError):
        if isinstance(error.__cause__, NOT_SENT):
            return Failure(Doubt.NOTHING_DONE, "it cannot be reached", "unreachable")
        return Failure(Doubt.UNSETTLED, "the connection ended without an answer", "no_answer")
    if isinstance(error, stripe.StripeError):
        return judge_answer(error.http_status or 0, error.json_body, error.headers)
    if isinstance(error, (aiohttp.ClientError, TimeoutError)):
        return Failure(Doubt.UNSETTLED, "the answer broke off", "no_answer")
    if isinstance(error, reading.MALFORMED):
        return Failure(Doubt.UNSETTLED, "the answer cannot be read", "malformed_answer")
    return None
