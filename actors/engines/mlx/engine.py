"""The asyncio face of an MLX engine: checks jobs, takes its seat, hands events over.

It keeps the books of what is open, because its core may end at any time: whatever ends it,
every open job still hears how it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.engines.checks import check_job
from actors.engines.choice import Choice
from actors.engines.mlx.core import Ready
from actors.engines.mlx.thread import Hooks, MlxHost, MlxThread, Seat
from actors.engines.model_folder import FolderFacts
from actors.engines.shared_folders import facts_of
from market.errors import Internal, InvalidRequest, MarketError, Unavailable
from market.ports import EventSink
from market.types import (
    EngineStats,
    Event,
    Job,
    JobFailure,
    ModelFacts,
    ModelId,
    RequestId,
)

LOG = logging.getLogger("coster.engine")

SLOTS = 32
WAITING_MAX = 64
"""Choices accepted beyond the slots; the market queues upstream, where it can still choose."""

QUEUE_RETRY_S = 1.0


class MlxEngine:
    """An Engine over one model folder.

    Engines of one `host` share a thread and its memory; without one it has its own, with
    `memory_bytes_budget` (None: what the machine recommends). `prefix_cache_bytes` None takes
    an eighth of the budget.
    """

    def __init__(
        self,
        model: ModelId,
        folder: Path,
        *,
        host: MlxHost | None = None,
        slots: int = SLOTS,
        memory_bytes_budget: int | None = None,
        prefix_cache_bytes: int | None = None,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._model = model
        self._folder = folder
        self._slots = slots
        self._budget = memory_bytes_budget
        self._host = host or MlxHost(memory_bytes_budget)
        self._prefix_bytes = prefix_cache_bytes
        self._waiting_max = waiting_max
        self._sink: EventSink | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seat: Seat | None = None
        self._thread: MlxThread | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._state: Ready | None = None
        self._context_tokens = 0
        self._open: dict[RequestId, dict[int, Choice]] = {}  # by index, without an ending yet
        self._open_choices = 0
        self._closing = False
        self._over = False

    async def load(self, sink: EventSink) -> ModelFacts:
        facts = await asyncio.to_thread(facts_of, self._folder)
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._ready = self._loop.create_future()
        self._seat = Seat(facts, self._hooks(), self._slots, self._prefix_bytes)
        self._thread = self._host.seat(self._seat)
        try:
            self._state = await self._ready
        except MarketError:
            await self.close()
            raise
        self._context_tokens = facts.context_tokens
        return self._facts(facts, self._state)

    def _facts(self, facts: FolderFacts, ready: Ready) -> ModelFacts:
        return ModelFacts(
            model=self._model,
            digest=facts.digest,
            context_tokens=facts.context_tokens,
            vocab_size=ready.vocab_size,
            weight_bytes=ready.plan.weight_bytes,
            kv_bytes_per_token=ready.plan.kv_bytes_per_token,
            quantization=facts.quantization,
        )

    def submit(self, job: Job) -> None:
        ready, thread, seat = self._state, self._thread, self._seat
        if ready is None or thread is None or seat is None or self._closing or self._over:
            raise Unavailable("The engine is not accepting work.", None, "closing")
        check_job(
            job,
            vocab_size=ready.vocab_size,
            context_tokens=self._context_tokens,
            ends=seat.facts.eos_ids,
        )
        if job.request_id in self._open:
            raise InvalidRequest("This request id is running already.", "request_id")
        longest = ready.longest_tokens()
        if len(job.prompt_ids) + job.max_tokens > longest:
            raise Unavailable(
                f"This Mac's memory holds at most {longest} tokens of one request.",
                "max_tokens",
                "memory",
            )
        if self._open_choices + job.n > self._slots + self._waiting_max:
            raise Unavailable("The engine's queue is full.", None, "queue_full", QUEUE_RETRY_S)
        choices = [Choice(job, index, ready.vocabulary) for index in range(job.n)]
        self._open[job.request_id] = dict(enumerate(choices))
        self._open_choices += job.n
        thread.add(seat, choices)

    def cancel(self, request_id: RequestId) -> None:
        if request_id in self._open and self._thread is not None and self._seat is not None:
            self._thread.cancel(self._seat, request_id)

    def stats(self) -> EngineStats:
        ready, seat = self._state, self._seat
        if ready is None or seat is None:
            return EngineStats(self._slots, 0, 0, 0, self._budget or 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        reading = seat.reading
        running = min(reading.running, self._open_choices)
        return EngineStats(
            slots=self._slots,
            running=running,
            waiting=self._open_choices - running,
            memory_bytes_used=ready.plan.weight_bytes + reading.batch_bytes + reading.cache_bytes,
            memory_bytes_budget=ready.plan.budget_bytes,
            decode_tps=reading.decode_tps,
            prefill_tps=reading.prefill_tps,
            steps=reading.steps,
            prompt_tokens=reading.prompt_tokens,
            completion_tokens=reading.completion_tokens,
            cached_tokens=reading.cached_tokens,
            cache_bytes=reading.cache_bytes,
            cancelled=reading.cancelled,
            failed=reading.failed,
        )

    def healthy(self) -> bool:
        thread = self._thread
        if self._state is None or thread is None or self._over or not thread.is_alive():
            return False
        return not thread.stalled()

    async def close(self) -> None:
        self._closing = True
        thread, seat = self._thread, self._seat
        if thread is None or seat is None:
            return
        thread.leave(seat)
        await asyncio.to_thread(thread.wait_gone, seat)
        self._end("")

    # What the thread reports, brought to the event loop.

    def _hooks(self) -> Hooks:
        return Hooks(
            ready=lambda ready: self._call(lambda: self._on_ready(ready)),
            refused=lambda error: self._call(lambda: self._on_refused(error)),
            events=lambda events: self._call(lambda: self._deliver(events)),
            ended=lambda reason: self._call(lambda: self._end(reason)),
        )

    def _call(self, callback: Callable[[], None]) -> None:
        """Run on the event loop. A closed loop has nobody left to tell."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            LOG.warning("the event loop closed before the engine of %s", self._folder.name)

    def _on_ready(self, ready: Ready) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(ready)

    def _on_refused(self, error: MarketError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.error is not None:
                self._open_choices -= len(self._open.pop(event.request_id, {}))
            elif event.finish is not None:
                self._close_choice(event.request_id, event.index)
        if self._sink is not None:
            self._sink(events)

    def _close_choice(self, request_id: RequestId, index: int) -> None:
        still_open = self._open.get(request_id, {})
        if still_open.pop(index, None) is not None:
            self._open_choices -= 1
        if not still_open:
            self._open.pop(request_id, None)

    def _end(self, reason: str) -> None:
        """The thread is over: every job that is still open hears so. Runs once."""
        if self._over:
            return
        self._over = True
        reason = reason or "The engine was closed."
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(Internal(reason, None, "engine"))
        events = [
            self._last_word(choice, reason)
            for choices in self._open.values()
            for choice in (choices.values() if self._closing else [next(iter(choices.values()))])
        ]
        if events:
            self._deliver(events)

    def _last_word(self, choice: Choice, reason: str) -> Event:
        if self._closing:
            return choice.end("cancelled")
        return choice.fail(JobFailure("engine", reason))
