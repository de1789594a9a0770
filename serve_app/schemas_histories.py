"""The shapes of histories: single requests in pages, and sums by time, model, key or machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.schemas import Shape, UsageEntry


class ChargedEntry(UsageEntry):
    """One charged request in a page. `from` and `to` are compared with `charged_at`."""

    charged_at: str


class UsagePageAnswer(Shape):
    """Charged requests, newest first."""

    object: Literal["list"] = "list"
    data: list[ChargedEntry] = Field(
        description="A page may be short, or empty, while the list goes on"
    )
    next_cursor: str | None = Field(description="Of the next page; null at the end")


class TokenSums(Shape):
    """Tokens are prompt and completion; cached are among the first, reasoning among the second."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int


class UsageSum(TokenSums):
    """What was used; `start`, `model` and `key_id` are null where they were not told apart."""

    start: str | None
    model: str | None
    key_id: str | None
    requests: int
    failures: int = Field(description="Requests that ended without a charge")
    cost_nano_usd: str
    cost_micro_usd: int
    cost_usd: float


class UsageSums(Shape):
    """Sums of a period, newest first, in UTC; without a beginning it is since ever."""

    object: Literal["list"] = "list"
    by: list[str]
    begin: str | None
    end: str
    data: list[UsageSum]
    next_cursor: str | None


class EarningsSum(TokenSums):
    """What Macs did and earned; `start`, `machine` and `model` are null where not told apart.

    `jobs` are pieces of answers that a Mac has delivered, `requests` those that it finished.
    Consumers paid `cost`, of which `earned` is the owner's and the rest the market's fee.
    """

    start: str | None
    machine: str | None
    model: str | None
    jobs: int
    requests: int
    cost_nano_usd: str
    earned_nano_usd: str
    earned_micro_usd: int
    earned_usd: float


class EarningsSums(Shape):
    """Sums of a period, newest first, in UTC; without a beginning it is since ever."""

    object: Literal["list"] = "list"
    by: list[str]
    begin: str | None
    end: str
    data: list[EarningsSum]
    next_cursor: str | None
