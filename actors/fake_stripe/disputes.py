"""Disputes: a payer's bank takes a payment back, with a fee, and perhaps returns it."""

from __future__ import annotations

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.ledger import CURRENCY, add_line, require_amount
from actors.fake_stripe.world import World

FEE_CENTS = 1500


def open_dispute(world: World, intent: Json, amount: int | None = None) -> Json:
    """The bank withdraws what is left of the payment, and the fee."""
    charge = world.get("charge", intent["latest_charge"], param="id", status=400)
    if charge["disputed"]:
        raise Refusal("This payment is disputed already.", param="id")
    left = charge["amount"] - charge["amount_refunded"]
    withdrawn = require_amount(left if amount is None else amount)
    if withdrawn > left:
        raise Refusal("The dispute is larger than what is left of the payment.", param="amount")
    charge["disputed"] = True
    dispute = world.add(
        {
            "id": world.new_id("du_"),
            "object": "dispute",
            "amount": withdrawn,
            "balance_transactions": [],
            "charge": charge["id"],
            "created": world.now_s(),
            "currency": CURRENCY,
            "is_charge_refundable": False,
            "livemode": False,
            "metadata": {},
            "payment_intent": intent["id"],
            "reason": "fraudulent",
            "status": "needs_response",
        }
    )
    line = add_line(world, "adjustment", dispute["id"], -withdrawn, fee=FEE_CENTS)
    dispute["balance_transactions"].append(line["id"])
    world.announce("charge.dispute.created", dispute)
    world.announce("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(world: World, dispute: Json, *, won: bool) -> None:
    """The bank decides: won, the money comes back without the fee; lost, it does not."""
    if dispute["status"] not in ("needs_response", "under_review"):
        raise Refusal("This dispute is closed.", param="id")
    dispute["status"] = "won" if won else "lost"
    world.announce("charge.dispute.closed", dispute)
    if won:
        line = add_line(world, "adjustment", dispute["id"], dispute["amount"])
        dispute["balance_transactions"].append(line["id"])
        world.announce("charge.dispute.funds_reinstated", dispute)
