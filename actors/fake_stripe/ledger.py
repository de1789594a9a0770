"""The platform's balance at the fake: every movement is a line, and the balance is their sum."""

from __future__ import annotations

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.world import World

AMOUNT_MIN_CENTS = 50
AMOUNT_MAX_CENTS = 99_999_999
FEE_PER_MILLE = 29
FEE_FIXED_CENTS = 30
CURRENCY = "usd"


def fee_of(amount_cents: int) -> int:
    """2.9 % and 30 cents, half a cent rounded up."""
    return (amount_cents * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED_CENTS


def add_line(
    world: World, kind: str, source: str, amount: int, *, fee: int = 0, settles: bool = False
) -> Json:
    """A movement of the balance; one that `settles` is pending for a while."""
    now_s = world.now_s()
    return world.add(
        {
            "id": world.new_id("txn_"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": now_s + (int(world.settings.settle_s) if settles else 0),
            "created": now_s,
            "currency": CURRENCY,
            "description": None,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [],
            "net": amount - fee,
            "reporting_category": kind,
            "source": source,
            "status": "available",
            "type": kind,
        }
    )


def balance(world: World) -> Json:
    """The Balance object now."""
    available, pending = sums(world)
    return {
        "object": "balance",
        "available": [{"amount": available, "currency": CURRENCY}],
        "pending": [{"amount": pending, "currency": CURRENCY}],
        "livemode": False,
    }


def sums(world: World) -> tuple[int, int]:
    """Available and pending cents."""
    now_s = world.now_s()
    available = pending = 0
    for line in world.all("balance_transaction"):
        if line["available_on"] <= now_s:
            available += line["net"]
        else:
            pending += line["net"]
    return available, pending


def require_amount(amount: object, param: str = "amount", least_cents: int = 1) -> int:
    """A sum within Stripe's bounds. Raises Refusal."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise Refusal(f"Missing required param: {param}.", param=param, code="parameter_missing")
    if amount < 1:
        raise Refusal(
            "This value must be greater than or equal to 1.",
            param=param,
            code="parameter_invalid_integer",
        )
    if amount < least_cents:
        raise Refusal(
            "The amount is below the minimum of $0.50.", param=param, code="amount_too_small"
        )
    if amount > AMOUNT_MAX_CENTS:
        raise Refusal(
            "The amount is above the maximum of $999,999.99.", param=param, code="amount_too_large"
        )
    return amount


def require_currency(currency: object, param: str = "currency") -> None:
    if currency != CURRENCY:
        raise Refusal(
            "The test payments know the currency usd only.", param=param, code="currency_invalid"
        )
