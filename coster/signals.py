"""Ctrl-C and SIGTERM: the first one drains, the second one ends everything at once."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil


class Stopping(Exception):
    """A signal asked the market to end before it was ready."""


class Signals:
    """Counts SIGINT and SIGTERM. The second one ends everything at once."""

    def __init__(self) -> None:
        self.count = 0
        self.install()

    def install(self) -> None:
        """Take the signals; done again after Ray, which takes them for itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.count += 1
        if self.count >= 2:
            sys.stderr.write("forced\n")
            for child in psutil.Process().children(recursive=True):
                try:
                    child.kill()
                except psutil.Error:
                    continue
            os._exit(130)

    def check(self) -> None:
        if self.count:
            raise Stopping

    def wait(self, seconds: float) -> bool:
        """Sleep in small steps; True when a signal has come."""
        give_up_s = time.monotonic() + seconds
        while time.monotonic() < give_up_s:
            if self.count:
                return True
            time.sleep(0.05)
        return self.count > 0
