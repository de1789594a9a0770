"""What flows through the lab: requests as they arrive, requests as they ended, Macs as they were.

Plain records, in units that their names say. An `Arrival` knows its true output length; what the
router is asked never does.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.policy.preferences import NO_PREFERENCES, Preferences
from market.types import ModelId, RequestClass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a workload. `at_s` counts from the start of the run.

    `prefix` are block hashes of the prompt (`market.policy.prefixes.BLOCK_TOKENS` each), equal
    for equal beginnings; `leaves` those of prompt and answer together. `deadline_s` is from its
    arrival; None is none. `kind` is the name of the stream of the workload it belongs to.
    """

    number: int
    at_s: float
    consumer: str
    model: ModelId
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    request_class: RequestClass = "interactive"
    session: str = ""
    prefix: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()
    deadline_s: float | None = None
    preferences: Preferences = NO_PREFERENCES
    kind: str = ""


@dataclass(slots=True)
class Ended:
    """What became of one request. Times in seconds; None is "did not come to that".

    `status`: "ok", "refused" (with the error's code), "failed" (an answer that broke off) or
    "open" (the run ended first). `wait_s` is the time in the queue, `ttft_s` and `e2e_s` from its
    arrival. `macs` is the position in the fleet of each Mac that said some of it.
    """

    arrival: Arrival
    status: str = "open"
    code: str = ""
    wait_s: float = 0.0
    ttft_s: float | None = None
    e2e_s: float | None = None
    predicted_ttft_s: float | None = None
    said_tokens: int = 0
    cached_tokens: int = 0
    attempts: int = 0
    continuations: int = 0
    hedged: bool = False
    macs: tuple[int, ...] = ()
    cost_nano: int = 0
    provider_nano: int = 0
    fee_nano: int = 0
    regret_ms: float = 0.0


@dataclass(slots=True)
class MacUsed:
    """What one Mac did in a run. Seconds of the run; tokens and nano-USD of what it delivered."""

    name: str
    chip: str
    memory_gb: int
    ask_pct: int
    here_s: float = 0.0
    busy_s: float = 0.0
    loading_s: float = 0.0
    loads: int = 0
    loaded_bytes: int = 0
    jobs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    earned_nano: int = 0
    losses: int = 0
