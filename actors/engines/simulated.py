"""Simulated engines: what the echo engine says, when a given Mac would say it.

Step times, loads and memory come from the hardware formulas, so a laptop can stand up a market
of Macs it does not own and watch routing, placement and prices behave. The engines of one Mac
share what a Mac has once: its GPU, its memory for prefixes, its disk.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from actors.engines.paced import (
    CONTEXT_TOKENS,
    VOCAB_SIZE,
    WAITING_MAX,
    Device,
    PacedEngine,
)
from market.catalogue import ModelCard
from market.hardware import (
    chip_named,
    load_bytes_per_s,
    memory_budget_bytes,
    prefill_ms,
    prefill_tps,
    profile_of,
    step_ms,
    warm_ms,
)
from market.policy.prefixes import block_hashes
from market.prefix_store import PrefixStore
from market.types import Job, ModelId

JITTER_SHARE = 0.03
"""Standard deviation of a step's length; published runs repeat within a few per cent."""

PREFILL_CHUNK_TOKENS = 512
PREFIX_CACHE_SHARE = 0.125
"""Of the memory, for prefixes of all models together; as in the engine over MLX."""


class SimulatedMac:
    """What the simulated engines of one Mac share.

    `disk_bytes_per_s` of None is what the chip's own disk reads; equal seeds behave alike.
    """

    def __init__(
        self,
        chip: str = "M4 Max",
        memory_gb: int | None = None,
        *,
        seed: int = 0,
        disk_bytes_per_s: float | None = None,
    ) -> None:
        self.chip = chip_named(chip)
        self.memory_bytes = memory_budget_bytes(memory_gb or self.chip.memory_gb[-1])
        self.seed = seed
        self.disk_bytes_per_s = disk_bytes_per_s or load_bytes_per_s(self.chip)
        self.device = Device()
        self.prefixes = PrefixStore(self.memory_bytes * PREFIX_CACHE_SHARE)


class ChipPace:
    """The pace of one Mac running one model."""

    emits_first = False
    prefill_chunk_tokens = PREFILL_CHUNK_TOKENS

    def __init__(self, model: ModelId, mac: SimulatedMac) -> None:
        self._model = model
        self._mac = mac
        self._chip = mac.chip
        self._profile = profile_of(model)
        self._random = Random(_seed_of(f"{mac.seed}:{model}"))
        self.weight_bytes = self._profile.weight_bytes
        self.kv_bytes_per_token = self._profile.kv_bytes_per_token
        self.memory_bytes_budget = mac.memory_bytes
        self.prefill_tps = prefill_tps(self._chip, self._profile)

    def step_s(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        mean_context = context_tokens / decoding if decoding else 0.0
        total_ms = step_ms(self._chip, self._profile, decoding, mean_context)
        total_ms += prefill_ms(self._chip, self._profile, prefill_tokens)
        return self._jittered_s(total_ms)

    async def load(self) -> None:
        """The disk delivers the weights, then the model is warmed: a turn on the GPU."""
        await asyncio.sleep(self.weight_bytes / self._mac.disk_bytes_per_s)
        since_s = asyncio.get_running_loop().time()
        async with self._mac.device.turn:
            warm_s = self._jittered_s(warm_ms(self._chip, self._profile))
            await self._mac.device.work(warm_s, since_s)

    def known_tokens(self, job: Job) -> int:
        blocks = block_hashes((*job.prompt_ids, *job.said), job.cache_scope, self._model)
        return self._mac.prefixes.cached_tokens(self._model, blocks)

    def keep(self, job: Job, answer: Sequence[int]) -> None:
        blocks = block_hashes((*job.prompt_ids, *answer), job.cache_scope, self._model)
        self._mac.prefixes.note(self._model, blocks, self.kv_bytes_per_token)

    def cache_bytes(self) -> int:
        return self._mac.prefixes.bytes_of(self._model)

    def unload(self) -> None:
        self._mac.prefixes.forget(self._model)

    def _jittered_s(self, duration_ms: float) -> float:
        return duration_ms * max(0.0, self._random.gauss(1.0, JITTER_SHARE)) / 1e3


class SimulatedEngine(PacedEngine):
    """Repeats the prompt at the speed of `mac` running `model`."""

    def __init__(
        self,
        model: ModelId,
        *,
        mac: SimulatedMac | None = None,
        folder: Path | None = None,
        card: ModelCard | None = None,
        slots: int = 32,
        waiting_max: int = WAITING_MAX,
        context_tokens: int = CONTEXT_TOKENS,
        vocab_size: int = VOCAB_SIZE,
    ) -> None:
        mac = mac or SimulatedMac()
        super().__init__(
            model,
            ChipPace(model, mac),
            device=mac.device,
            folder=folder,
            card=card,
            slots=slots,
            waiting_max=waiting_max,
            context_tokens=context_tokens,
            vocab_size=vocab_size,
        )


def _seed_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
