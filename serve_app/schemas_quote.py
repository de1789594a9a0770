"""The shapes of what is told of a request before it is made, and of how good such telling is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.schemas import ErrorDetail, Shape


class Amount(Shape):
    """A sum: `nano_usd` is exact, `micro_usd` its floor, `usd` for reading."""

    nano_usd: str
    micro_usd: int
    usd: float


class Band(Shape):
    """Half of the time it is as good as p50, nine times in ten as good as p90."""

    p50: float
    p90: float


class TokenBand(Shape):
    """Completion tokens of one choice: half of the answers have at most p50."""

    p50: int
    p90: int
    max: int


class CostBand(Shape):
    """What half, and nine in ten, of such requests cost at most."""

    p50: Amount
    p90: Amount


class FullCostBand(CostBand):
    """The same, and what the hold would take: no request can cost more."""

    max: Amount


class QuotedMac(Shape):
    """One Mac that may serve it."""

    provider: str
    chosen: bool = Field(description="It would be the one")
    free: bool = Field(description="It could begin now; else a request has to end there first")
    ask_pct: int = Field(description="Per cent of the market's price that it asks")
    cached_tokens: int = Field(description="Of the prompt, that it may have read before")
    ttft_ms: Band = Field(description="To the first token, once it has a slot")
    tokens_per_second: Band
    total_ms: Band
    cost: CostBand


class RuledOut(Shape):
    """How many Macs cannot serve it, for one reason."""

    reason: str
    count: int
    words: str


class ModelQuote(Shape):
    """What would become of the request with one of its models.

    The cost is that of the chosen Mac, or of the one that would be tried first. `error` is
    what it would be refused with.
    """

    model: str
    served_now: bool
    prompt_tokens: int | None
    tokens: TokenBand | None
    wait_s: float | None = Field(description="Until it has a slot; null where nobody can say")
    queued: int
    cost: FullCostBand | None
    candidates: list[QuotedMac]
    candidates_total: int
    ruled_out: list[RuledOut]
    summary: str
    error: ErrorDetail | None


class InferenceQuote(Shape):
    """What a request would get and cost, without making it: the model that would serve it first,
    and every model that it names.
    """

    object: Literal["quote"] = "quote"
    model: str | None = Field(description="The model that would be used; null when none would")
    provider: str | None = Field(description="The Mac that would be used; null when none is free")
    models: list[ModelQuote]


class Calibrated(Shape):
    """How predicted times compare with what happened.

    `bias` above 1 says that it took longer than predicted, `typical_error` by how much in
    either direction; `within_p90` should be 0.9. Null before there is anything to compare.
    """

    requests: int
    bias: float | None
    typical_error: float | None
    within_p90: float | None


class ModelCalibration(Calibrated):
    """Of one model's times to the first token, and of the whole answers under `total`: there the
    length was a guess, too.
    """

    model: str
    total: Calibrated


class CalibrationList(Shape):
    """Every model that a public Mac has served since the router began, up to the present."""

    object: Literal["list"] = "list"
    data: list[ModelCalibration]
