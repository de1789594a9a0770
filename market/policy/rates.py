"""How fast a chip runs a model, as the few numbers a decision needs.

Tables, not curves: the published points of one chip fit no formula of one parameter (they miss
it by a quarter at some batch sizes), so a step is known at a few batch sizes and interpolated
between them, monotonically. The tables start from `market.hardware`; what a Mac measures about
itself scales them, and what requests really took corrects both.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from market.hardware import (
    BATCH_EFFICIENCY,
    CHIPS,
    PROFILES,
    Chip,
    ModelProfile,
    prefill_tps,
    step_ms,
)
from market.types import Hardware, ModelFacts

KNOTS: Final = (1, 2, 4, 8, 16, 32)
"""Batch sizes at which a step is tabled; beyond the last one it grows as before it."""

UNKNOWN_CHIP_TFLOPS: Final = 0.15
"""Prefill of a chip that no table has: the slowest generation's."""

SAME_SIZE_SHARE: Final = 0.1
"""Weights that differ by more are another quantisation, or another model of that name."""

SMALL_MODEL_BYTES: Final = 500_000_000
BITS_PER_WEIGHT: Final = 4.5
"""What an unknown model's weights are taken for, to guess its parameters from its size."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One model on one chip. `steps_ms` are at KNOTS with empty contexts.

    Each token of context in the batch adds `kv_ms` to a step; each prompt token that is not
    cached takes `prefill_ms`.
    """

    steps_ms: tuple[float, ...]
    kv_ms: float
    prefill_ms: float

    def step_ms(self, batch: float) -> float:
        """One decode step of this many sequences, contexts not counted; 0 for an empty batch."""
        if batch <= 0:
            return 0.0
        at = min(max(bisect_right(KNOTS, batch) - 1, 0), len(KNOTS) - 2)
        low, high = KNOTS[at], KNOTS[at + 1]
        share = (batch - low) / (high - low)
        return self.steps_ms[at] + share * (self.steps_ms[at + 1] - self.steps_ms[at])


@lru_cache(maxsize=4096)
def rates_of(hardware: Hardware, facts: ModelFacts) -> Rates:
    """The table of this model on this Mac's chip, before anything was measured."""
    chip = _chip(hardware)
    profile = _profile(facts)
    steps = [step_ms(chip, profile, batch, 0.0) for batch in KNOTS]
    for at in range(1, len(steps)):
        steps[at] = max(steps[at], steps[at - 1])
    bytes_per_ms = chip.bandwidth_efficiency * chip.bandwidth_gbs * 1e6
    kv_ms = profile.kv_bytes_per_token / bytes_per_ms / BATCH_EFFICIENCY
    return Rates(tuple(steps), kv_ms, 1e3 / prefill_tps(chip, profile))


def _chip(hardware: Hardware) -> Chip:
    """The chip as this Mac has it: the same name is sold with fewer cores and slower memory."""
    known = CHIPS.get(hardware.chip)
    if known is not None:
        return replace(
            known,
            bandwidth_gbs=hardware.bandwidth_gbs or known.bandwidth_gbs,
            gpu_cores=hardware.gpu_cores or known.gpu_cores,
        )
    return Chip(
        name=hardware.chip,
        memory_gb=(hardware.memory_gb,),
        bandwidth_gbs=max(hardware.bandwidth_gbs, 1.0),
        gpu_cores=max(hardware.gpu_cores, 1),
        cpu_cores=hardware.cpu_cores,
        prefill_tflops_per_core=UNKNOWN_CHIP_TFLOPS,
    )


def _profile(facts: ModelFacts) -> ModelProfile:
    """The tabled profile of what was loaded; else one guessed from its bytes, as if dense."""
    known = PROFILES.get(facts.model)
    if known is not None and abs(facts.weight_bytes - known.weight_bytes) <= (
        SAME_SIZE_SHARE * known.weight_bytes
    ):
        return known
    return ModelProfile(
        layers=32 if facts.weight_bytes > SMALL_MODEL_BYTES else 4,
        dense_bytes=facts.weight_bytes,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        active_params=max(facts.weight_bytes * 8 / BITS_PER_WEIGHT, 1.0),
        layer_overhead_us=80.0,
    )
