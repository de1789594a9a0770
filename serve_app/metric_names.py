"""The names of the gateway's metrics. Cumulative unless they say otherwise."""

from __future__ import annotations

from typing import Final

REQUESTS: Final = "coster_gateway_requests_total"  # {route, status}
PROMPT_TOKENS: Final = "coster_gateway_prompt_tokens_total"
COMPLETION_TOKENS: Final = "coster_gateway_completion_tokens_total"
CACHED_TOKENS: Final = "coster_gateway_cached_tokens_total"
SETTLED_NANO_USD: Final = "coster_gateway_settled_nano_usd_total"
FAILOVERS: Final = "coster_gateway_failovers_total"
CONTINUATIONS: Final = "coster_gateway_continuations_total"
HEDGES: Final = "coster_gateway_hedges_total"
CLIENTS_LEFT: Final = "coster_gateway_clients_left_total"
SLOW_READERS: Final = "coster_gateway_slow_readers_total"
STREAMS_BROKEN: Final = "coster_gateway_streams_broken_total"
HEARTBEATS: Final = "coster_gateway_heartbeats_total"
SETTLE_RETRIES: Final = "coster_gateway_settle_retries_total"
SETTLE_GIVEN_UP: Final = "coster_gateway_settle_given_up_total"
CHECKPOINT_FAILURES: Final = "coster_gateway_checkpoint_failures_total"
COUNT_MISMATCHES: Final = "coster_gateway_count_mismatches_total"
COST_MISMATCHES: Final = "coster_gateway_cost_mismatches_total"
REPLAYS: Final = "coster_gateway_replays_total"  # {kept}
LATE_EVENTS: Final = "coster_gateway_late_events_total"
INTERNAL_ERRORS: Final = "coster_gateway_internal_errors_total"
TTFT_MS_SUM: Final = "coster_gateway_ttft_ms_sum"
TTFT_MS_COUNT: Final = "coster_gateway_ttft_ms_count"


def labelled(name: str, **labels: str | int) -> str:
    """`name{a="x",b="y"}` with labels in the order given."""
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}"
