"""What a policy is asked: one request as routing sees it, at one instant.

It never holds the true output length, only what may be expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.types import MachineId, ModelId, RequestId

SUSPECT_AFTER_S = 3.0
"""A Mac silent for three of its one-second beats gets no new work."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`expected_tokens` is a guess at the completion tokens of one choice."""

    request_id: RequestId
    attempt: int
    model: ModelId
    prompt_tokens: int
    max_tokens: int
    n: int
    expected_tokens: float
    now_s: float
    excluded: tuple[MachineId, ...] = ()
    rebuilding: bool = False  # just restarted: trust what Macs say they run, too
    collector: MachineId | None = None  # the Mac that is kept free for this request
