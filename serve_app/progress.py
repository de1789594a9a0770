"""What one attempt has produced so far, counted by us, and whether it went wrong.

Pure: no clock, no connection. The provider's cumulative count is only a cross-check; what
is billed is the number of token ids relayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.types import Event, JobFailure

_ENDINGS = ("stop", "length")


class AttemptFailedError(Exception):
    """The attempt cannot end well; `failure` says why."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.code)
        self.failure = failure


@dataclass(slots=True)
class Choice:
    """One choice's counters; `chars` is text seen, for log-probability offsets."""

    tokens: int = 0
    chars: int = 0
    begun: bool = False
    finish: str | None = None


@dataclass(slots=True)
class Progress:
    """The counters of one attempt over all its choices."""

    n: int
    max_tokens: int
    prompt_tokens: int
    choices: list[Choice] = field(init=False)
    tokens: int = 0
    cached_tokens: int = 0
    open: int = field(init=False)
    mismatches: int = 0

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in range(self.n)]
        self.open = self.n

    def absorb(self, event: Event) -> Choice:
        """Count one event; AttemptFailedError when it is a failure or breaks the rules."""
        if event.error is not None:
            raise AttemptFailedError(event.error)
        if not 0 <= event.index < self.n:
            raise _broken("an event for a choice that was not asked for")
        choice = self.choices[event.index]
        if choice.finish is not None:
            raise _broken("an event after a choice's end")
        produced = len(event.token_ids)
        choice.tokens += produced
        if choice.tokens > self.max_tokens:
            raise _broken("more tokens than were asked for")
        self.tokens += produced
        if event.count != choice.tokens:
            self.mismatches += 1
        if event.cached_tokens > self.cached_tokens:
            self.cached_tokens = min(event.cached_tokens, self.prompt_tokens)
        if event.finish is not None:
            if event.finish not in _ENDINGS:
                raise AttemptFailedError(
                    JobFailure("engine", f"The Mac ended the answer early: {event.finish}.")
                )
            choice.finish = event.finish
            self.open -= 1
        return choice

    def open_indexes(self) -> list[int]:
        return [index for index, choice in enumerate(self.choices) if choice.finish is None]


def _broken(what: str) -> AttemptFailedError:
    return AttemptFailedError(JobFailure("engine", f"The Mac sent {what}."))
