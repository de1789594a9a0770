"""Rows in a BatchGenerator: join, step, leave, and start again after a fault.

The only file that touches BatchGenerator. It keeps, for every row, all that is needed to feed
it to a fresh generator, because after an exception the old one's state cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.engines.choice import Choice
from actors.engines.mlx import runtime
from actors.engines.mlx.prefix_cache import PrefixCache
from actors.engines.mlx.sampling import processors_for, sampler_for
from market.types import Sampling

PREFILL_STEP_TOKENS_MAX = 2048
"""Most prompt tokens of one row in one step (mlx_lm's own default)."""

PREFILL_CHUNK_TOKENS_MIN = 16
EVALUATE_EVERY_STEPS = 128
"""Recurrent caches keep unevaluated arrays that pile up until something reads them."""

WARM_PROMPT_TOKENS = 4


@dataclass(slots=True, eq=False)
class Row:
    """One choice in the batch. `said` are its delivered tokens, by whatever Mac, `left` what
    it has not read yet.

    `admission` numbers the group it joined with: after a fault the newest group leaves.
    """

    choice: Choice
    said: list[int] = field(init=False)
    uid: int = -1
    left: int = 0
    admission: int = 0

    def __post_init__(self) -> None:
        self.said = list(self.choice.job.said)

    @property
    def full_tokens(self) -> int:
        """Its length if it runs to its limit."""
        return len(self.choice.job.prompt_ids) + self.choice.job.max_tokens

    def tokens_so_far(self) -> list[int]:
        return [*self.choice.job.prompt_ids, *self.said]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token a row produced; `logprobs` is MLX's float32 array over the
    vocabulary, the logarithm of a softmax.
    """

    row: Row
    token: int
    logprobs: Any


class Batch:
    """The rows of one model. Lives on the engine's thread."""

    def __init__(
        self,
        loaded: runtime.Loaded,
        eos_ids: Iterable[int],
        slots: int,
        prefixes: PrefixCache,
        limit_memory: Callable[[], None],
    ) -> None:
        self._loaded = loaded
        self._limit_memory = limit_memory
        self._eos_ids = tuple(eos_ids)
        self._slots = slots
        self._prefixes = prefixes
        self._steps = 0
        self._admissions = 0
        self._left: list[tuple[Row, list[int], list[Any]]] = []
        self.rows: dict[int, Row] = {}
        self._generator = self._new_generator()

    def _new_generator(self) -> Any:
        from mlx_lm.generate import BatchGenerator

        generator = BatchGenerator(
            runtime.ExactLogits(self._loaded.model),
            stop_tokens=[[token] for token in self._eos_ids],
            completion_batch_size=self._slots,
            prefill_batch_size=self._slots,
            prefill_step_size=PREFILL_STEP_TOKENS_MAX,
        )
        # The generator wires all memory it is recommended; how much to wire is decided in
        # `limit_memory`, and closing this one must not change it back.
        generator._old_wired_limit = None  # noqa: SLF001 - pinned by the surface test
        self._limit_memory()
        return generator

    @property
    def model(self) -> Any:
        return self._loaded.model

    def warm(self) -> None:
        """Run both ways of drawing once, so that no consumer waits for a first compile."""
        prompt = [token % self._loaded.vocab_size for token in range(WARM_PROMPT_TOKENS)]
        for sampling in (Sampling(temperature=0.0), Sampling(top_p=0.9, top_k=2)):
            sampler = sampler_for(sampling, 0, 0)
            (uid,) = self._generator.insert([prompt], max_tokens=[2], samplers=[sampler])
            while uid is not None:
                for response in self._generator.next()[1]:
                    if response.finish_reason is not None:
                        uid = None
        self.restart(())

    def begin_admission(self) -> None:
        """Rows inserted from now on are the newest group."""
        self._admissions += 1

    def insert(self, row: Row) -> None:
        """Join a row to the batch; it starts from the longest prefix stored for it."""
        row.admission = row.admission or self._admissions
        job, tokens = row.choice.job, row.tokens_so_far()
        hit = self._prefixes.find(job.cache_scope, tokens)
        done = hit.tokens if hit is not None else 0
        if row.uid < 0:  # its first start; what a restart finds is none of the client's business
            row.choice.cached_tokens = min(done, len(job.prompt_ids))
        (row.uid,) = self._generator.insert(
            [tokens[done:]],
            max_tokens=[job.max_tokens - len(row.said)],
            caches=[hit.caches] if hit is not None else None,
            all_tokens=[tokens[:done]],
            samplers=[sampler_for(job.sampling, row.choice.index, len(row.said))],
            logits_processors=[processors_for(job.sampling, len(job.prompt_ids))],
        )
        row.left = len(tokens) - done
        self.rows[row.uid] = row

    def step(self, prefill_budget: int) -> list[Drawn]:
        """One token of every decoding row and about `prefill_budget` tokens of prompts.

        Rows that reach an end token or their limit leave; `keep_prefixes` stores their
        caches, after the tokens have been dealt with.
        """
        generator = self._generator
        reading = sum(1 for row in self.rows.values() if row.left)
        chunk = max(PREFILL_CHUNK_TOKENS_MIN, prefill_budget // max(1, reading))
        generator.prefill_step_size = min(chunk, PREFILL_STEP_TOKENS_MAX)
        prompts, answers = generator.next()
        for progress in prompts:
            done, total = progress.progress
            row = self.rows[progress.uid]
            row.left = 0 if progress.end_of_prompt else max(1, total - done)
        drawn = []
        for answer in answers:
            row = self.rows[answer.uid]
            row.said.append(answer.token)
            drawn.append(Drawn(row, answer.token, answer.logprobs))
            if answer.finish_reason is not None:
                del self.rows[answer.uid]
                self._left.append((row, answer.all_tokens, answer.prompt_cache))
        self._steps += 1
        if self._steps % EVALUATE_EVERY_STEPS == 0:
            self._evaluate()
        return drawn

    def _evaluate(self) -> None:
        import mlx.core as mx

        decoding = self._generator._generation_batch  # noqa: SLF001 - pinned by the surface test
        mx.eval([layer.state for layer in decoding.prompt_cache])

    def keep_prefixes(self) -> None:
        """Store the caches of the rows that have left since the last call."""
        left, self._left = self._left, []
        for row, tokens, caches in left:
            if tokens:
                self._prefixes.store(row.choice.job.cache_scope, tokens, caches)

    def remove(self, rows: Iterable[Row]) -> None:
        """Take rows out before their end, keeping what they have read."""
        leaving = {row.uid: row for row in rows if row.uid in self.rows}
        if not leaving:
            return
        kept = self._generator.remove(list(leaving), return_prompt_caches=True)
        for uid, row in leaving.items():
            del self.rows[uid]
            caches, tokens = kept[uid]
            self._left.append((row, tokens, caches))

    def restart(self, survivors: Iterable[Row]) -> None:
        """A fresh generator, with the survivors fed to it from what they have said so far."""
        rows = list(survivors)
        self._left = []
        self._generator.close()
        self.rows = {}
        self._generator = self._new_generator()
        for row in rows:
            self.insert(row)

    def newest(self) -> list[Row]:
        """The rows that joined last."""
        last = max((row.admission for row in self.rows.values()), default=0)
        return [row for row in self.rows.values() if row.admission == last]

    def cache_bytes(self) -> int:
        return int(self._generator.prompt_cache_nbytes)

    def close(self) -> None:
        """Drop every MLX object this batch holds."""
        self._generator.close()
        self.rows = {}
        self._left = []
        del self._generator, self._loaded
        self._prefixes.clear()
