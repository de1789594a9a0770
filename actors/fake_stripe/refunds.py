"""Refunds: whole, partial, slow, and failing after they had succeeded."""

from __future__ import annotations

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.ledger import CURRENCY, add_line, require_amount
from actors.fake_stripe.world import World, only_modelled


def create(world: World, params: Json) -> Json:
    """Give back some of a payment, at most what has not been given back."""
    only_modelled(params, "payment_intent", "charge", "amount", "metadata", "reason")
    charge = _charge_of(world, params)
    left = charge["amount"] - charge["amount_refunded"]
    amount = require_amount(params.get("amount", left or 1))
    if charge["disputed"]:
        raise Refusal("This payment is disputed.", code="charge_disputed", kept=True)
    if left == 0:
        raise Refusal("This payment has been refunded.", code="charge_already_refunded", kept=True)
    if amount > left:
        raise Refusal(
            "The refund is larger than what is left of the payment.", param="amount", kept=True
        )
    refund = world.add(
        {
            "id": world.new_id("re_"),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": charge["id"],
            "created": world.now_s(),
            "currency": CURRENCY,
            "failure_reason": None,
            "metadata": params.get("metadata") or {},
            "payment_intent": charge["payment_intent"],
            "reason": params.get("reason"),
            "status": "pending" if world.refunds_wait else "succeeded",
        }
    )
    refund["balance_transaction"] = add_line(world, "refund", refund["id"], -amount)["id"]
    _count(charge, amount)
    world.announce("refund.created", refund)
    world.announce("charge.refunded", charge)
    return refund


def settle(world: World, refund: Json) -> None:
    """A pending refund has arrived."""
    if refund["status"] != "pending":
        raise Refusal("This refund is not pending.", param="id")
    refund["status"] = "succeeded"
    world.announce("refund.updated", refund)


def fail(world: World, refund: Json) -> None:
    """The payer's bank sends a refund back: the money is on the balance again."""
    if refund["status"] == "failed":
        raise Refusal("This refund has failed already.", param="id")
    refund.update(status="failed", failure_reason="expired_or_canceled_card")
    line = add_line(world, "refund_failure", refund["id"], refund["amount"])
    refund["failure_balance_transaction"] = line["id"]
    _count(world.get("charge", refund["charge"]), -refund["amount"])
    world.announce("refund.failed", refund)
    world.announce("refund.updated", refund)


def _charge_of(world: World, params: Json) -> Json:
    if "payment_intent" in params:
        name = "payment_intent"
        intent = world.get(name, params[name], param=name, status=404)
        key = intent["latest_charge"]
    else:
        name, key = "charge", params.get("charge")
    if key is None:
        raise Refusal("There is no successful charge to refund.", param=name)
    return world.get("charge", key, param=name, status=404)


def _count(charge: Json, amount: int) -> None:
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
