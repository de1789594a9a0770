"""The engine without its thread: who joins the batch, what each step means, who is told what.

Synchronous and single-threaded: the thread calls `turn` over and over, a test may do so by hand.
After a fault in a step only the newest rows fail; a second fault before the batch has produced
anything is raised, and ends the engine. The models of one process share its memory.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from actors.engines.choice import Choice
from actors.engines.memory import MemoryPlan, SharedMemory, reserve_bytes
from actors.engines.mlx import runtime
from actors.engines.mlx.batch import Batch, Drawn, Row
from actors.engines.mlx.prefix_cache import PrefixCache
from actors.engines.mlx.readings import Reading, Speed
from actors.engines.model_folder import FolderFacts
from actors.engines.shared_folders import vocabulary_of
from actors.engines.text import TokenizerVocabulary
from market.errors import InvalidRequest, Unavailable
from market.hardware import GIB
from market.types import Event, JobFailure, RequestId, TokenLogprob

LOG = logging.getLogger("coster.engine")

PREFIX_CACHE_BYTES_MAX = 2 * GIB
PREFIX_CACHE_SHARE = 0.125
"""The prefix cache takes at most this share of the budget."""

FAULTS_MAX = 2
"""Faults in a row, without a token between them, that end the engine."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a loaded engine reports back; nothing of MLX, so that the model can be freed.

    `longest_tokens` says how long one sequence may be beside the other models of the process.
    """

    vocab_size: int
    plan: MemoryPlan
    vocabulary: TokenizerVocabulary
    longest_tokens: Callable[[], int]


def load_core(
    facts: FolderFacts,
    reading: Reading,
    memory: SharedMemory,
    *,
    slots: int,
    prefix_cache_bytes: int | None = None,
) -> Generator[None, None, EngineCore]:
    """Load a folder's model and warm it, a slice each time it is resumed.

    Nothing is read before the sequences that run have left room for it, and none starts where it
    will be. Raises InvalidRequest when the folder cannot be served here, Unavailable when there
    is no room for it beside the models that are loaded now.
    """
    _check_fits(facts, memory)
    vocabulary = vocabulary_of(facts.tokenizer_path)
    coming = memory.expect(facts.weight_bytes)
    try:
        yield
        while not memory.has_room():
            yield
        loaded = yield from runtime.load_slices(facts)
    finally:
        memory.arrived(coming)
    if prefix_cache_bytes is None:
        share = int(memory.budget_bytes * PREFIX_CACHE_SHARE)
        prefix_cache_bytes = min(PREFIX_CACHE_BYTES_MAX, share)
    core = EngineCore(loaded, vocabulary, facts.eos_ids, reading, memory, slots, prefix_cache_bytes)
    yield
    core.warm()
    return core


class EngineCore:
    """One loaded model and the jobs it runs. Every call on the thread that loaded it."""

    def __init__(
        self,
        loaded: runtime.Loaded,
        vocabulary: TokenizerVocabulary,
        eos_ids: Iterable[int],
        reading: Reading,
        memory: SharedMemory,
        slots: int,
        prefix_cache_bytes: int,
    ) -> None:
        self.weight_bytes = loaded.weight_bytes
        self.reading = reading
        self._memory = memory
        self._plan = MemoryPlan(
            memory.budget_bytes, loaded.weight_bytes, loaded.kv_bytes_per_token, loaded.state_bytes
        )
        self.ready = Ready(loaded.vocab_size, self._plan, vocabulary, self._longest_tokens)
        self._slots = slots
        self._speed = Speed(reading)
        self._prefixes = PrefixCache(prefix_cache_bytes)
        self._ends = frozenset(eos_ids)
        memory.join(self)
        self._batch = Batch(loaded, eos_ids, slots, self._prefixes, self._limit_memory)
        self._waiting: deque[Row] = deque()
        self._jobs: dict[RequestId, list[Row]] = {}
        self._events: list[Event] = []
        self._faults = 0
        self._others_wait = False

    # ── what it has of the memory it shares (actors.engines.memory.Tenant) ────────────

    def batch_bytes(self) -> int:
        return self._plan.batch_bytes([row.full_tokens for row in self._batch.rows.values()])

    def prefix_bytes(self) -> int:
        return self._prefixes.nbytes

    def drop_prefix(self) -> bool:
        return self._prefixes.evict_oldest()

    def _longest_tokens(self) -> int:
        return self._plan.longest_tokens(self._memory.weight_bytes(apart_from=self))

    def _limit_memory(self) -> None:
        runtime.limit_memory(self._memory.weight_bytes())

    # ── its life ──────────────────────────────────────────────────────────────────────

    def warm(self) -> None:
        """Run once whatever compiles on first use."""
        self._batch.warm()

    @property
    def busy(self) -> bool:
        """Whether another turn would do anything."""
        return bool(self._batch.rows or self._waiting)

    @property
    def decoding(self) -> bool:
        """Whether somebody is being answered."""
        return any(not row.left for row in self._batch.rows.values())

    def turn(self, others_wait: bool = False) -> None:
        """Admit whoever fits and make one step. `take_events` has the outcome.

        `others_wait`: another model is answering somebody, who waits while this one reads.
        """
        self._others_wait = others_wait
        self._admit()
        if self._batch.rows:
            self._step()
        self._keep_prefixes()

    def take_events(self) -> list[Event]:
        """The events since the last call, in order."""
        self.reading.running = len(self._batch.rows)
        events, self._events = self._events, []
        return events

    @property
    def model(self) -> Any:
        """The MLX model, for this thread only."""
        return self._batch.model

    def close(self) -> None:
        """Drop the model and everything computed with it."""
        self._memory.leave(self)
        self._batch.close()
        runtime.free()
        self._limit_memory()

    def add(self, choices: list[Choice]) -> None:
        rows = [Row(choice) for choice in choices]
        self._jobs[choices[0].job.request_id] = rows
        self._waiting.extend(rows)

    def cancel(self, request_id: RequestId) -> None:
        rows = self._jobs.pop(request_id, None)
        if rows is None:
            return
        self._batch.remove(rows)
        for row in rows:
            if not row.choice.finished:
                self._events.append(row.choice.end("cancelled"))
        self._waiting = deque(row for row in self._waiting if not row.choice.finished)
        self.reading.cancelled += 1

    def _admit(self) -> None:
        """Join waiting rows, oldest first, as far as slots, memory and prefill allow."""
        if not self._waiting:
            self._memory.settle(self)
            return
        if not self._memory.may_admit(self):
            self._memory.claim(self)
            return
        joining: list[Row] = []
        lengths = [row.full_tokens for row in self._batch.rows.values()]
        backlog = sum(row.left for row in self._batch.rows.values())
        budget = self._prefill_budget()
        room = True
        while self._waiting and len(lengths) < self._slots and backlog < budget:
            row = self._waiting[0]
            lengths.append(row.full_tokens)
            room = self._make_room(lengths)
            if not room:
                break
            self._waiting.popleft()
            joining.append(row)
            backlog += len(row.tokens_so_far())
        if joining or room:
            self._memory.settle(self)
        if not room:
            self._wait_for_room(self._waiting[0], alone=len(lengths) == 1)
        if not joining:
            return
        self._batch.begin_admission()
        for row in joining:
            self._join(row)

    def _join(self, row: Row) -> None:
        job = row.choice.job
        if row.choice.finished:  # a sibling could not join, which failed the job
            return
        try:
            self._batch.insert(row)
        except Exception as fault:  # noqa: BLE001 - whatever it is, only this job is told
            # Its type only: the message may hold tokens.
            about = {"request_id": job.request_id, "code": type(fault).__name__}
            LOG.error("a request could not join the batch", extra=about)  # noqa: TRY400
            self._batch.remove(self._jobs[job.request_id])
            self._fail(job.request_id, fault)
            return
        if row.choice.index == 0:
            self.reading.prompt_tokens += len(job.prompt_ids)
            self.reading.cached_tokens += row.choice.cached_tokens

    def _make_room(self, lengths: list[int]) -> bool:
        """Whether these lengths fit, after stored prefixes have given way."""
        memory = self._memory
        while not self._plan.fits(lengths, self._prefixes.nbytes + memory.taken_bytes(self)):
            if not memory.give_way(self):
                return False
        return True

    def _wait_for_room(self, row: Row, *, alone: bool) -> None:
        """Nobody goes before the oldest row, unless no waiting can make room for it: another
        model came since it was accepted, and it is for another Mac.
        """
        if alone and self._memory.nobody_else_runs(self):
            message = "The other models of this Mac leave no room for this request."
            self._end_job(row.choice.job.request_id, JobFailure("rejected", message))
        else:
            self._memory.claim(self)

    def _prefill_budget(self) -> int:
        return self._speed.prefill_budget(self._others_wait or self.decoding)

    def _step(self) -> None:
        left = sum(row.left for row in self._batch.rows.values())
        started_s = time.monotonic()
        try:
            drawn = self._batch.step(self._prefill_budget())
        except Exception as fault:  # noqa: BLE001 - whatever a model raises, its rows are told
            self._recover(fault)
            return
        if drawn:
            self._faults = 0
        read = left - sum(row.left for row in self._batch.rows.values())
        self._speed.note(time.monotonic() - started_s, len(drawn), max(0, read))
        self._answer(drawn)
        self._measure()

    def _keep_prefixes(self) -> None:
        """Losing stored prefixes costs time, never an answer."""
        try:
            self._batch.keep_prefixes()
        except RuntimeError:
            LOG.exception("stored prefixes were dropped")
            self._prefixes.clear()

    def _answer(self, drawn: list[Drawn]) -> None:
        """Turn tokens into events and take out rows that met a stop string."""
        stopped: list[Row] = []
        for one in drawn:
            choice = one.row.choice
            is_end = one.token in self._ends
            asked = choice.job.top_logprobs is not None and not is_end
            event = choice.push(one.token, is_end, self._logprobs(one) if asked else ())
            self._events.append(event)
            if event.finish is None:
                continue
            if one.row.uid in self._batch.rows:
                stopped.append(one.row)
            self._forget(one.row)
        self._batch.remove(stopped)
        self.reading.completion_tokens += len(drawn)

    def _forget(self, ended: Row) -> None:
        request_id = ended.choice.job.request_id
        if all(row.choice.finished for row in self._jobs.get(request_id, ())):
            self._jobs.pop(request_id, None)

    def _logprobs(self, one: Drawn) -> tuple[TokenLogprob, ...]:
        import numpy as np

        values = np.array(one.logprobs)
        count = one.row.choice.job.top_logprobs or 0
        likeliest = np.argsort(-values, kind="stable")[:count]
        text_of = self.ready.vocabulary.text_of
        top = tuple((int(i), text_of(int(i)), float(values[i])) for i in likeliest)
        return (TokenLogprob(one.token, text_of(one.token), float(values[one.token]), top),)

    def _recover(self, fault: Exception) -> None:
        """Fail the newest rows and feed the others to a fresh generator."""
        self._faults += 1
        LOG.error("a step failed (%s), fault %d in a row", type(fault).__name__, self._faults)
        if self._faults >= FAULTS_MAX:
            raise fault
        victims = {row.choice.job.request_id for row in self._batch.newest()}
        for request_id in victims:
            self._fail(request_id, fault)
        rows = self._batch.rows.values()
        self._batch.restart([row for row in rows if not row.choice.finished])

    def _fail(self, request_id: RequestId, fault: Exception) -> None:
        message = f"The engine failed while running this request ({type(fault).__name__})."
        self._end_job(request_id, JobFailure("engine", message))

    def _end_job(self, request_id: RequestId, failure: JobFailure) -> None:
        rows = [row for row in self._jobs.pop(request_id) if not row.choice.finished]
        self._events.append(rows[0].choice.fail(failure))
        for row in rows[1:]:
            row.choice.finished = True
        self._waiting = deque(row for row in self._waiting if not row.choice.finished)
        self.reading.failed += 1

    def _measure(self) -> None:
        reading = self.reading
        reading.steps += 1
        reading.running = len(self._batch.rows)
        reading.cache_bytes = self._prefixes.nbytes
        reading.batch_bytes = self._batch.cache_bytes()


def _check_fits(facts: FolderFacts, memory: SharedMemory) -> None:
    """Refuse a model that would leave no room to answer anybody."""
    needed = facts.weight_bytes
    room = memory.budget_bytes - reserve_bytes(memory.budget_bytes)
    if needed > room:
        raise InvalidRequest(
            f"{facts.folder} holds {needed / GIB:.1f} GiB of weights; this machine plans with "
            f"{room / GIB:.1f} GiB for them. Choose a smaller model or quantisation.",
            "model",
            "too_large",
        )
    taken = memory.weight_bytes()
    if needed > room - taken:
        raise Unavailable(
            f"{facts.folder} holds {needed / GIB:.1f} GiB of weights; of this machine's "
            f"{room / GIB:.1f} GiB for them other models have {taken / GIB:.1f}. Unload one of "
            "them first.",
            "model",
            "memory",
        )
