"""The columns of the fleet: what is known of each Mac, and of each model on it.

Everything is a float in one matrix, so that a decision's snapshot is two copies of memory and
stays true whatever happens afterwards. Who writes a column, and how stale it may be:

| columns | written by | may be old by |
|---|---|---|
| standing, slots, reported, memory, ask, trust, place | the Mac's beat | 1 s |
| in_flight, running, *_sum, kv_reserved, prefill_until, granted | the router's own grants | 0 |
| cap, cooling, failures, fail_rate, bias, spread, seen | outcomes | one message |
| steps, kv_ms, prefill_ms | hardware tables | for ever; scale and bias correct them |
"""

from __future__ import annotations

from typing import Final

STANDINGS: Final = (
    "ok",
    "stopped",
    "draining",
    "lost",
    "failing",
    "starting",
    "quarantined",
)
"""What is the matter with a Mac as a whole; the column holds the index."""

PLACES: Final = ("ready", "loading", "leaving", "failed")
"""What is the matter with one model on one Mac; the column holds the index."""

ODDITIES: Final = ("standing", "cap", "collecting", "cooling_until_s")
"""Columns that are zero for a Mac with which nothing is the matter; `odd` is 1 when one is not."""

MAC_COLUMNS: Final = (
    "odd",
    "standing",
    "last_beat_s",
    "slots",  # sequences that may decode at once, all models together
    "cap",  # learned from refusals; 0 is none
    "cap_since_s",
    "in_flight",  # slots reserved, all models together
    "reported",  # sequences that the Mac says it has
    "collecting",  # 1: kept free for a request of several choices
    "memory_bytes",  # for weights and caches together; 0 is not known
    "resident_bytes",  # weights of all models loaded
    "kv_reserved_bytes",  # the worst case of what is granted
    "cooling_until_s",
    "failures",  # in a row
    "fail_rate",  # of the latest requests
    "hazard_per_ms",  # chance that the Mac goes away within a millisecond
    "ask_pct",
    "trust",
    "prefill_until_s",  # when the prompts granted so far will have been read
    "busy_ms",  # one decode step of everything that runs there
    "expected_all",  # tokens that everything there is still expected to say
    "granted",  # requests ever granted
    "last_grant_s",
)

PLACE_COLUMNS: Final = (
    "place",
    "running",  # slots reserved for this model here
    "weight_bytes",
    "kv_bytes_per_token",
    "context_tokens",
    "step_1_ms",  # the table of market.policy.rates, at its knots
    "step_2_ms",
    "step_4_ms",
    "step_8_ms",
    "step_16_ms",
    "step_32_ms",
    "step_next_ms",  # of the table, with one sequence more than now
    "own_ms",  # one decode step of this model's sequences here
    "kv_ms",
    "prefill_ms",  # per prompt token
    "scale_step",  # measured by the Mac over tabled
    "scale_prefill",
    "bias_step",  # what requests really took over what was predicted for them
    "bias_prefill",
    "spread",  # mean absolute error of the logarithm of that
    "seen",  # requests that these were learned from
    "context_sum",  # tokens of prompts and expected answers running here
    "expected_sum",  # tokens those are still expected to say
    "granted_here",
    "quantization",  # codes of Fleet.code
    "digest",
)

AT: Final[dict[str, int]] = {name: at for at, name in enumerate((*MAC_COLUMNS, *PLACE_COLUMNS))}
"""Row of each column in the matrix of a snapshot."""

MACS: Final = len(MAC_COLUMNS)
PLACE_AT: Final[dict[str, int]] = {name: at for at, name in enumerate(PLACE_COLUMNS)}
STEP_COLUMNS: Final = tuple(name for name in PLACE_COLUMNS if name.startswith("step_"))[:6]
