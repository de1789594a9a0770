"""The least time a request takes of a Mac: alone on it, and as a part of the best full batch.

The same tables as the simulated Macs run by, without queue, handover, jitter or heat: what the
bounds are made of. Times in seconds, one value per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from market.hardware import chip_named, prefill_tps, profile_of, step_ms
from market.types import ModelId
from simulator.results.columns import FloatArray

FAR_TOKENS = 1e7
"""So long a context that a step is nothing but reading it: where its slope is measured."""


@dataclass(frozen=True, slots=True)
class Line:
    """A decode step of some batch size: never below `floor_ms`, and straight beyond it."""

    batch: int
    floor_ms: float
    base_ms: float
    slope_ms: float

    def per_token_ms(self, context: FloatArray) -> FloatArray:
        """A step's share of each of its sequences, at this mean context."""
        step: FloatArray = np.maximum(self.floor_ms, self.base_ms + self.slope_ms * context)
        return step / self.batch


@cache
def _line(chip_name: str, model: ModelId, batch: int) -> Line:
    chip, profile = chip_named(chip_name), profile_of(model)
    near = step_ms(chip, profile, batch, FAR_TOKENS)
    far = step_ms(chip, profile, batch, 2 * FAR_TOKENS)
    slope = (far - near) / FAR_TOKENS
    floor = step_ms(chip, profile, batch, 0.0)
    return Line(batch, floor, min(near - slope * FAR_TOKENS, floor), slope)


def prefill_s(chip: str, model: ModelId, tokens: FloatArray) -> FloatArray:
    """Reading a prompt of so many tokens that no cache has."""
    seconds: FloatArray = tokens / prefill_tps(chip_named(chip), profile_of(model))
    return seconds


def alone_s(
    chip: str, model: ModelId, unread: FloatArray, prompt: FloatArray, output: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """To the first token and to the last, with the Mac to itself; `unread` is not cached."""
    line = _line(chip, model, 1)
    first = np.maximum(prefill_s(chip, model, unread), line.floor_ms / 1e3)
    first = first + line.per_token_ms(prompt) / 1e3
    rest = np.maximum(output - 1.0, 0.0) * line.per_token_ms(prompt + output / 2) / 1e3
    return first, first + rest


def shared_s(
    chip: str,
    model: ModelId,
    slots: int,
    unread: FloatArray,
    prompt: FloatArray,
    output: FloatArray,
) -> FloatArray:
    """The part of a Mac's time that a request cannot do without, however well it is batched."""
    context = prompt + output / 2
    sizes = sorted({*(2**k for k in range(slots.bit_length())), slots})
    token_ms = np.full(len(prompt), np.inf)
    for batch in sizes:
        if batch <= slots:
            token_ms = np.minimum(token_ms, _line(chip, model, batch).per_token_ms(context))
    seconds: FloatArray = prefill_s(chip, model, unread) + output * token_ms / 1e3
    return seconds
