"""Who is waiting for which job's events on one link, shared by both transports.

The law of a link: each submitted job hears its end exactly once, from the provider or,
when the link dies, from here. Events of a job nobody waits for are dropped: whoever
forgot it has already been told how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from market.types import Event, Job, JobFailure, RequestId


class Sinks:
    """The open jobs of one link and the choices each still has to finish."""

    def __init__(self) -> None:
        self._sinks: dict[RequestId, Callable[[Event], None]] = {}
        self._open_choices: dict[RequestId, int] = {}

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._sinks

    def add(self, job: Job, on_event: Callable[[Event], None]) -> None:
        self._sinks[job.request_id] = on_event
        self._open_choices[job.request_id] = job.n

    def forget(self, request_id: RequestId) -> None:
        self._sinks.pop(request_id, None)
        self._open_choices.pop(request_id, None)

    def deliver(self, events: Sequence[Event]) -> None:
        sinks = self._sinks
        for event in events:
            sink = sinks.get(event.request_id)
            if sink is None:
                continue
            if event.error is not None:
                self.forget(event.request_id)
            elif event.finish is not None:
                self._open_choices[event.request_id] -= 1
                if self._open_choices[event.request_id] <= 0:
                    self.forget(event.request_id)
            sink(event)

    def fail(self, request_id: RequestId, message: str) -> None:
        """Tell one job that it is lost; nothing when it has already ended."""
        sink = self._sinks.get(request_id)
        self.forget(request_id)
        if sink is not None:
            sink(Event(request_id, 0, (), "", 0, "error", error=JobFailure("lost", message)))

    def fail_all(self, message: str) -> None:
        for request_id in list(self._sinks):
            self.fail(request_id, message)
