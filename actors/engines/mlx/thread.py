"""The MLX thread of a process: it alone loads, steps and frees models, of all its engines.

MLX objects belong to the thread that made them, and a Mac has one GPU. So the engines of one
process share a thread: they take turns step by step, and while one loads, slice by slice, the
others go on. The event loop talks to this thread through queues of commands and hears back once
per step. The thread lives as long as any engine needs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from actors.engines.choice import Choice
from actors.engines.memory import SharedMemory
from actors.engines.mlx import runtime
from actors.engines.mlx.core import EngineCore, Ready, load_core
from actors.engines.mlx.readings import Reading
from actors.engines.model_folder import FolderFacts
from market.errors import MarketError
from market.types import Event, RequestId

LOG = logging.getLogger("coster.engine")

IDLE_WAIT_S = 0.25
"""How often an idle thread looks whether the program is ending."""

IDLE_FREE_S = 30.0
"""Idle seconds after which MLX's pool of freed buffers is given back."""

STALL_S = 60.0
"""A step longer than this is a hang: prefill is cut to a fraction of it."""

LOAD_STALL_S = 300.0
"""A slice of a load that takes longer is a hang; the first one also imports MLX."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the thread reports: each is called on the thread and must hand over at once."""

    ready: Callable[[Ready], None]
    refused: Callable[[MarketError], None]
    events: Callable[[list[Event]], None]
    ended: Callable[[str], None]  # with the reason, empty when asked to stop


@dataclass(slots=True, eq=False)
class Seat:
    """One engine on the thread: what is asked of it, and its core once that is loaded."""

    facts: FolderFacts
    hooks: Hooks
    slots: int
    prefix_cache_bytes: int | None
    reading: Reading = field(default_factory=Reading)
    commands: deque[Callable[[EngineCore], None]] = field(default_factory=deque)
    core: EngineCore | None = None
    leaving: bool = False
    gone: threading.Event = field(default_factory=threading.Event)


Loading = Generator[None, None, EngineCore]


