"""What a policy is asked: one request as routing sees it, at one instant.

It never holds the true output length, only what may be expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.policy.preferences import NO_PREFERENCES, Preferences
from market.types import MachineId, ModelId, RequestClass, RequestId

SUSPECT_AFTER_S = 3.0
"""A Mac silent for three of its one-second beats gets no new work."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`expected_tokens` and `high_tokens` are the mean and the 90th percentile of what one
    choice may still say. `said_tokens` were said by Macs that were lost and are read again.

    `finish_by_s` is the caller's deadline for the whole answer, in seconds from `now_s`. `digest`
    and `quantizations` are codes of the fleet (`Fleet.code`), 0 and empty for any. Prices are
    the hold's, nano-USD per token.
    """

    request_id: RequestId
    attempt: int
    model: ModelId
    prompt_tokens: int
    max_tokens: int
    n: int
    expected_tokens: float
    now_s: float
    high_tokens: float = 0.0
    said_tokens: int = 0
    request_class: RequestClass = "interactive"
    excluded: tuple[MachineId, ...] = ()
    rebuilding: bool = False  # just restarted: trust what Macs say they run, too
    collector: MachineId | None = None  # the Mac that is kept free for this request
    preferences: Preferences = NO_PREFERENCES
    finish_by_s: float | None = None
    price_in_nano: int = 0
    price_out_nano: int = 0
    session: str = ""
    digest: int = 0
    quantizations: tuple[int, ...] = ()
    hedge: bool = False

    @property
    def read_tokens(self) -> int:
        """What a Mac must have read before it says something new."""
        return self.prompt_tokens + self.said_tokens

    @property
    def most_tokens(self) -> int:
        """The longest all choices together can become, prompt included."""
        return self.prompt_tokens + self.n * self.max_tokens
