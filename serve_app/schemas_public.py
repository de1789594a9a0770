"""The shapes of the public statistics, as the products that they were first published by.

A figure that is null is not told: it is not known here, or it is of fewer accounts than the
market tells of (`public_group_min`, 1 unless its operator says otherwise). Nothing is null for
the second reason while that is 1.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.schemas import Shape

Metric = Literal["earnings", "tokens", "jobs"]
Window = Literal["24h", "7d", "30d", "all"]


class CpuCores(Shape):
    """Cores by kind, as far as they are known."""

    total: int
    performance: int | None
    efficiency: int | None


class StatsProvider(Shape):
    """One connected Mac: its hardware, its state and what it has served so far."""

    id: str = Field(description="Its public id, as in `x-coster-provider`")
    chip: str
    chip_family: str | None = Field(description="M1, M2, …")
    chip_tier: str | None = Field(description="base, Pro, Max or Ultra")
    machine_model: str | None
    memory_gb: int
    gpu_cores: int
    cpu_cores: CpuCores
    memory_bandwidth_gbs: float
    status: str = Field(description="starting, ready, draining, drained or failing")
    trust_level: str
    decode_tps: float | None = Field(description="Tokens per second, all requests together")
    requests_served: int | None = Field(description="Answers that it has finished, ever")
    tokens_generated: int | None = Field(description="Completion tokens, ever")
    models: list[str] | None = Field(description="What it serves now")
    current_model: str | None
    attested: bool
    runtime_verified: bool
    last_challenge_verified: str | None
    failed_challenges: int | None


class StatsModel(Shape):
    """How many connected Macs serve a model now."""

    id: str
    providers: int | None


class StatsMinute(Shape):
    """One minute, from its timestamp on."""

    timestamp: str
    requests: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None


class Stats(Shape):
    """The network so far, and as it stands."""

    total_requests: int | None = Field(description="Answers ever served")
    total_prompt_tokens: int | None
    total_completion_tokens: int | None
    total_tokens: int | None = Field(description="Prompt and completion")
    avg_tokens_per_request: float | None = Field(description="To one decimal; 0 when none")
    active_providers: int = Field(description="Macs connected now")
    total_gpu_cores: int
    total_cpu_cores: int
    total_memory_gb: int
    total_bandwidth_gbs: float
    providers: list[StatsProvider]
    models: list[StatsModel]
    time_series: list[StatsMinute] = Field(description="The last 30 whole minutes, oldest first")
    snapshot_at: str = Field(description="What all of this tells of")


class LeaderboardEntry(Shape):
    """One account that owns Macs, by a name that is not its own."""

    rank: int
    pseudonym: str
    earnings_micro_usd: int
    tokens: int = Field(description="Prompt and completion")
    jobs: int


class Leaderboard(Shape):
    """Accounts by what their Macs did; equal ones share a rank, and no rank is left out."""

    metric: Metric
    window: Window
    entries: list[LeaderboardEntry]
    updated_at: str


class NetworkTotals(Shape):
    """What all Macs did in a window."""

    window: Window
    earnings_micro_usd: int | None
    tokens: int | None = Field(description="Prompt and completion")
    jobs: int | None
    active_accounts: int | None = Field(description="Accounts whose Macs had a paid job")
    updated_at: str


class AnalyticsTotals(Shape):
    """The last 30 days. `tokens` is prompt + completion; cached tokens are part of the prompt's
    and reasoning tokens part of the completion's, as in a usage object.
    """

    tokens: int | None
    requests: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None


class AnalyticsModel(Shape):
    """One of the models that used the most tokens."""

    model_id: str
    model_name: str
    provider: str = Field(description="Who publishes the model")
    rank: int | None
    tokens: int | None
    requests: int | None
    share: float | None = Field(description="Of all tokens, to four decimals")


class AnalyticsBucket(Shape):
    """One hour (`YYYY-MM-DD HH:00`) or day (`YYYY-MM-DD`), UTC."""

    bucket: str
    tokens: int | None
    requests: int | None


class AnalyticsTrend(Shape):
    """Oldest first, the present hour or day last, with zeros where nothing happened."""

    hours: list[AnalyticsBucket] = Field(alias="24h")
    week: list[AnalyticsBucket] = Field(alias="7d")
    month: list[AnalyticsBucket] = Field(alias="30d")


class NetworkAnalytics(Shape):
    """Tokens and requests of 30 days: totals, the 15 largest models, hours and days."""

    generated_at: str | None = Field(description="null until the first snapshot was made")
    totals: AnalyticsTotals
    top_models: list[AnalyticsModel]
    trend: AnalyticsTrend
