"""What an engine measures about itself while it runs, and what follows for its pace."""

from __future__ import annotations

from dataclasses import dataclass

PREFILL_TOKENS_IDLE = 2048
PREFILL_TOKENS_FIRST = 256
PREFILL_TOKENS_MIN, PREFILL_TOKENS_MAX = 64, 1024
DECODE_GAP_S = 0.15
"""Prompt tokens of a step: wide while nobody is decoding, else what fits in this gap."""

RATE_WEIGHT = 0.1
"""Weight of the newest step in the moving averages of the speeds."""


@dataclass(slots=True)
class Reading:
    """Counters and gauges, written by the thread and read by the event loop."""

    running: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_bytes: int = 0
    batch_bytes: int = 0
    cancelled: int = 0
    failed: int = 0
    decode_tps: float = 0.0
    prefill_tps: float = 0.0


@dataclass(slots=True)
class Speed:
    """Moving averages of decode and prefill speed, from whole steps."""

    reading: Reading
    decode_step_s: float = 0.0

    def note(self, step_s: float, decoded: int, read: int) -> None:
        if step_s <= 0:
            return
        if decoded and not read:
            self.decode_step_s = step_s
            self.reading.decode_tps = _blend(self.reading.decode_tps, decoded / step_s)
        elif read:
            prefill_s = max(step_s * 0.1, step_s - (self.decode_step_s if decoded else 0.0))
            self.reading.prefill_tps = _blend(self.reading.prefill_tps, read / prefill_s)

    def prefill_budget(self, someone_decodes: bool) -> int:
        """Prompt tokens one step may read without silencing those who are being answered."""
        if not someone_decodes:
            return PREFILL_TOKENS_IDLE
        if not self.reading.prefill_tps:
            return PREFILL_TOKENS_FIRST
        fitting = int(self.reading.prefill_tps * DECODE_GAP_S)
        return min(PREFILL_TOKENS_MAX, max(PREFILL_TOKENS_MIN, fitting))


def _blend(old: float, new: float) -> float:
    return new if not old else (1.0 - RATE_WEIGHT) * old + RATE_WEIGHT * new
