"""The engine that thinks in no time: the base of the echo and the simulated engine.

It answers a prompt with the prompt's own tokens, over and over, so outputs are known in
advance, and takes its timing from a `Pace`. A step is one token for every running choice and
one call of the sink, as in a real engine. Many instances share one event loop, and the engines
of one Mac its `Device`: one step at a time, in turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from actors.engines.checks import check_job
from actors.engines.choice import Choice
from actors.engines.model_folder import FolderFacts
from actors.engines.shared_folders import facts_of, vocabulary_of
from actors.engines.text import Vocabulary, WordVocabulary
from market.catalogue import ModelCard
from market.errors import InvalidRequest, Unavailable
from market.ports import EventSink
from market.types import (
    EngineStats,
    Event,
    Job,
    ModelFacts,
    ModelId,
    RequestId,
    TokenLogprob,
)

WAITING_MAX = 256
"""Choices that may wait for a slot before `submit` says no."""

CATCH_UP_S_MAX = 0.25
"""Of lateness that a Mac makes good in its next steps: a busy machine's, not a nap's."""

CONTEXT_TOKENS = 131_072
VOCAB_SIZE = 151_936
"""What an engine without a model folder claims: the shape of the models it stands in for."""


class Pace(Protocol):
    """How long things take, and what need not be done twice. Times in seconds of the event
    loop's clock.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    memory_bytes_budget: int
    prefill_tps: float
    prefill_chunk_tokens: int  # prompt tokens one step may process; 0 for all at once
    emits_first: bool  # events are given out before the step's time passes, not after

    def step_s(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        """Length of a step: choices decoding, sum of their lengths, prompt tokens processed."""
        ...

    async def load(self) -> None:
        """Take as long as loading the model takes; the device is the Mac's."""
        ...

    def known_tokens(self, job: Job) -> int:
        """How many tokens of prompt and answer so far need not be read again."""
        ...

    def keep(self, job: Job, answer: Sequence[int]) -> None:
        """Prompt and answer were read to here, and may be asked for again."""
        ...

    def cache_bytes(self) -> int:
        """What is kept takes so much memory."""
        ...

    def unload(self) -> None:
        """Forget what was kept: the model goes."""
        ...


class Device:
    """What makes the steps: one at a time, whichever engine's, first come first served."""

    __slots__ = ("free_at_s", "turn")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.free_at_s = 0.0

    async def work(self, duration_s: float, since_s: float) -> None:
        """Be busy for as long, within a turn: from when the last work was over, or from when
        there was something to do. Timers that were late do not add up: what follows is shorter by
        as much, but not by more than `CATCH_UP_S_MAX` after this process itself stood still.
        """
        now_s = asyncio.get_running_loop().time()
        begin_s = max(self.free_at_s, since_s, now_s - CATCH_UP_S_MAX)
        self.free_at_s = begin_s + duration_s
        pause_s = self.free_at_s - now_s
        await asyncio.sleep(pause_s if duration_s and pause_s > 0 else 0)


class _Row:
    """A running choice, what is left to be read and what it will say."""

    __slots__ = ("choice", "left", "place", "script")

    def __init__(self, choice: Choice, script: tuple[int, ...]) -> None:
        self.choice = choice
        self.script = script
        self.place = choice.count
        self.left = 0

    def start(self, known_tokens: int) -> None:
        """Begin to read what is not known; at least one token is always read."""
        job = self.choice.job
        known_tokens = min(known_tokens, len(job.prompt_ids) + len(job.said) - 1)
        self.left = len(job.prompt_ids) + len(job.said) - known_tokens
        self.choice.cached_tokens = min(known_tokens, len(job.prompt_ids))

    def answer(self) -> list[int]:
        """All it has said, by whatever Mac."""
        said = self.choice.job.said
        script, places = self.script, range(len(said), self.place)
        return [*said, *(script[place % len(script)] for place in places)]


class PacedEngine:
    """An Engine that repeats the prompt at the pace it is given.

    With a `folder` it speaks that model's tokens; without one, ids read as short words. With a
    `card` too it stands in for that model of the catalogue.
    """

    def __init__(
        self,
        model: ModelId,
        pace: Pace,
        *,
        device: Device | None = None,
        folder: Path | None = None,
        card: ModelCard | None = None,
        slots: int = 32,
        waiting_max: int = WAITING_MAX,
        context_tokens: int = CONTEXT_TOKENS,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        self._model = model
        self._pace = pace
        self._device = device or Device()
        self._folder = folder
        self._card = card
        self._slots = slots
        self._waiting_max = waiting_max
        self._context_tokens = context_tokens
        self._vocab_size = vocab_size
        self._vocabulary: Vocabulary = WordVocabulary()
        self._silent: frozenset[int] = frozenset()
        self._sink: EventSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._waiting: deque[_Row] = deque()
        self._running: list[_Row] = []
        self._jobs: dict[RequestId, list[_Row]] = {}
        self._goodbyes: list[Event] = []  # finishes of cancelled choices, for the next step
        self._counts = dict.fromkeys(
            ("steps", "prompt", "completion", "cached", "cancelled", "failed"), 0
        )
        self._decode_tps = 0.0  # of the last step that only answered

    async def load(self, sink: EventSink) -> ModelFacts:
        self._sink = sink
        digest, quantization = "echo", "none"
        if self._folder is not None:
            facts = await asyncio.to_thread(facts_of, self._folder, self._card)
            await self._use(facts)
            digest, quantization = facts.digest, facts.quantization
        await self._pace.load()
        if self._closing:
            raise Unavailable("The engine was closed while it was loading.", None, "closing")
        self._task = asyncio.create_task(self._run(), name=f"engine {self._model}")
        return ModelFacts(
            model=self._model,
            digest=digest,
            context_tokens=self._context_tokens,
            vocab_size=self._vocab_size,
            weight_bytes=self._pace.weight_bytes,
            kv_bytes_per_token=self._pace.kv_bytes_per_token,
            quantization=quantization,
        )

    async def _use(self, facts: FolderFacts) -> None:
        vocabulary = await asyncio.to_thread(vocabulary_of, facts.tokenizer_path)
        self._vocabulary = vocabulary
        self._silent = vocabulary.special_ids | frozenset(facts.eos_ids)
        self._context_tokens = facts.context_tokens
        self._vocab_size = facts.vocab_size

    def submit(self, job: Job) -> None:
        check_job(job, vocab_size=self._vocab_size, context_tokens=self._context_tokens)
        if job.request_id in self._jobs:
            raise InvalidRequest("This request id is running already.", "request_id")
        if self._closing or self._sink is None:
            raise Unavailable("The engine is not accepting work.", None, "closing")
        open_rows = len(self._waiting) + len(self._running)
        if open_rows + job.n > self._slots + self._waiting_max:
            raise Unavailable("The engine's queue is full.", None, "queue_full", 1.0)
        script = tuple(i for i in job.prompt_ids if i not in self._silent) or job.prompt_ids
        rows = [_Row(Choice(job, index, self._vocabulary), script) for index in range(job.n)]
        self._jobs[job.request_id] = rows
        self._waiting.extend(rows)
        self._counts["prompt"] += len(job.prompt_ids)
        self._wake.set()

    def cancel(self, request_id: RequestId) -> None:
        rows = self._jobs.pop(request_id, None)
        if rows is None:
            return
        for row in self._running:
            if row in rows and not _done(row):
                self._keep(row)
        self._goodbyes.extend(row.choice.end("cancelled") for row in rows if not _done(row))
        self._counts["cancelled"] += 1
        self._waiting = deque(row for row in self._waiting if not _done(row))
        self._running = [row for row in self._running if not _done(row)]
        self._wake.set()

    def stats(self) -> EngineStats:
        pace, counts = self._pace, self._counts
        held = sum(row.choice.count + len(row.choice.job.prompt_ids) for row in self._running)
        cached = pace.cache_bytes()
        return EngineStats(
            slots=self._slots,
            running=len(self._running),
            waiting=len(self._waiting),
            memory_bytes_used=pace.weight_bytes + held * pace.kv_bytes_per_token + cached,
            memory_bytes_budget=pace.memory_bytes_budget,
            decode_tps=self._decode_tps,
            prefill_tps=pace.prefill_tps,
            steps=counts["steps"],
            prompt_tokens=counts["prompt"],
            completion_tokens=counts["completion"],
            cached_tokens=counts["cached"],
            cache_bytes=cached,
            cancelled=counts["cancelled"],
            failed=counts["failed"],
        )

    def healthy(self) -> bool:
        """False before load and once the loop has ended, whatever ended it."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        self._closing = True
        for request_id in list(self._jobs):
            self.cancel(request_id)
        self._give(self._take_goodbyes())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._pace.unload()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        while True:
            if not (self._running or self._waiting or self._goodbyes):
                self._wake.clear()
                await self._wake.wait()
                since_s = loop.time()
            async with self._device.turn:
                duration_s = self._begin_step()
                if self._pace.emits_first:
                    self._give(self._finish_step())
                await self._device.work(duration_s, since_s)
            if not self._pace.emits_first:
                self._give(self._finish_step())

    def _begin_step(self) -> float:
        """Fill the slots, process a chunk of prompt and say how long the step takes."""
        while self._waiting and len(self._running) < self._slots:
            row = self._waiting.popleft()
            row.start(self._pace.known_tokens(row.choice.job))
            if row.choice.index == 0:
                self._counts["cached"] += row.choice.cached_tokens
            self._running.append(row)
        chunk = self._pace.prefill_chunk_tokens
        budget = chunk or sum(row.left for row in self._running)
        spent, decoding, context = 0, 0, 0
        for row in self._running:
            if row.left:
                part = min(row.left, budget - spent)
                row.left -= part
                spent += part
            if not row.left:
                decoding += 1
                context += len(row.choice.job.prompt_ids) + row.choice.count
        self._counts["steps"] += 1
        duration_s = self._pace.step_s(decoding, context, spent)
        if decoding and not spent and duration_s > 0:
            self._decode_tps = decoding / duration_s
        return duration_s

    def _finish_step(self) -> list[Event]:
        """One token of every choice whose prompt is done."""
        events = self._take_goodbyes()
        ended = False
        for row in self._running:
            if row.left:
                continue
            token = row.script[row.place % len(row.script)]
            row.place += 1
            logprobs = self._certainty(token, row.choice.job) if _asks(row.choice.job) else ()
            event = row.choice.push(token, False, logprobs)
            events.append(event)
            self._counts["completion"] += 1
            if event.finish is not None:
                ended = True
                self._keep(row)
        if ended:
            self._forget_ended()
        return events

    def _keep(self, row: _Row) -> None:
        """What it has read may be of use again, once all of its prompt is."""
        if not row.left and row.choice.job.cache_scope:
            self._pace.keep(row.choice.job, row.answer())

    def _forget_ended(self) -> None:
        ended = {row.choice.job.request_id for row in self._running if _done(row)}
        self._running = [row for row in self._running if not _done(row)]
        for request_id in ended:
            if all(_done(row) for row in self._jobs[request_id]):
                del self._jobs[request_id]

    def _certainty(self, token: int, job: Job) -> tuple[TokenLogprob, ...]:
        """Its own answer is certain: log-probability 0, no other candidate."""
        text = self._vocabulary.text_of(token)
        return (TokenLogprob(token, text, 0.0, ((token, text, 0.0),) if job.top_logprobs else ()),)

    def _take_goodbyes(self) -> list[Event]:
        events, self._goodbyes = self._goodbyes, []
        return events

    def _give(self, events: list[Event]) -> None:
        if events and self._sink is not None:
            self._sink(events)


def _done(row: _Row) -> bool:
    return row.choice.finished


def _asks(job: Job) -> bool:
    return job.top_logprobs is not None
