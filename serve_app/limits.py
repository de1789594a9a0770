"""Every bound of the door, by name and unit, in one place.

A bound that is reached is answered with an error that names it; nothing here is ever
silently clamped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB = 1024 * 1024
DEADLINE_S_MAX: Final = 600.0
"""No request lasts longer, so no caller's deadline can be later."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one gateway process."""

    body_bytes: int = 16 * MIB
    bodies_bytes: int = 256 * MIB  # request bodies in memory at once, all connections
    body_read_s: float = 30.0  # whole body; a byte a second ends here
    requests_in_flight: int = 2_000
    inline_body_bytes: int = 4_096  # decoded and tokenised on the loop: cheaper than a hop

    attempts: int = 3  # Macs tried for one request, before the first token
    queue_s: float = 30.0  # waiting for a slot
    batch_queue_s: float = 300.0  # the same for service_tier flex, which is served after the others
    submit_s: float = 5.0  # reaching a Mac
    first_token_s: float = 60.0  # from submit to the first event
    stall_s: float = 30.0  # between two events of a running answer
    total_s: float = DEADLINE_S_MAX  # the whole request

    heartbeat_s: float = 5.0  # silence before `: queued`
    tick_s: float = 0.5  # how often running requests are looked at
    checkpoint_s: float = 2.0
    checkpoint_tokens: int = 64
    settle_wait_s: float = 10.0  # how long the last chunk waits for a durable settle
    settle_background_s: float = 60.0  # how long it is tried after that: a hold's lease
    settle_pause_s: float = 0.25  # between two tries

    buffer_bytes: int = MIB  # events one request may hold for a slow reader
    write_s: float = 30.0  # one blocked write
    # After a write, events of the next milliseconds share one: a system call per token is
    # most of a fast stream's cost. Ends and failures never wait, nor does the first token.
    coalesce_s: float = 0.003

    key_cache_s: float = 1.0  # a revoked key is refused everywhere after this
    key_cache_entries: int = 10_000
    # Per client address and process; callers with a good key are never counted.
    accounts_per_minute: int = 30
    accounts_burst: int = 10
    strangers_per_minute: int = 600  # requests without a key, or with one that is not valid
    strangers_burst: int = 200
    forgeries_per_minute: int = 30  # webhooks with a bad signature
    forgeries_burst: int = 30
    webhook_bytes: int = MIB
    # Per account and process: a quote costs its caller nothing, and us a decision.
    quotes_per_minute: int = 120
    quotes_burst: int = 60
    # Per account and process: a page of the past costs its caller nothing, and us a few
    # milliseconds. Pages that an export reads are not counted; exports are.
    histories_per_minute: int = 240
    histories_burst: int = 60
    exports_at_once: int = 4  # and one of each account
