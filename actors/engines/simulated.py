"""The simulated engine: what the echo engine says, when a given Mac would say it.

Its step times come from the hardware formulas, so a laptop can stand up a market of Macs it
does not own and watch routing, queues and prices behave.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from actors.engines.paced import CONTEXT_TOKENS, VOCAB_SIZE, WAITING_MAX, PacedEngine
from market.hardware import (
    chip_named,
    decode_tps,
    memory_budget_bytes,
    prefill_ms,
    prefill_tps,
    profile_of,
    step_ms,
)
from market.types import ModelId

JITTER_SHARE = 0.03
"""Standard deviation of a step's length; published runs repeat within a few per cent."""

PREFILL_CHUNK_TOKENS = 512
REFERENCE_CONTEXT_TOKENS = 2048
"""Where the advertised decode speed is taken."""


class ChipPace:
    """The pace of one chip running one model."""

    emits_first = False
    prefill_chunk_tokens = PREFILL_CHUNK_TOKENS

    def __init__(
        self, model: ModelId, chip: str, slots: int, memory_gb: int | None, seed: int
    ) -> None:
        self._chip = chip_named(chip)
        self._profile = profile_of(model)
        self._random = Random(seed)
        self.weight_bytes = self._profile.weight_bytes
        self.kv_bytes_per_token = self._profile.kv_bytes_per_token
        self.memory_bytes_budget = memory_budget_bytes(memory_gb or self._chip.memory_gb[-1])
        self.decode_tps = decode_tps(self._chip, self._profile, slots, REFERENCE_CONTEXT_TOKENS)
        self.prefill_tps = prefill_tps(self._chip, self._profile)

    def step_s(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        mean_context = context_tokens / decoding if decoding else 0.0
        total_ms = step_ms(self._chip, self._profile, decoding, mean_context)
        total_ms += prefill_ms(self._chip, self._profile, prefill_tokens)
        return total_ms * max(0.0, self._random.gauss(1.0, JITTER_SHARE)) / 1e3


class SimulatedEngine(PacedEngine):
    """Repeats the prompt at the speed of `chip` running `model`."""

    def __init__(
        self,
        model: ModelId,
        *,
        folder: Path | None = None,
        chip: str = "M4 Max",
        slots: int = 32,
        seed: int = 0,
        memory_gb: int | None = None,
        waiting_max: int = WAITING_MAX,
        context_tokens: int = CONTEXT_TOKENS,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        super().__init__(
            model,
            ChipPace(model, chip, slots, memory_gb, seed),
            folder=folder,
            slots=slots,
            waiting_max=waiting_max,
            context_tokens=context_tokens,
            vocab_size=vocab_size,
        )
