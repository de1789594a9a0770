"""The wall clock, as a port: the one place of this room that reads it."""

from __future__ import annotations

import time


class SystemClock:
    """A `serve_app.ports.ClockPort` over the operating system's clocks."""

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()
