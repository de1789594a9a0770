"""Transfers to connected accounts, out of the available balance, and their reversals."""

from __future__ import annotations

from actors.fake_stripe.accounts import can_be_paid
from actors.fake_stripe.faults import Json, Refusal, no_such
from actors.fake_stripe.ledger import CURRENCY, add_line, require_amount, require_currency, sums
from actors.fake_stripe.world import World, only_modelled


def create(world: World, params: Json) -> Json:
    """Move money to an account that may be paid, if the balance has it available."""
    only_modelled(
        params,
        *("amount", "currency", "destination", "description", "metadata", "transfer_group"),
    )
    amount = require_amount(params.get("amount"))
    require_currency(params["currency"])
    account = world.objects.get(params["destination"])
    if account is None or account["object"] != "v2.core.account":
        raise no_such("destination", "destination", 400)
    if not can_be_paid(account):
        raise Refusal(
            "The destination account needs the stripe_transfers capability to be active.",
            param="destination",
            code="insufficient_capabilities_for_transfer",
            kept=True,
        )
    if amount > sums(world)[0]:
        raise Refusal(
            "The available balance is too small for this transfer.",
            code="balance_insufficient",
            kept=True,
        )
    transfer = world.add(
        {
            "id": world.new_id("tr_"),
            "object": "transfer",
            "amount": amount,
            "amount_reversed": 0,
            "balance_transaction": None,
            "created": world.now_s(),
            "currency": CURRENCY,
            "description": params.get("description"),
            "destination": account["id"],
            "livemode": False,
            "metadata": params.get("metadata", {}),
            "reversed": False,
            "transfer_group": params.get("transfer_group"),
        }
    )
    transfer["balance_transaction"] = add_line(world, "transfer", transfer["id"], -amount)["id"]
    world.announce("transfer.created", transfer)
    return transfer


def reverse(world: World, transfer: Json, params: Json) -> Json:
    """Take back some of a transfer, at most what has not been taken back."""
    only_modelled(params, "amount", "description", "metadata")
    left = transfer["amount"] - transfer["amount_reversed"]
    amount = require_amount(params.get("amount", left or 1))
    if amount > left:
        raise Refusal(
            "The reversal is larger than what is left of the transfer.", param="amount", kept=True
        )
    reversal = world.add(
        {
            "id": world.new_id("trr_"),
            "object": "transfer_reversal",
            "amount": amount,
            "balance_transaction": None,
            "created": world.now_s(),
            "currency": CURRENCY,
            "metadata": params.get("metadata", {}),
            "transfer": transfer["id"],
        }
    )
    line = add_line(world, "transfer_refund", reversal["id"], amount)
    reversal["balance_transaction"] = line["id"]
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    world.announce("transfer.reversed", transfer)
    return reversal
