"""The echo engine: repeats the prompt, at once or at a fixed pace.

It is the instrument of the gateway's benchmarks and the answer of a market without a model:
everything but the model is real, so what a request costs on its way is what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.engines.paced import CONTEXT_TOKENS, VOCAB_SIZE, WAITING_MAX, PacedEngine
from market.catalogue import ModelCard
from market.types import Job, ModelId


class FixedPace:
    """Every step takes the same time; 0 is as fast as the event loop turns."""

    weight_bytes = 0
    kv_bytes_per_token = 0
    memory_bytes_budget = 0
    prefill_tps = 0.0
    prefill_chunk_tokens = 0
    emits_first = True

    def __init__(self, pace_ms: float) -> None:
        self._step_s = pace_ms / 1e3

    def step_s(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        return self._step_s

    async def load(self) -> None:
        """There is nothing to load."""

    def known_tokens(self, job: Job) -> int:
        return 0

    def keep(self, job: Job, answer: Sequence[int]) -> None:
        """It reads in no time: nothing is worth keeping."""

    def cache_bytes(self) -> int:
        return 0

    def unload(self) -> None:
        """It holds nothing."""


class EchoEngine(PacedEngine):
    """Repeats the prompt with `pace_ms` between steps."""

    def __init__(
        self,
        model: ModelId,
        *,
        folder: Path | None = None,
        card: ModelCard | None = None,
        slots: int = 32,
        pace_ms: float = 0.0,
        waiting_max: int = WAITING_MAX,
        context_tokens: int = CONTEXT_TOKENS,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        super().__init__(
            model,
            FixedPace(pace_ms),
            folder=folder,
            card=card,
            slots=slots,
            waiting_max=waiting_max,
            context_tokens=context_tokens,
            vocab_size=vocab_size,
        )
