"""How a command that takes a while is stopped: by Ctrl-C, and by SIGTERM alike."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ONE: Final = "nothing of this run was kept: half a run is none\n"
SEVERAL: Final = (
    "nothing half done was kept; of several runs those that are done stay, and --resume goes on "
    "from there\n"
)


@contextmanager
def terminable() -> Iterator[None]:
    """A SIGTERM in it is a KeyboardInterrupt, so that what is half done is taken away as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(words: str = ONE) -> Iterator[None]:
    """Say what becomes of what was done so far."""
    with terminable():
        try:
            yield
        except KeyboardInterrupt:
            sys.stderr.write(words)
            raise
