"""The tries of one request that are under way: one Mac, or two until one of them speaks.

A second try is begun beside a first that is slow to answer. Whoever says something first leads,
and is the only one that is listened to and paid; the other is stopped and its slot given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from market.routing.messages import Grant, Outcome
from market.types import Event, JobFailure, RequestId
from serve_app.desk import Desk

REFUSALS: Final = frozenset({"invalid", "rejected", "draining"})
"""Failures that say no before anything was begun."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One try on one Mac. Seconds of the monotonic clock; None before it has happened.

    `said_tokens` were said before it began, by Macs that were lost. One that is `lost` itself
    was the last to be listened to: another takes its place.
    """

    grant: Grant
    said_tokens: int = 0
    begun_s: float | None = None
    first_s: float | None = None
    event_s: float = 0.0
    lost: bool = False

    def silent_s(self, now_s: float) -> float:
        """How long it has said nothing since it was begun."""
        return 0.0 if self.begun_s is None else now_s - max(self.event_s, self.begun_s)


class Race:
    """The tries under way. Every one that entered leaves once, and with it its slot."""

    def __init__(self, desk: Desk, request_id: RequestId) -> None:
        self._desk = desk
        self._request_id = request_id
        self.live: list[Attempt] = []
        self.lead: Attempt | None = None
        self.closed = False

    def enter(self, attempt: Attempt) -> None:
        self.live.append(attempt)

    def heard(self, attempt: Attempt, event: Event) -> bool:
        """Whether an event of this try counts; one that speaks first takes the lead."""
        if attempt not in self.live or self.lead not in (None, attempt):
            return False
        now_s = self._desk.ports.clock.monotonic_s()
        attempt.event_s = now_s
        if event.error is not None and self.lead is None and len(self.live) > 1:
            self.leave(attempt, result_of(event.error), final=False)
            return False
        attempt.lost = event.error is not None
        if event.error is None and self.lead is None:
            attempt.first_s = now_s
            self.lead = attempt
            for other in [one for one in self.live if one is not attempt]:
                self.stop(other)
                self.leave(other, "cancelled", final=False)
        return True

    @property
    def front(self) -> Attempt | None:
        """The one that leads, else the first that is under way."""
        return self.lead or (self.live[0] if self.live else None)

    def stop(self, attempt: Attempt) -> None:
        """Tell its Mac to stop. A job it does not know is ignored there."""
        self._desk.ports.providers.cancel(attempt.grant, self._request_id)

    def stop_all(self) -> None:
        for attempt in self.live:
            self.stop(attempt)

    def leave(
        self,
        attempt: Attempt,
        result: str,
        *,
        final: bool,
        completion_tokens: int = 0,
        cached_tokens: int = 0,
        prefix: tuple[int, ...] = (),
        truncated: bool = False,
    ) -> None:
        """Report a try and free its slots, once."""
        if attempt not in self.live:
            return
        self.live.remove(attempt)
        self.closed = self.closed or final
        if self.lead is attempt:
            self.lead = None
        now_s = self._desk.ports.clock.monotonic_s()
        begun_s = now_s if attempt.begun_s is None else attempt.begun_s
        first_s = attempt.first_s
        self._desk.ports.router.report(
            Outcome(
                request_id=self._request_id,
                attempt=attempt.grant.attempt,
                machine=attempt.grant.machine,
                result=result,
                final=final,
                completion_tokens=completion_tokens,
                cached_tokens=cached_tokens,
                ttft_ms=None if first_s is None else (first_s - begun_s) * 1e3,
                total_ms=(now_s - begun_s) * 1e3,
                prefix=prefix,
                truncated=truncated,
            )
        )


def result_of(failure: JobFailure) -> str:
    """How a failure reads to the router: the Mac said no, or it failed."""
    return "rejected" if failure.code in REFUSALS else "failed"
