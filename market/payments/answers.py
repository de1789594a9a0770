"""What the processor's failures mean for a payment under way, and when to ask again.

A failure crosses from who called the processor to who keeps the row as a `Trouble`: what is
known, in one word, and why. Back-offs are in nanoseconds of ledger time.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from market.accounting.admission import DAY_NS
from market.payments.processor import ProcessorBusy, ProcessorError, ProcessorRefused

SECOND_NS: Final = 1_000_000_000
RETRY_FIRST_NS: Final = 5 * SECOND_NS
RETRY_LAST_NS: Final = 3_600 * SECOND_NS
SETTLE_NS: Final = 600 * SECOND_NS
"""A call that got no answer has taken effect by then, or never will."""
KEY_NS: Final = DAY_NS
"""How long the processor remembers an idempotency key."""
PATIENT: Final = frozenset({"balance_insufficient", "api_key", "rate_limit"})
"""Refusals that pass: of the platform's balance or key, not of this payment."""
REASON_CHARS_MAX: Final = 300


class Trouble(NamedTuple):
    """A call that did not go well. `refused` and `busy` are definite: nothing has happened."""

    kind: Literal["refused", "busy", "unknown"]
    code: str
    reason: str

    @property
    def passes(self) -> bool:
        """Whether the same may well be granted later."""
        return self.kind == "busy" or self.code in PATIENT


INTERRUPTED: Final = Trouble("unknown", "interrupted", "The market stopped before the answer.")


def trouble_of(error: ProcessorError) -> Trouble:
    """A processor's error as a record."""
    reason = "".join(c if c.isprintable() else " " for c in error.message)[:REASON_CHARS_MAX]
    code = error.code or error.type
    if isinstance(error, ProcessorRefused):
        return Trouble("refused", code, reason)
    return Trouble("busy" if isinstance(error, ProcessorBusy) else "unknown", code, reason)


def retry_ns(tries: int) -> int:
    """How long to wait after this many definite failures: doubling, up to an hour."""
    return min(RETRY_LAST_NS, RETRY_FIRST_NS << min(tries, 20))


def look_again_ns(since_ns: int, now_ns: int) -> int:
    """How long to wait before looking again at what has been open since then."""
    return min(RETRY_LAST_NS, max(RETRY_FIRST_NS, (now_ns - since_ns) // 4))
