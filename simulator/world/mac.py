"""One simulated Mac: what runs on it, step by step, and when that says something.

The same steps as the live simulated engine takes. In one step every answered sequence of a model
gets a token, and up to a chunk of prompts is read; models of one Mac take turns, so a cycle is a
step of each that has work. While prompts are read each cycle is an event; in between, cycles
until the next answer ends pass at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from market.hardware import Chip, ModelProfile, chip_named, prefill_ms, profile_of, step_ms
from market.prefix_store import PrefixStore
from market.types import ModelId, RequestId
from simulator.world.kernel import Kernel

PREFILL_CHUNK_TOKENS = 512
"""Prompt tokens read in one step, as in the live engine."""

JITTER_SHARE = 0.03
"""Standard deviation of a step's length."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on a Mac. `left` is prompt still to be read, `tokens` what it will say here;
    `joined` is its model's count of steps when it began to. `said` is known once it is over.
    """

    request_id: RequestId
    model: ModelId
    prompt_tokens: int
    tokens: int
    cached_tokens: int
    left: int
    leaves: tuple[int, ...]
    first: Callable[[Job], None]
    ended: Callable[[Job], None]
    joined: int = -1
    said: int = 0
    over: bool = False
    number: int = 0  # in order of submission: what breaks ties


@dataclass(slots=True, eq=False)
class Loaded:
    """One model on a Mac. `steps` counts its decode steps; `ends` is a heap by last step."""

    profile: ModelProfile
    reading: deque[Job] = field(default_factory=deque)
    answering: dict[RequestId, Job] = field(default_factory=dict)
    ends: list[tuple[int, int, Job]] = field(default_factory=list)
    steps: int = 0
    context_tokens: float = 0.0

    @property
    def busy(self) -> bool:
        return bool(self.reading or self.answering)


class SimMac:
    """Runs jobs of its models. `factor` makes every step longer: heat, or an owner at work."""

    def __init__(
        self, kernel: Kernel, chip: str, slots: int, cache_bytes: float, random: np.random.Generator
    ) -> None:
        self._kernel = kernel
        self._chip: Chip = chip_named(chip)
        self._random = random
        self.slots = slots
        self.models: dict[ModelId, Loaded] = {}
        self.waiting: deque[Job] = deque()
        self.prefixes = PrefixStore(cache_bytes)
        self.factor = 1.0
        self.frozen = False
        self.busy_s = 0.0
        self._running = 0
        self._submitted = 0
        self._version = 0
        self._began_s = 0.0
        self._cycle_s = 0.0
        self._cycles = 0  # of the segment under way; 0 while idle
        self._chunks: dict[ModelId, int] = {}
        self._jobs: dict[RequestId, Job] = {}

    # ── what it is told ───────────────────────────────────────────────────────────────

    @property
    def running(self) -> int:
        return self._running

    def running_of(self, model: ModelId) -> int:
        loaded = self.models.get(model)
        return len(loaded.reading) + len(loaded.answering) if loaded is not None else 0

    def add_model(self, model: ModelId) -> None:
        self.models[model] = Loaded(profile_of(model))

    def drop_model(self, model: ModelId) -> None:
        """Unload a model that nothing runs on."""
        assert not self.models[model].busy
        del self.models[model]
        self._chunks.pop(model, None)  # what was to be read now has been called off
        self.prefixes.forget(model)

    def submit(self, job: Job) -> None:
        """Take a job; it begins with the next step, or when a slot is free."""
        self._submitted += 1
        job.number = self._submitted
        self._jobs[job.request_id] = job
        self.waiting.append(job)
        self._changed()

    def cancel(self, request_id: RequestId) -> Job | None:
        """Stop a job; what it has said until now stays said."""
        job = self._jobs.get(request_id)
        if job is not None:
            self._settle_time()
            self._take_out(job)
            self._changed()
        return job

    def said(self, job: Job) -> int:
        """Tokens said so far of a job's own."""
        if job.joined < 0:
            return 0
        loaded = self.models[job.model]
        return min(loaded.steps + self._steps_under_way() - job.joined, job.tokens)

    def lose_all(self) -> list[Job]:
        """The process is gone: every job with it."""
        self._settle_time()
        lost = [job for job in self._jobs.values() if not job.over]
        for job in lost:
            self._take_out(job)
        self.models.clear()
        self.prefixes.forget()
        self._version += 1
        self._cycles = 0
        return lost

    def freeze(self, frozen: bool) -> None:
        """Hang: nothing more is said until it thaws."""
        self._settle_time()
        self.frozen = frozen
        self._version += 1
        self._cycles = 0
        if not frozen:
            self._begin()

    def heat(self, factor: float) -> None:
        """Every step takes this many times as long from the next one on."""
        self.factor = factor
        self._changed()

    def decode_tps(self, model: ModelId) -> float:
        """What it would say its batch decodes now; 0 while nothing is answered."""
        loaded = self.models.get(model)
        if loaded is None or not loaded.answering:
            return 0.0
        batch = len(loaded.answering)
        ms = step_ms(self._chip, loaded.profile, batch, loaded.context_tokens / batch)
        return batch * 1e3 / (ms * self.factor)

    # ── steps ─────────────────────────────────────────────────────────────────────────

    def _changed(self) -> None:
        """Something came or went: it counts from the next step on."""
        if self.frozen:
            return
        if self._cycles == 0:
            self._begin()
        elif self._cycles > 1:
            done = self._steps_under_way()
            self._cycles = done + 1
            self._plan(self._began_s + self._cycles * self._cycle_s)

    def _steps_under_way(self) -> int:
        """Whole steps of the segment under way that are over by now."""
        if self._cycles == 0 or self._cycle_s <= 0:
            return 0
        done = int((self._kernel.now_s - self._began_s) / self._cycle_s + 1e-9)
        return min(done, self._cycles)

    def _settle_time(self) -> None:
        """Let the steps that are over count, before something is changed by force."""
        # The last step of a segment is left to its own event, which tells who has ended.
        done = min(self._steps_under_way(), self._cycles - 1)
        if done > 0 and not self._chunks:
            self._count_steps(done)
            self._began_s += done * self._cycle_s
            self._cycles -= done

    def _begin(self) -> None:
        """Begin a segment: one cycle while prompts are read, else until an answer ends."""
        self._admit()
        busy = [(model, loaded) for model, loaded in self.models.items() if loaded.busy]
        if not busy:
            self._cycles = 0
            return
        self._chunks = {
            model: min(PREFILL_CHUNK_TOKENS, sum(job.left for job in loaded.reading))
            for model, loaded in busy
            if loaded.reading
        }
        cycles = 1
        if not self._chunks:
            cycles = min(loaded.ends[0][0] - loaded.steps for _, loaded in busy)
        cycle_ms = 0.0
        for model, loaded in busy:
            cycle_ms += self._step_ms(model, loaded, cycles)
        if cycles > 1:
            jitter = self._random.standard_normal() * JITTER_SHARE / cycles**0.5
        else:
            jitter = self._random.standard_normal() * JITTER_SHARE
        self._cycle_s = cycle_ms * self.factor * max(1.0 + jitter, 0.0) / 1e3
        self._cycles = cycles
        self._began_s = self._kernel.now_s
        self._plan(self._began_s + cycles * self._cycle_s)

    def _step_ms(self, model: ModelId, loaded: Loaded, cycles: int) -> float:
        """One step of one model: who is answered, and a chunk of who is read."""
        chunk, batch, context = self._chunks.get(model, 0), len(loaded.answering), 0.0
        if chunk:
            left = chunk
            for job in loaded.reading:  # whoever is read to the end says a token in this step
                if job.left > left:
                    break
                left -= job.left
                batch += 1
                context += job.prompt_tokens
        total = 0.0
        if batch:
            mean = (loaded.context_tokens + context) / batch + (cycles - 1) / 2
            total = step_ms(self._chip, loaded.profile, batch, mean)
        return total + prefill_ms(self._chip, loaded.profile, chunk)

    def _plan(self, time_s: float) -> None:
        self._version += 1
        self._kernel.at(time_s, self._segment_over, self._version)

    def _segment_over(self, version: int) -> None:
        if version != self._version or self.frozen:
            return
        self._read_chunks()
        over = self._count_steps(self._cycles)
        self._cycles = 0
        self._begin()
        for job in over:
            job.ended(job)

    def _read_chunks(self) -> None:
        """Prompts advance; who is read to the end says its first token."""
        for model, chunk in self._chunks.items():
            loaded = self.models[model]
            left = chunk
            while loaded.reading and left > 0:
                job = loaded.reading[0]
                part = min(job.left, left)
                job.left -= part
                left -= part
                if job.left:
                    break
                loaded.reading.popleft()
                job.joined = loaded.steps
                loaded.answering[job.request_id] = job
                loaded.context_tokens += job.prompt_tokens
                heapq.heappush(loaded.ends, (loaded.steps + job.tokens, job.number, job))
                job.first(job)
        self._chunks = {}

    def _count_steps(self, steps: int) -> list[Job]:
        """Everyone who is answered has said this many tokens more; those that have ended."""
        self.busy_s += steps * self._cycle_s
        over: list[Job] = []
        for loaded in self.models.values():
            if not loaded.answering:
                continue
            loaded.steps += steps
            loaded.context_tokens += steps * len(loaded.answering)
            while loaded.ends and loaded.ends[0][0] <= loaded.steps:
                _, _, job = heapq.heappop(loaded.ends)
                if job.over:
                    continue
                self._take_out(job)
                bytes_per_token = loaded.profile.kv_bytes_per_token
                self.prefixes.note(job.model, job.leaves, bytes_per_token)
                over.append(job)
        return over

    def _admit(self) -> None:
        """Waiting jobs take free slots, in order."""
        while self.waiting and self._running < self.slots:
            job = self.waiting.popleft()
            if job.over:
                continue
            self._running += 1
            self.models[job.model].reading.append(job)

    def _take_out(self, job: Job) -> None:
        """A job is over, however it ended: its slot is free."""
        job.over = True
        self._jobs.pop(job.request_id, None)
        loaded = self.models.get(job.model)
        if loaded is None:
            return
        if job.joined >= 0 and loaded.answering.pop(job.request_id, None) is not None:
            job.said = min(loaded.steps - job.joined, job.tokens)
            loaded.context_tokens -= job.prompt_tokens + loaded.steps - job.joined
            self._running -= 1
        elif job in loaded.reading:
            loaded.reading.remove(job)
            self._running -= 1
