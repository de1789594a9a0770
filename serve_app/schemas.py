"""The shapes of every answer that is not inference, and of the bodies that ask for them.

Amounts appear three times: `*_nano_usd` is exact and a string, because JSON numbers are
not exact beyond 2**53; `*_micro_usd` is the floor in millionths; `*_usd` is for reading.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NANO = 1_000_000_000


class Shape(BaseModel):
    """A JSON object of ours. `model_` is a name we need for ourselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ErrorDetail(Shape):
    """All four keys are always there."""

    message: str
    type: Literal[
        "invalid_request",
        "auth",
        "billing",
        "forbidden",
        "not_found",
        "conflict",
        "too_large",
        "rate_limit",
        "service_unavailable",
        "internal",
    ]
    param: str | None
    code: str | None


class ErrorEnvelope(Shape):
    """What every error answers."""

    error: ErrorDetail


class ModelPricing(Shape):
    """Prices per token in nano-USD, which are USD per 1M tokens times 1000."""

    prompt_nano_usd: str
    completion_nano_usd: str
    input_usd_per_1m: float
    output_usd_per_1m: float
    cached_prompt_nano_usd: str
    cached_input_usd_per_1m: float


class ModelObject(Shape):
    """OpenAI's model object, and how the model stands in the market now."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    quantization: str
    context_length: int
    max_output_tokens: int
    min_memory_gb: int
    pricing: ModelPricing
    available: bool = Field(description="A Mac is ready to serve it now")
    providers: int
    ready: int
    free_slots: int
    queued: int


class ModelList(Shape):
    """Every model on offer."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Rates(Shape):
    """What tokens cost. Cached input is what a Mac still had of an earlier prompt."""

    input_usd_per_1m: float
    cached_input_usd_per_1m: float
    output_usd_per_1m: float
    input_micro_usd_per_1m: int
    cached_input_micro_usd_per_1m: int
    output_micro_usd_per_1m: int
    input_nano_usd_per_token: str
    cached_input_nano_usd_per_token: str
    output_nano_usd_per_token: str


class PriceEntry(Rates):
    """One model's current rates."""

    model: str
    name: str


class PriceList(Shape):
    """Every model's current rates."""

    currency: Literal["USD"] = "USD"
    models: list[PriceEntry]


class PastPrice(Rates):
    """Rates from a moment on, until those of the next entry."""

    since: str
    reason: str = Field(description="why it was set; `listed` is the catalogue's own price")


class PriceHistory(Shape):
    """Every price a model has had, oldest first; the last one is current."""

    object: Literal["list"] = "list"
    model: str
    currency: Literal["USD"] = "USD"
    data: list[PastPrice]


class BalanceAnswer(Shape):
    """`balance` is credit plus earnings; what running requests hold stands beside it."""

    balance_micro_usd: int
    balance_usd: float
    withdrawable_micro_usd: int
    withdrawable_usd: float
    held_micro_usd: int
    held_usd: float
    balance_nano_usd: str
    withdrawable_nano_usd: str
    held_nano_usd: str
    promo_nano_usd: str
    cash_nano_usd: str
    earnings_nano_usd: str
    maturing_nano_usd: str = Field(description="Earnings held back for a time")
    maturing_usd: float
    owed_nano_usd: str = Field(description="A debt after a dispute; a top-up pays it first")
    owed_usd: float


class UsageEntry(Shape):
    """One charged request. `tokens` = prompt + completion; cached is part of prompt."""

    request_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_micro_usd: int
    timestamp: str
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_nano_usd: str
    cost_usd: float
    provider: str | None
    finish_reason: str | None
    key_id: str


class Health(Shape):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Shape):
    """A request would be served now."""

    status: Literal["ready"] = "ready"
