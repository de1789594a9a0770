"""What Stripe's objects say, as the market's records: plain mappings in, frozen records out.

Every reader raises one of `MALFORMED` when a field is missing or is not what it should be;
the doorway turns that into "unknown". Nothing here touches the network or Stripe's package.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from market.payments.processor import (
    BalanceLine,
    Checkout,
    Dispute,
    DisputeStatus,
    ProcessorBalance,
    ProcessorEvent,
    Recipient,
    Refund,
    Transfer,
)

API_VERSION = "2026-10-28.endive"
"""The version of Stripe's API whose objects these are: the one the package is typed for."""
OUR_ID = "coster_id"
"""The metadata field that carries our id on every object we create."""
CURRENCY = "usd"
MALFORMED = (AttributeError, KeyError, TypeError, ValueError, OverflowError)

Object = Mapping[str, Any]

_CHECKOUTS: dict[str, Literal["open", "complete", "expired"]] = {
    "open": "open",
    "complete": "complete",
    "expired": "expired",
}
_REFUNDS: dict[str, Literal["pending", "succeeded", "failed"]] = {
    "pending": "pending",
    "requires_action": "pending",
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "failed",
}
_DISPUTES: dict[str, DisputeStatus] = {
    "needs_response": "open",
    "under_review": "open",
    "appeal_needs_response": "open",
    "appeal_under_review": "open",
    "warning_needs_response": "open",
    "warning_under_review": "open",
    "warning_closed": "won",
    "prevented": "won",
    "won": "won",
    "lost": "lost",
}
"""An inquiry (`warning_…`) withdraws nothing; closed or prevented, it has cost nothing."""


def checkout_of(session: Object) -> Checkout:
    """A Checkout Session; the fee only if its charge's balance transaction was expanded."""
    _require_currency(session)
    intent = session.get("payment_intent")
    return Checkout(
        session=_text(session["id"]),
        url=session.get("url") or "",
        topup_id=_our_id(session),
        status=_CHECKOUTS[session["status"]],
        paid=session["payment_status"] == "paid",
        amount_cents=_cents(session["amount_total"]),
        currency=CURRENCY,
        intent=_id(intent) or None,
        fee_cents=_fee_cents(intent),
    )


def recipient_of(account: Object) -> Recipient:
    """A v2 Account retrieved with its recipient configuration, identity and requirements."""
    capabilities = (account["configuration"]["recipient"].get("capabilities")) or {}
    transfers = (capabilities.get("stripe_balance") or {}).get("stripe_transfers") or {}
    entries = (account.get("requirements") or {}).get("entries") or []
    return Recipient(
        account=_text(account["id"]),
        country=_text(account["identity"]["country"]).upper(),
        active=transfers.get("status") == "active",
        requirements=tuple(_text(entry["description"]) for entry in entries),
    )


def transfer_of(transfer: Object) -> Transfer:
    _require_currency(transfer)
    return Transfer(
        transfer=_text(transfer["id"]),
        payout_id=_our_id(transfer),
        account=_text(_id(transfer["destination"])),
        amount_cents=_cents(transfer["amount"]),
        reversed_cents=_cents(transfer["amount_reversed"]),
    )


def refund_of(refund: Object) -> Refund:
    _require_currency(refund)
    return Refund(
        refund=_text(refund["id"]),
        refund_id=_our_id(refund),
        intent=_id(refund.get("payment_intent")),
        amount_cents=_cents(refund["amount"]),
        status=_REFUNDS[refund["status"]],
    )


def dispute_of(dispute: Object) -> Dispute:
    """What a dispute has cost so far is the sum of its own movements of the balance."""
    _require_currency(dispute)
    lines = dispute["balance_transactions"]
    return Dispute(
        dispute=_text(dispute["id"]),
        intent=_id(dispute.get("payment_intent")),
        amount_cents=_cents(dispute["amount"]),
        withdrawn_cents=-sum(_whole(line["amount"]) for line in lines),
        fee_cents=sum(_whole(line["fee"]) for line in lines),
        status=_DISPUTES[dispute["status"]],
    )


def balance_of(balance: Object) -> ProcessorBalance:
    """The balance in our currency; other currencies are none of the market's business."""
    sums = {
        name: sum(_whole(part["amount"]) for part in balance[name] if part["currency"] == CURRENCY)
        for name in ("available", "pending")
    }
    return ProcessorBalance(available_cents=sums["available"], pending_cents=sums["pending"])


def line_of(line: Object) -> BalanceLine:
    """A balance transaction with its source expanded, as far as it has one."""
    _require_currency(line)
    source = line.get("source")
    known: Object = source if isinstance(source, Mapping) else {}
    return BalanceLine(
        line=_text(line["id"]),
        kind=_text(line["type"]),
        source=_id(source),
        our_id=_our_id(known),
        intent=_id(known.get("payment_intent")) or _id(known.get("transfer")),
        amount_cents=_whole(line["amount"]),
        fee_cents=_whole(line["fee"]),
        net_cents=_whole(line["net"]),
        created_s=_whole(line["created"]),
    )


def event_of(event: Object) -> ProcessorEvent:
    """A snapshot event of the v1 API or a thin notification of the v2 API."""
    if event["object"] == "v2.core.event":
        related = event.get("related_object") or {}
        subject = related.get("id", "")
        created_s = int(datetime.fromisoformat(_text(event["created"])).timestamp())
    elif event["object"] == "event":
        subject = event["data"]["object"].get("id", "")
        created_s = _cents(event["created"])
    else:
        raise ValueError("the object is not an event")
    if not isinstance(subject, str):
        raise TypeError("the subject's id is not a string")
    return ProcessorEvent(_text(event["id"]), _text(event["type"]), subject, created_s)


def _fee_cents(intent: Any) -> int:
    if not isinstance(intent, Mapping):
        return 0
    charge = intent.get("latest_charge")
    line = charge.get("balance_transaction") if isinstance(charge, Mapping) else None
    return _cents(line["fee"]) if isinstance(line, Mapping) else 0


def _our_id(thing: Object) -> str:
    value = (thing.get("metadata") or {}).get(OUR_ID, "")
    if not isinstance(value, str):
        raise TypeError("our id is not a string")
    return value


def _id(value: Any) -> str:
    """The id of a reference, whether it was expanded or not; "" for none."""
    if isinstance(value, Mapping):
        value = value["id"]
    if value is not None and not isinstance(value, str):
        raise TypeError("a reference is not an id")
    return value or ""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a name is missing or is not a string")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a sum is not a whole number")
    return value


def _cents(value: Any) -> int:
    cents = _whole(value)
    if cents < 0:
        raise ValueError("a sum is negative")
    return cents


def _require_currency(thing: Object) -> None:
    if thing["currency"] != CURRENCY:
        raise ValueError("the currency is not ours")
