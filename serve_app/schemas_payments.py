"""The shapes of money that comes in and goes out: top-ups, refunds, holds, payouts, earnings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.schemas import Shape

CENTS_MOST = 10**11  # a billion dollars: beyond it somebody mistyped, far within int64 nano-USD
Cents = Annotated[int, Field(ge=1, le=CENTS_MOST, description="Whole cents of USD")]


class TopUpBody(Shape):
    """How much to pay in."""

    amount_cents: Cents
    currency: Literal["usd"]


class Sum(Shape):
    """An amount in three notations."""

    amount_cents: int
    amount_nano_usd: str
    amount_usd: float


class TopUp(Sum):
    """Money on its way in. `url` is where it is paid, while it can be."""

    id: str
    object: Literal["topup"] = "topup"
    status: Literal["asked", "open", "paid", "expired", "failed"]
    currency: Literal["usd"] = "usd"
    url: str | None
    refunded_cents: int
    disputed_cents: int
    reason: str | None
    created_at: str
    changed_at: str


class Page(Shape):
    """A list, newest first; `before` of the next page is `next_before`, null at the end."""

    object: Literal["list"] = "list"
    next_before: str | None


class TopUpList(Page):
    """The account's top-ups."""

    data: list[TopUp]


class RefundBody(Shape):
    """How much to give back; all that is unspent of the top-up without it."""

    amount_cents: Cents | None = None


class Refund(Sum):
    """Credit on its way back to the card it came from."""

    id: str
    object: Literal["refund"] = "refund"
    topup: str
    status: Literal["decided", "unknown", "pending", "done", "failed"]
    reason: str | None
    created_at: str
    changed_at: str


class HoldEntry(Shape):
    """What a running request holds, and why: its worst case at the prices of its start."""

    request_id: str
    model: str
    key_id: str
    held_nano_usd: str
    held_micro_usd: int
    held_usd: float
    prompt_tokens: int
    max_completion_tokens: int = Field(description="Over all its choices")
    worst_case_tokens: int
    delivered_tokens: int
    since: str
    why: str


class HoldList(Shape):
    """Every hold of the account, oldest first."""

    object: Literal["list"] = "list"
    held_nano_usd: str
    held_usd: float
    data: list[HoldEntry]


class Received(Shape):
    """The notice is kept and will be acted upon."""

    received: Literal[True] = True


class OnboardingBody(Shape):
    """Where the payee lives; it cannot be changed later."""

    country: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2, such as US")


class PayoutAccount(Shape):
    """How the account is paid. `requirements` are what is missing before it can be."""

    object: Literal["payout_account"] = "payout_account"
    status: Literal["none", "pending", "active", "restricted"]
    country: str | None
    weekly: bool = Field(description="Takes part in the payouts of each Monday")
    requirements: list[str]


class Onboarding(PayoutAccount):
    """A form for the payee to fill in; the address is good for one visit within minutes."""

    url: str


class PayoutAccountBody(Shape):
    """Whether earnings are paid out each Monday."""

    weekly: bool


class QuoteBody(Shape):
    """How much would be withdrawn; all that can be without it."""

    amount_cents: Cents | None = None


class WithdrawalBody(QuoteBody):
    """`expected_fee_nano_usd` is the fee that was quoted: another one is 409 `fee_changed`."""

    expected_fee_nano_usd: str | None = Field(default=None, pattern="^[0-9]{1,18}$")


class Quote(Sum):
    """What a withdrawal costs and brings; what is quoted is what is taken."""

    object: Literal["payout_quote"] = "payout_quote"
    fee_nano_usd: str
    fee_usd: float
    receives_cents: int
    receives_nano_usd: str
    receives_usd: float
    withdrawable_nano_usd: str
    withdrawable_usd: float
    maturing_nano_usd: str
    maturing_usd: float
    minimum_cents: int
    arrives: str


class Payout(Sum):
    """Earnings on their way out. The amount is what is transferred; the fee is beside it."""

    id: str
    object: Literal["payout"] = "payout"
    status: Literal["decided", "sent", "unknown", "paid", "failed", "reversed"]
    weekly: bool
    fee_nano_usd: str
    fee_usd: float
    transfer: str | None
    reason: str | None
    created_at: str
    changed_at: str


class PayoutList(Page):
    """The account's payouts."""

    data: list[Payout]


class Payment(Shape):
    """What one request has paid to the owner of the Mac that served it."""

    request_id: str
    model: str
    machine: str | None
    amount_nano_usd: str
    amount_micro_usd: int
    amount_usd: float
    timestamp: str


class EarningsAnswer(Shape):
    """What the account's Macs have earned. The balance is withdrawable and maturing money."""

    object: Literal["earnings"] = "earnings"
    balance_nano_usd: str
    balance_micro_usd: int
    balance_usd: float
    withdrawable_nano_usd: str
    withdrawable_usd: float
    maturing_nano_usd: str
    maturing_usd: float
    total_earned_nano_usd: str
    total_earned_micro_usd: int
    total_earned_usd: float
    jobs_served: int
    recent: list[Payment]
