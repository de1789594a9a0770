"""The engine's thread: it alone loads, steps and frees the model.

MLX objects belong to the thread that made them. The event loop talks to this thread through a
queue of commands and hears back once per step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from actors.engines.choice import Choice
from actors.engines.mlx import runtime
from actors.engines.mlx.core import EngineCore, Ready
from actors.engines.mlx.readings import Reading
from actors.engines.model_folder import FolderFacts
from market.errors import InvalidRequest
from market.types import Event, RequestId

LOG = logging.getLogger(__name__)

IDLE_WAIT_S = 0.25
"""How often an idle thread looks whether the program is ending."""

IDLE_FREE_S = 30.0
"""Idle seconds after which MLX's pool of freed buffers is given back."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the thread reports: each is called on the thread and must hand over at once."""

    ready: Callable[[Ready], None]
    refused: Callable[[InvalidRequest], None]
    events: Callable[[list[Event]], None]
    ended: Callable[[str], None]  # with the reason, empty when asked to stop


class EngineThread(threading.Thread):
    """Owns the model from `start` until `stop` has been joined.

    Not a daemon: a thread inside MLX while the interpreter goes down aborts the process. It
    ends by itself once the main thread has.
    """

    def __init__(
        self,
        facts: FolderFacts,
        hooks: Hooks,
        *,
        slots: int,
        budget_bytes: int | None,
        prefix_cache_bytes: int | None,
    ) -> None:
        super().__init__(name=f"mlx {facts.folder.name}")
        self._facts = facts
        self._hooks = hooks
        self._slots = slots
        self._budget_bytes = budget_bytes
        self._prefix_bytes = prefix_cache_bytes
        self._commands: deque[Callable[[EngineCore], None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self.reading = Reading()

    # Called from the event loop.

    def add(self, choices: list[Choice]) -> None:
        self._command(lambda core: core.add(choices))

    def cancel(self, request_id: RequestId) -> None:
        self._command(lambda core: core.cancel(request_id))

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def _command(self, command: Callable[[EngineCore], None]) -> None:
        self._commands.append(command)
        self._wake.set()

    # Everything below runs on the thread.

    def run(self) -> None:
        reason = self._live()
        try:
            runtime.leave_thread()
        finally:
            self._hooks.ended(reason)

    def _live(self) -> str:
        """Load, run until stopped, free. Returns why it ended; empty when asked to."""
        try:
            core = EngineCore(
                self._facts,
                self.reading,
                slots=self._slots,
                budget_bytes=self._budget_bytes,
                prefix_cache_bytes=self._prefix_bytes,
            )
            self._hooks.ready(core.ready)
            try:
                self._loop(core)
            finally:
                self._flush(core)
                core.close()
        except InvalidRequest as error:
            self._hooks.refused(error)
        except Exception as fault:  # the thread's boundary: recorded, and every job told
            LOG.exception("the engine thread of %s ended", self._facts.folder.name)
            return f"The engine stopped after a fault ({type(fault).__name__})."
        return ""

    def _loop(self, core: EngineCore) -> None:
        idle_since_s, freed = time.monotonic(), False
        while not self._stopping and threading.main_thread().is_alive():
            while self._commands:
                self._commands.popleft()(core)
            core.turn()
            self._flush(core)
            if core.busy:
                idle_since_s, freed = time.monotonic(), False
                continue
            if not freed and time.monotonic() - idle_since_s > IDLE_FREE_S:
                runtime.free()
                freed = True
            self._wake.wait(IDLE_WAIT_S)
            self._wake.clear()

    def _flush(self, core: EngineCore) -> None:
        """Hand all events of this turn over at once."""
        events = core.take_events()
        if events:
            self._hooks.events(events)
