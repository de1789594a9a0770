"""The load itself: every request at its time, whatever became of those before it.

Open loop. A request that is late because this program was busy counts from when it was due, so a
slow generator shows as latency and never as a lighter load; how late it was itself is told.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from coster.load.calls import Caller, body_of, unknown_times
from coster.load.ear import Ear
from coster.load.words import Prompts
from simulator.records import Arrival, Ended

OPEN_MAX: Final = 20_000
"""Requests under way at once; one beyond is not sent, and told as such."""

LEAD_S: Final = 0.2
"""Between the start and second zero of the workload, so that the first is not late."""

NOT_SENT: Final = "generator_full"


class Feed(Protocol):
    """What is asked, and when: `simulator.workloads.source.Source`."""

    @property
    def over(self) -> bool: ...

    def next_s(self) -> float | None: ...

    def take(self) -> Arrival: ...

    def ended(self, ended: Ended) -> None: ...


@dataclass(slots=True)
class Generator:
    """How well the load was made. `late_s` has for each request how long after its time it was
    sent; `miscounted` are prompts whose length the market counted otherwise.
    """

    late_s: array[float] = field(default_factory=lambda: array("d"))
    not_sent: int = 0
    open_max: int = 0
    miscounted: int = 0
    shorter: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Drive:
    """Plays a feed against a market. `tell` is told of each request once, as it ends."""

    def __init__(
        self,
        feed: Feed,
        prompts: Prompts,
        caller: Caller,
        providers: tuple[str, ...],
        tell: Callable[[Ended], None],
    ) -> None:
        self._feed = feed
        self._prompts = prompts
        self._caller = caller
        self._providers = providers
        self._tell = tell
        self._open: dict[asyncio.Task[None], tuple[Ended, Ear, float]] = {}
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.generator = Generator()
        self.interrupted = False

    def stop(self) -> None:
        """Send nothing more and cut off what runs: the run is over before its end."""
        self.interrupted = True
        self._stopped.set()
        self._changed.set()

    async def run(self) -> None:
        """Until everything has ended, or it is stopped."""
        began_cpu_s, began_s = time.process_time(), self._loop.time()
        start_s = began_s + LEAD_S
        while not self._feed.over and not self.interrupted:
            next_s = self._feed.next_s()
            if next_s is None or start_s + next_s > self._loop.time():
                await self._pause(None if next_s is None else start_s + next_s)
                continue
            self._send(self._feed.take(), start_s)
        await self._drain()
        self.generator.cpu_s = time.process_time() - began_cpu_s
        self.generator.wall_s = self._loop.time() - began_s

    async def _pause(self, until_s: float | None) -> None:
        """Until then, or until something has ended that may bring the next request forward."""
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _send(self, arrival: Arrival, start_s: float) -> None:
        due_s = start_s + arrival.at_s
        self.generator.late_s.append(self._loop.time() - due_s)
        ended = Ended(arrival)
        unknown_times(ended)
        if len(self._open) >= OPEN_MAX:
            self.generator.not_sent += 1
            ended.status, ended.code, ended.e2e_s = "failed", NOT_SENT, 0.0
            self._over(ended)
            return
        body = body_of(arrival, self._prompts.of(arrival), self._providers)
        ear = Ear(keep_text=bool(arrival.session))
        task = asyncio.create_task(self._caller.ask(ended, body, due_s, ear))
        self._open[task] = (ended, ear, due_s)
        self.generator.open_max = max(self.generator.open_max, len(self._open))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        ended, ear, due_s = self._open.pop(task)
        if task.cancelled():
            self._caller.open(ended, ear, due_s)
        elif (error := task.exception()) is not None:
            raise error
        elif ended.status == "ok":
            self._check(ended, ear)
        self._over(ended)

    def _check(self, ended: Ended, ear: Ear) -> None:
        """Whether the answer is what was asked for; a conversation goes on with it."""
        arrival = ended.arrival
        if ear.usage.get("prompt_tokens") != arrival.prompt_tokens:
            self.generator.miscounted += 1
        if ended.said_tokens != arrival.output_tokens:
            self.generator.shorter += 1
        if arrival.session:
            self._prompts.answered(arrival, ear.text)

    def _over(self, ended: Ended) -> None:
        self._tell(ended)
        self._feed.ended(ended)
        self._changed.set()

    async def _drain(self) -> None:
        """Wait for what is under way; when stopped, cut it off."""
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            while self._open and not self.interrupted:
                await asyncio.wait({*self._open, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for task in list(self._open):
            task.cancel()
        while self._open:
            await asyncio.wait(set(self._open))
            await asyncio.sleep(0)  # let them be told
