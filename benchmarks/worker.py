"""Rounds played in a process of its own: one line of JSON asks, one line answers.

What is measured and what measures must not share an interpreter, and starting one per round
would be part of the measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

END_S_MAX = 10.0


class Worker:
    """The asking end; use as a context manager."""

    def __init__(self, command: list[str], **popen: Any) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **popen
        )

    def round(self, spec: Any) -> dict[str, Any]:
        """Play one round, told by a dataclass; RuntimeError when a part of it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(spec)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command[1:])} ended")
        found: dict[str, Any] = json.loads(line)
        if found.get("failed"):
            raise RuntimeError(f"{found['failed']} streams failed: {found['first_failure']}")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()  # the end of its input is its end
        try:
            self._process.wait(timeout=END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def serve_rounds(play: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The answering end: until standard input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(play(json.loads(line))) + "\n")
        sys.stdout.flush()
