"""The engines of one Mac, by model: loaded, asked, measured and closed. It decides nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from market.ports import Engine, EventSink
from market.types import EngineStats, Job, ModelFacts, ModelId, RequestId

MEASURED_LOAD_BYTES_MIN = 2**28
"""The load of a smaller model says nothing about how fast weights come in."""

CLOSE_S_MAX = 30.0
"""An engine that takes longer to close hangs."""

log = logging.getLogger("coster.hosting")


class Hosting:
    """Keeps at most one engine per model. Used from one event loop."""

    def __init__(self, make_engine: Callable[[ModelId], Engine], sink: EventSink) -> None:
        self._make_engine = make_engine
        self._sink = sink
        self._engines: dict[ModelId, Engine] = {}
        self._closing: set[ModelId] = set()
        self.load_bytes_per_s = 0.0
        """As measured by the last load of a model that was large enough; 0 is not measured."""

    async def load(self, model: ModelId) -> ModelFacts:
        """Make and load an engine. Raises what its maker or it raises, and keeps nothing then."""
        engine = await asyncio.to_thread(self._make_engine, model)  # it may fetch the model
        began_s = time.monotonic()
        try:
            facts = await engine.load(self._sink)
        except BaseException:  # also when we are cancelled: nobody else knows of this engine
            await engine.close()
            raise
        took_s = time.monotonic() - began_s
        if facts.weight_bytes >= MEASURED_LOAD_BYTES_MIN and took_s > 0:
            self.load_bytes_per_s = facts.weight_bytes / took_s
        self._engines[model] = engine
        return facts

    async def unload(self, model: ModelId) -> None:
        """Close an engine and forget it. Raises TimeoutError when it hangs."""
        self._closing.add(model)
        engine = self._engines[model]
        async with asyncio.timeout(CLOSE_S_MAX):
            await engine.close()
        del self._engines[model]
        self._closing.discard(model)

    async def close(self) -> None:
        """Close all engines, whatever one of them does."""
        engines, self._engines = list(self._engines.values()), {}
        closing = asyncio.gather(*(engine.close() for engine in engines), return_exceptions=True)
        for result in await closing:
            if isinstance(result, BaseException):
                log.error("an engine did not close: %s", type(result).__name__)

    def submit(self, job: Job) -> None:
        """Hand a job to its model's engine; raises what that raises."""
        self._engines[job.model].submit(job)

    def cancel(self, model: ModelId, request_id: RequestId) -> None:
        engine = self._engines.get(model)
        if engine is not None:
            engine.cancel(request_id)

    def unhealthy(self) -> list[ModelId]:
        """Models whose engine can make no progress any more."""
        return [
            model
            for model, engine in self._engines.items()
            if model not in self._closing and not engine.healthy()
        ]

    def stats_of(self, model: ModelId) -> EngineStats | None:
        """One engine's reading; None when there is none."""
        engine = self._engines.get(model)
        return engine.stats() if engine is not None else None

    def stats(self) -> EngineStats | None:
        """All engines' readings as one; None when there is no engine."""
        return together([engine.stats() for engine in self._engines.values()])


def together(readings: list[EngineStats]) -> EngineStats | None:
    """The reading of a Mac whose engines take turns on one GPU and share one memory.

    Slots and memory budget are the Mac's own, not the sum. None for no readings.
    """
    if len(readings) < 2:
        return readings[0] if readings else None
    return EngineStats(
        slots=max(each.slots for each in readings),
        running=sum(each.running for each in readings),
        waiting=sum(each.waiting for each in readings),
        memory_bytes_used=sum(each.memory_bytes_used for each in readings),
        memory_bytes_budget=max(each.memory_bytes_budget for each in readings),
        decode_tps=_decode_tps(readings),
        prefill_tps=_mean(each.prefill_tps for each in readings),
        steps=sum(each.steps for each in readings),
        prompt_tokens=sum(each.prompt_tokens for each in readings),
        completion_tokens=sum(each.completion_tokens for each in readings),
        cached_tokens=sum(each.cached_tokens for each in readings),
        cache_bytes=sum(each.cache_bytes for each in readings),
        cancelled=sum(each.cancelled for each in readings),
        failed=sum(each.failed for each in readings),
    )


def _decode_tps(readings: list[EngineStats]) -> float:
    """A round is a step of each engine that runs something: its tokens over its length."""
    busy = [each for each in readings if each.running and each.decode_tps > 0]
    if not busy:
        return _mean(each.decode_tps for each in readings)
    round_s = sum(each.running / each.decode_tps for each in busy)
    return sum(each.running for each in busy) / round_s


def _mean(rates: Iterable[float]) -> float:
    """Of the rates that are known; 0 when none is."""
    known = [rate for rate in rates if rate > 0]
    return sum(known) / len(known) if known else 0.0
