"""Checkout sessions, the payment behind each, and what the person on the page can do."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.ledger import (
    AMOUNT_MIN_CENTS,
    CURRENCY,
    add_line,
    fee_of,
    require_amount,
    require_currency,
)
from actors.fake_stripe.world import DAY_S, World, only_modelled

URL = re.compile(r"[!-~]{1,5000}")
"""What a Location header can carry."""


def create(world: World, params: Json) -> Json:
    """An open session for one payment."""
    only_modelled(
        params,
        *("mode", "line_items", "success_url", "cancel_url", "metadata", "client_reference_id"),
        *("payment_intent_data", "customer_email", "submit_type"),
    )
    only_modelled(params.get("payment_intent_data", {}), "metadata", "transfer_group")
    if params.get("mode") != "payment":
        raise Refusal("The test payments know mode payment only.", param="mode")
    for name in ("success_url", "cancel_url"):
        if name in params or name == "success_url":
            require_url(params.get(name), name)
    amount = _total(params.get("line_items") or [])
    now_s = world.now_s()
    session = {
        "id": world.new_id("cs_test_"),
        "object": "checkout.session",
        "amount_subtotal": amount,
        "amount_total": amount,
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": now_s,
        "currency": CURRENCY,
        "expires_at": now_s + DAY_S,
        "livemode": False,
        "metadata": params.get("metadata", {}),
        "mode": "payment",
        "payment_intent": None,
        "payment_status": "unpaid",
        "status": "open",
        "success_url": params["success_url"],
        "url": None,
        "_name": _name(params),
        "_payment": params.get("payment_intent_data", {}),
        "_declined": False,
    }
    return world.add(session)


def require_url(value: object, param: str) -> str:
    """A web address that a browser may be sent to. Raises Refusal."""
    if isinstance(value, str) and URL.fullmatch(value):
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme in ("http", "https") and parts.netloc:
            return value
    raise Refusal("Not a valid URL.", param=param, code="url_invalid")


def _total(items: list[Json]) -> int:
    if not items:
        raise Refusal(
            "Missing required param: line_items.", param="line_items", code="parameter_missing"
        )
    total = 0
    for position, item in enumerate(items):
        at = f"line_items[{position}]"
        only_modelled(item, "price_data", "quantity")
        price = item.get("price_data")
        only_modelled(price or {}, "currency", "product_data", "unit_amount")
        if price is None:
            raise Refusal(f"Missing required param: {at}[price_data].", param=f"{at}[price_data]")
        require_currency(price.get("currency"), f"{at}[price_data][currency]")
        if not price.get("product_data", {}).get("name"):
            raise Refusal(
                f"Missing required param: {at}[price_data][product_data][name].",
                param=f"{at}[price_data][product_data][name]",
                code="parameter_missing",
            )
        each = require_amount(price.get("unit_amount"), f"{at}[price_data][unit_amount]")
        total += each * require_amount(item.get("quantity", 1), f"{at}[quantity]")
    return require_amount(total, "line_items", AMOUNT_MIN_CENTS)


def _name(params: Json) -> str:
    return str(params["line_items"][0]["price_data"]["product_data"]["name"])


def expire(world: World, session: Json) -> Json:
    """End an open session unpaid."""
    _require_open(session)
    session["status"] = "expired"
    world.announce("checkout.session.expired", session)
    return session


def expire_due(world: World) -> None:
    """End every session whose time is over."""
    for session in list(world.all("checkout.session")):
        if session["status"] == "open" and session["expires_at"] <= world.now_s():
            expire(world, session)


def pay(world: World, session: Json) -> None:
    """The person pays by card: the money is there at once."""
    intent = _complete(world, session)
    session["payment_status"] = "paid"
    _charge(world, intent)
    world.announce("checkout.session.completed", session)


def decline(world: World, session: Json) -> None:
    """The person's card is declined; the page stays open."""
    _require_open(session)
    session["_declined"] = True
    intent = _intent(world, session, "requires_payment_method")
    world.announce("payment_intent.payment_failed", intent)


def pay_later(world: World, session: Json) -> None:
    """The person pays by a bank debit: complete now, paid days later or never."""
    _complete(world, session)["status"] = "processing"
    world.announce("checkout.session.completed", session)


def settle(world: World, session: Json, *, paid: bool) -> None:
    """A bank debit arrives or fails."""
    intent = world.get("payment_intent", session["payment_intent"], param="session", status=400)
    if intent["status"] != "processing":
        raise Refusal("This payment is not waiting for a bank.", param="id")
    if paid:
        session["payment_status"] = "paid"
        _charge(world, intent)
        world.announce("checkout.session.async_payment_succeeded", session)
    else:
        intent["status"] = "requires_payment_method"
        world.announce("payment_intent.payment_failed", intent)
        world.announce("checkout.session.async_payment_failed", session)


def _require_open(session: Json) -> None:
    if session["status"] != "open":
        raise Refusal(
            f"This checkout is {session['status']}; only an open one can be used.",
            code="checkout_session_not_open",
        )


def _complete(world: World, session: Json) -> Json:
    _require_open(session)
    session["status"] = "complete"
    intent = _intent(world, session, "processing")
    session["payment_intent"] = intent["id"]
    return intent


def _intent(world: World, session: Json, status: str) -> Json:
    amount = session["amount_total"]
    return world.add(
        {
            "id": world.new_id("pi_"),
            "object": "payment_intent",
            "amount": amount,
            "amount_received": 0,
            "created": world.now_s(),
            "currency": CURRENCY,
            "latest_charge": None,
            "livemode": False,
            "metadata": session["_payment"].get("metadata", {}),
            "status": status,
            "transfer_group": session["_payment"].get("transfer_group"),
        }
    )


def _charge(world: World, intent: Json) -> None:
    amount = intent["amount"]
    charge = world.add(
        {
            "id": world.new_id("ch_"),
            "object": "charge",
            "amount": amount,
            "amount_captured": amount,
            "amount_refunded": 0,
            "balance_transaction": None,
            "captured": True,
            "created": world.now_s(),
            "currency": CURRENCY,
            "disputed": False,
            "livemode": False,
            "metadata": dict(intent["metadata"]),
            "paid": True,
            "payment_intent": intent["id"],
            "refunded": False,
            "status": "succeeded",
        }
    )
    line = add_line(world, "charge", charge["id"], amount, fee=fee_of(amount), settles=True)
    charge["balance_transaction"] = line["id"]
    intent.update(status="succeeded", amount_received=amount, latest_charge=charge["id"])
    world.announce("payment_intent.succeeded", intent)
    world.announce("charge.succeeded", charge)
