"""The gateway's metrics: a name for each, and what it counts in a sentence."""

from __future__ import annotations

from typing import Final

from market.metrics import Family, counter, histogram
from market.metrics import labelled as labelled  # noqa: PLC0414 - the room takes it from here
from serve_app.counters import LEFT_OUT

REQUESTS: Final = "coster_gateway_requests_total"
API_REQUESTS: Final = "coster_gateway_api_requests_total"
REJECTIONS: Final = "coster_gateway_rejections_total"
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
REPLAYS: Final = "coster_gateway_replays_total"
LATE_EVENTS: Final = "coster_gateway_late_events_total"
INTERNAL_ERRORS: Final = "coster_gateway_internal_errors_total"
STALE_BODIES: Final = "coster_gateway_stale_bodies_total"

# The bounds of the four that OpenTelemetry names too are those it asks for (`genai.py`), so
# that one observation serves both names.
TTFT: Final = histogram(
    "coster_gateway_ttft_seconds",
    "From a request's arrival to its answer's first token, of answers that were charged.",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    "route",
    "model",
)
REQUEST_SECONDS: Final = histogram(
    "coster_gateway_request_seconds",
    "From a request's arrival to its end; `error` is the type it ended with, empty for none.",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    "route",
    "model",
    "error",
)
TOKEN_SECONDS: Final = histogram(
    "coster_gateway_token_seconds",
    "Mean time per token after the first, one observation per charged answer.",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    "route",
    "model",
)
REQUEST_TOKENS: Final = histogram(
    "coster_gateway_request_tokens",
    "Tokens of one charged request; `type` is input or output.",
    (1.0, *(float(4**power) for power in range(1, 14))),
    "route",
    "model",
    "type",
)
GAP: Final = histogram(
    "coster_gateway_inter_token_gap_seconds",
    "Between two batches of tokens of one answer, as its client was sent them.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
    "model",
)
ATTEMPTS: Final = histogram(
    "coster_gateway_attempts",
    "Macs that a request was given to before it ended; 0 when it found none.",
    (0.0, 1.0, 2.0, 3.0),
)

FAMILIES: Final[tuple[Family, ...]] = (
    counter(REQUESTS, "Inference requests answered.", "route", "status"),
    counter(API_REQUESTS, "Requests of every other route answered.", "route", "status"),
    counter(
        REJECTIONS,
        "Refusals by gate and reason; a call with fallbacks may meet several.",
        "gate",
        "code",
    ),
    counter(PROMPT_TOKENS, "Prompt tokens charged.", "model"),
    counter(COMPLETION_TOKENS, "Completion tokens charged.", "model"),
    counter(CACHED_TOKENS, "Prompt tokens charged that a Mac had in its cache.", "model"),
    counter(SETTLED_NANO_USD, "What settled requests cost, in nano-USD."),
    counter(FAILOVERS, "Requests that went on to another Mac after one had failed them."),
    counter(CONTINUATIONS, "Answers that another Mac went on with where one was lost."),
    counter(HEDGES, "Second tries begun beside a Mac that was slow to answer."),
    counter(CLIENTS_LEFT, "Clients that closed the connection before their answer's end."),
    counter(SLOW_READERS, "Answers broken off because they were read too slowly."),
    counter(STREAMS_BROKEN, "Streams that ended with an error after content had been sent."),
    counter(HEARTBEATS, "Comments sent to clients that wait."),
    counter(SETTLE_RETRIES, "Times an unanswered settle or void was sent again."),
    counter(SETTLE_GIVEN_UP, "Settles and voids left to the hold's lease.", "op"),
    counter(CHECKPOINT_FAILURES, "Checkpoints of running requests that were lost."),
    counter(COUNT_MISMATCHES, "Events whose Mac had counted other tokens than we did."),
    counter(COST_MISMATCHES, "Requests charged otherwise than their gateway had computed."),
    counter(REPLAYS, "Requests answered by what their idempotency key had got.", "kept"),
    counter(LATE_EVENTS, "Events of tries that were over."),
    counter(INTERNAL_ERRORS, "Faults of our own; each is in the log."),
    counter(STALE_BODIES, "Public statistics asked for that were old or not to be had.", "name"),
    counter(LEFT_OUT, "Times something was not counted because there are too many labels."),
    TTFT,
    REQUEST_SECONDS,
    TOKEN_SECONDS,
    REQUEST_TOKENS,
    GAP,
    ATTEMPTS,
)

PUBLIC_BODIES: Final = ("stats", "leaderboard", "totals", "analytics")
"""What `STALE_BODIES` tells apart."""

BOOK_ENTRIES: Final = ("settle", "void")
"""What `SETTLE_GIVEN_UP` tells apart."""

ZEROS: Final = {
    **{f.name: 0.0 for f in FAMILIES if f.kind == "counter" and not f.labels},
    **{labelled(STALE_BODIES, name=name): 0.0 for name in PUBLIC_BODIES},
    **{labelled(SETTLE_GIVEN_UP, op=op): 0.0 for op in BOOK_ENTRIES},
}
"""What a process that has counted nothing yet has counted, where the labels are known."""