class MlxThread(threading.Thread):
    """Runs the engines that have a seat, until the last one has left.

    Not a daemon: a thread inside MLX while the interpreter goes down aborts the process. It
    ends by itself once the main thread has.
    """

    def __init__(self, budget_bytes: int | None) -> None:
        super().__init__(name="mlx")
        self._budget_bytes = budget_bytes
        self._memory: SharedMemory | None = None
        self._lock = threading.Lock()  # over `_arrivals` and `_over` together
        self._arrivals: deque[Seat] = deque()
        self._over = False
        self._loading: deque[tuple[Seat, Loading]] = deque()
        self._seats: list[Seat] = []
        self._parting: list[tuple[Seat, str]] = []  # with why, empty when asked to
        self._wake = threading.Event()
        self._busy_since_s = 0.0
        self._busy_at_most_s = STALL_S

    # Called from the event loop.

    def seat(self, seat: Seat) -> bool:
        """Let this engine load and run; False when the thread is over."""
        with self._lock:
            if self._over:
                return False
            self._arrivals.append(seat)
        self._wake.set()
        return True

    def add(self, seat: Seat, choices: list[Choice]) -> None:
        self._command(seat, lambda core: core.add(choices))

    def cancel(self, seat: Seat, request_id: RequestId) -> None:
        self._command(seat, lambda core: core.cancel(request_id))

    def leave(self, seat: Seat) -> None:
        """Free this engine; `gone` is set when that is done."""
        seat.leaving = True
        self._wake.set()

    def stalled(self) -> bool:
        """Whether what it does takes so long that it hangs."""
        since_s = self._busy_since_s
        return bool(since_s) and time.monotonic() - since_s > self._busy_at_most_s

    def wait_gone(self, seat: Seat) -> None:
        """Block until this engine is freed, and the thread with it when it was the last."""
        seat.gone.wait()
        if self._over:
            self.join()

    def _command(self, seat: Seat, command: Callable[[EngineCore], None]) -> None:
        seat.commands.append(command)
        self._wake.set()

    # Everything below runs on the thread.

    def run(self) -> None:
        reason = "The program ended."
        try:
            runtime.import_mlx()
            self._memory = SharedMemory(self._budget_bytes or runtime.budget_bytes())
            self._loop(self._memory)
        except Exception as fault:  # the thread's boundary: recorded, and every engine told
            LOG.exception("the MLX thread ended")
            reason = _after(fault)
        with self._lock:
            self._over = True
            left = [*self._seats, *(seat for seat, _ in self._loading), *self._arrivals]
        self._seats, self._loading = [], deque()
        self._parting += [(seat, reason) for seat in left]
        for seat in self._free_parting():
            seat.gone.set()
        runtime.leave_thread()

    def _loop(self, memory: SharedMemory) -> None:
        idle_since_s, freed = time.monotonic(), False
        while threading.main_thread().is_alive():
            self._welcome(memory)
            self._load_a_slice()
            for seat in tuple(self._seats):
                self._turn(seat)
            if self._see_off():
                return
            if self._loading or any(seat.core and seat.core.busy for seat in self._seats):
                idle_since_s, freed = time.monotonic(), False
                continue
            if not freed and time.monotonic() - idle_since_s > IDLE_FREE_S:
                runtime.free()
                freed = True
            self._wake.wait(IDLE_WAIT_S)
            self._wake.clear()

    def _welcome(self, memory: SharedMemory) -> None:
        while self._arrivals:
            seat = self._arrivals.popleft()
            loading = load_core(
                seat.facts,
                seat.reading,
                memory,
                slots=seat.slots,
                prefix_cache_bytes=seat.prefix_cache_bytes,
            )
            self._loading.append((seat, loading))

    def _load_a_slice(self) -> None:
        """Go on with the oldest load; whatever stops it, only its own engine is told."""
        if not self._loading:
            return
        seat, loading = self._loading[0]
        try:
            with self._busy(LOAD_STALL_S):
                next(loading)
            return
        except StopIteration as done:
            seat.core = done.value
            self._seats.append(seat)
            seat.hooks.ready(done.value.ready)
        except MarketError as error:
            seat.hooks.refused(error)
            self._parting.append((seat, ""))
        except Exception as fault:  # the load's boundary: the other engines go on
            LOG.exception("%s did not load", seat.facts.folder.name)
            self._parting.append((seat, _after(fault)))
        self._loading.popleft()

    def _turn(self, seat: Seat) -> None:
        """One step of one engine; a fault ends it and no other."""
        core = seat.core
        assert core is not None, "who has a seat is loaded"
        others_wait = any(
            other.core is not core and other.core is not None and other.core.decoding
            for other in self._seats
        )
        try:
            with self._busy(STALL_S):
                while seat.commands:
                    seat.commands.popleft()(core)
                core.turn(others_wait)
        except Exception as fault:  # the engine's boundary
            LOG.exception("the engine of %s ended", seat.facts.folder.name)
            self._seats.remove(seat)
            self._parting.append((seat, _after(fault)))
            return
        self._flush(seat, core)

    def _flush(self, seat: Seat, core: EngineCore) -> None:
        """Hand all events of this turn over at once."""
        events = core.take_events()
        if events:
            seat.hooks.events(events)

    def _see_off(self) -> bool:
        """Free who leaves; True when nobody is left and nobody has come."""
        for seat, loading in tuple(self._loading):
            if seat.leaving:
                loading.close()
                self._loading.remove((seat, loading))
                self._parting.append((seat, ""))
        for seat in tuple(self._seats):
            if seat.leaving:
                self._seats.remove(seat)
                self._parting.append((seat, ""))
        if not self._parting:
            return False
        freed = self._free_parting()
        with self._lock:
            self._over = not (self._seats or self._loading or self._arrivals)
        for seat in freed:
            seat.gone.set()
        return self._over

    def _free_parting(self) -> list[Seat]:
        """Drop what those who leave hold, and say that they are over."""
        parting, self._parting = self._parting, []
        for seat, reason in parting:
            core, seat.core = seat.core, None
            if core is not None:
                self._flush(seat, core)
                try:
                    core.close()
                except Exception:  # what cannot be freed is lost with the process, and not more
                    LOG.exception("%s was not freed", seat.facts.folder.name)
            seat.hooks.ended(reason)
        return [seat for seat, _ in parting]

    @contextmanager
    def _busy(self, at_most_s: float) -> Iterator[None]:
        self._busy_at_most_s = at_most_s
        self._busy_since_s = time.monotonic()
        try:
            yield
        finally:
            self._busy_since_s = 0.0


def _after(fault: Exception) -> str:
    return f"The engine stopped after a fault ({type(fault).__name__})."


class MlxHost:
    """The MLX of one process. `budget_bytes` None takes Metal's recommendation, or half of the
    RAM without Metal; all engines together stay within it.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._thread: MlxThread | None = None

    def seat(self, seat: Seat) -> MlxThread:
        """Let this engine load and run on the process's thread, which starts with the first."""
        if self._thread is None or not self._thread.seat(seat):
            self._thread = MlxThread(self._budget_bytes)
            self._thread.seat(seat)
            self._thread.start()
        return self._thread
