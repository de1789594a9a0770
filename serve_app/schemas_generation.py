"""The shape of one request told afterwards: its money, its Macs, and why it was those."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.schemas import Shape
from serve_app.schemas_quote import RuledOut


class Delivery(Shape):
    """What one Mac delivered of the answer, at which price, and its share of the cost."""

    provider: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ask_pct: int = Field(description="Per cent of the market's price that it asked")
    cost_nano_usd: str
    cost_usd: float
    share: float = Field(description="Of the cost, from 0 to 1")


class GenerationAttempt(Shape):
    """One decision and what came of it. What was predicted stands beside what was.

    `result` is `ok`, `cancelled`, `failed` or `rejected`, null while it runs; `refusal` is the
    code of the error where no Mac was given.
    """

    attempt: int
    provider: str | None
    result: str | None
    refusal: str | None
    waited_s: float | None = Field(description="For a Mac to be free")
    policy: str | None
    macs: int = Field(description="That had the model")
    able: int = Field(description="Of those, that could take it")
    ruled_out: list[RuledOut]
    summary: str | None
    score_ms: float | None = Field(description="Of the chosen Mac: the sum of its terms")
    terms_ms: dict[str, float]
    predicted_ttft_ms: float | None
    ttft_ms: float | None
    predicted_total_ms: float | None
    total_ms: float | None
    completion_tokens: int | None
    cached_tokens: int | None


class Routing(Shape):
    """Every attempt. How good predictions are over all requests is at `calibration`."""

    attempts: list[GenerationAttempt]
    calibration: Literal["/v1/quote/calibration"] = "/v1/quote/calibration"


class Generation(Shape):
    """One request in any state: what the ledger has of it, and why it went where it went."""

    request_id: str
    model: str
    status: Literal["held", "settled", "voided", "expired"]
    provider: str | None
    finish_reason: str | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    cost_nano_usd: str
    cost_micro_usd: int
    cost_usd: float
    held_nano_usd: str
    ttft_ms: float
    total_ms: float
    created_at: str
    finished_at: str | None
    key_id: str
    deliveries: list[Delivery] = Field(
        description="What each Mac delivered, in that order; empty while it runs, or where nobody "
        "was paid"
    )
    routing: Routing | None = Field(description="Null where nothing is kept; the note says why")
    routing_note: str | None
