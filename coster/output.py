"""What a command prints: people on a terminal, machines with --json, never both mixed.

Standard output carries the result; standard error carries progress and errors. Exit codes:
0 ok, 1 error, 2 usage, 3 not running, 4 auth, 5 money, 6 degraded.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from market.errors import Forbidden, MarketError, PaymentRequired, Unauthenticated

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OK, ERROR, USAGE, NOT_RUNNING, AUTH, MONEY, DEGRADED = 0, 1, 2, 3, 4, 5, 6


READER_LEFT = (errno.EPIPE, errno.EIO)
"""What a write meets when the other end of a pipe was closed, or a terminal is gone."""


class NotRunning(MarketError):
    """No market runs on this data, or it does not answer."""

    status, type = 503, "not_running"


def print_json(value: Any) -> None:
    """One JSON document on standard output, one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def exit_code_of(error: MarketError) -> int:
    if isinstance(error, NotRunning):
        return NOT_RUNNING
    if isinstance(error, Unauthenticated | Forbidden):
        return AUTH
    if isinstance(error, PaymentRequired):
        return MONEY
    return ERROR


def fail(error: MarketError, *, as_json: bool = False) -> NoReturn:
    """Say what was wrong and end with its exit code."""
    if as_json:
        print_json(
            {
                "error": {
                    "message": error.message,
                    "type": error.type,
                    "param": error.param,
                    "code": error.code,
                }
            }
        )
    else:
        sys.stderr.write(f"error: {error.message}\n")
    raise SystemExit(exit_code_of(error))


def counted(number: int, noun: str) -> str:
    """`1 notice`, `2 notices`: a number with its noun, which takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Colour when the stream is a terminal that wants it."""
    codes = {"bold": "1", "dim": "2", "green": "32", "red": "31", "yellow": "33", "cyan": "36"}
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{codes[style]}m{text}\x1b[0m"


class _Unheard(io.FileIO):
    """A descriptor that takes words also after their reader has left."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in READER_LEFT:
                raise
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """From now on nothing ends because nobody reads standard output or error any more.

    For a process whose work is not what it prints. Ours are not the only words: libraries print
    too, so the streams themselves are exchanged.
    """
    sys.stdout = _unheard(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _unheard(sys.stderr, sys.__stderr__, 2)


def _unheard(stream: TextIO | None, first: TextIO | None, number: int) -> TextIO:
    if stream is not None and stream is not first:
        return stream  # somebody has put their own there, and hears us
    if stream is None:  # it was closed before we began
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
    return io.TextIOWrapper(
        io.BufferedWriter(_Unheard(number, "w", closefd=False)),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=getattr(stream, "errors", "replace"),
        line_buffering=number == 2 or os.isatty(number),
    )


class DivertedOutput:
    """Standard output kept for our own words: a library's prints go to standard error.

    Ray writes warnings straight to it, which would end up before the one line of --json.
    """

    def __init__(self) -> None:
        self._kept = os.dup(1)

    def divert(self) -> None:
        sys.stdout.flush()
        os.dup2(2, 1)

    def restore(self) -> None:
        sys.stdout.flush()
        os.dup2(self._kept, 1)


class Progress:
    """Lines on standard error with the time since the command began."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s

    def done(self, text: str) -> None:
        """A step that is finished."""
        self._line("✓", text, "green")

    def doing(self, text: str) -> None:
        """A step that takes a while."""
        self._line("…", text, "dim")

    def warn(self, text: str) -> None:
        self._line("!", text, "yellow")

    def _line(self, mark: str, text: str, style: str) -> None:
        since = f"{time.monotonic() - self._began_s:6.1f}s"
        sys.stderr.write(f" {styled(mark, style, sys.stderr)} {text:<72} {since}\n")
        sys.stderr.flush()
