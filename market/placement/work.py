"""What a model asks of a Mac: work in one unit, memory in bytes, time to load.

The unit of work is the cost token of the fair queue: a prompt token counts 1, a completion token
4. It belongs to the request alone, so demand adds up over models and is known before anything has
run; and it is made comparable across chips by the other side: a Mac's rate is how many cost
tokens a second it does of *this model's* mix of prompt and completion. Demand through rate is
then the share of that Mac's time, whatever the chip. (Milliseconds of work would need a Mac to be
counted on, and a request that is long on an M1 is not long in the same proportion on an M5, whose
prefill is four times faster at the same bandwidth.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log2

from market.policy.rates import rates_of
from market.routing.fair_queue import INPUT_COST, OUTPUT_COST
from market.types import Hardware, ModelFacts, ModelSize

PLANNED_BATCH = 8
"""Sequences that a plan lets run together. Published Macs still gain throughput up to eight
streams (M4 Max: 93, 139, 144, 237 tokens/s at 1, 2, 4, 8); beyond it each stream becomes slow."""

KV_SEQUENCES = 4
KV_TOKENS = 2048
"""Working memory planned for each model: this many sequences of this length. It is the planned
batch at the mean length of published chats (1,155 + 211 tokens: 10,900 of 16,384), counted as
the engine counts it, where a batch and its copy are in memory together."""

BATCH_COPIES = 2
"""A batch's cache is copied whole when a sequence joins or leaves; both count."""

RESERVE_BYTES_MAX = 3 * 2**30
RESERVE_SHARE_MAX = 0.25
"""What an engine keeps free of a Mac's budget: as `actors.engines.memory` does, tests compare."""

LOAD_BYTES_PER_S = 1.5e9
"""Where a Mac has not measured its own: 14 GB took 7 to 11 s in a published run."""

WARM_UP_S = 1.0
"""After the weights are in memory: the first step compiles."""

MIX_PER_OCTAVE = 4
"""Mixes are rounded to quarter octaves: a plan does not follow every request."""

RATE_MIN = 1e-3
"""Cost tokens/s of a Mac that can do nothing, so that shares of time stay finite."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What a model's requests are like, in tokens of a mean one."""

    prompt_tokens: float
    completion_tokens: float

    @property
    def cost(self) -> float:
        return cost_tokens(self.prompt_tokens, self.completion_tokens)

    def rounded(self) -> Mix:
        return Mix(_rounded(self.prompt_tokens), _rounded(self.completion_tokens))


def _rounded(tokens: float) -> float:
    return float(2.0 ** (round(log2(max(tokens, 1.0)) * MIX_PER_OCTAVE) / MIX_PER_OCTAVE))


def cost_tokens(prompt_tokens: float, completion_tokens: float) -> float:
    """The work of a request."""
    return INPUT_COST * prompt_tokens + OUTPUT_COST * completion_tokens


@lru_cache(maxsize=16_384)
def work_rate(hardware: Hardware, size: ModelSize, mix: Mix, slots: int) -> float:
    """Cost tokens/s of one Mac that does nothing else, in batches as planned."""
    rates = rates_of(hardware, facts_of(size))
    batch = max(1, min(PLANNED_BATCH, slots))
    context = mix.prompt_tokens + mix.completion_tokens / 2
    step_ms = rates.step_ms(batch) + rates.kv_ms * batch * context
    request_ms = mix.prompt_tokens * rates.prefill_ms + mix.completion_tokens * step_ms / batch
    return max(1e3 * mix.cost / request_ms, RATE_MIN) if request_ms > 0 else RATE_MIN


@lru_cache(maxsize=4096)
def facts_of(size: ModelSize) -> ModelFacts:
    """A size as the hardware tables take it."""
    return ModelFacts(
        model=size.model,
        digest=size.digest,
        context_tokens=size.context_tokens,
        vocab_size=0,
        weight_bytes=size.weight_bytes,
        kv_bytes_per_token=size.kv_bytes_per_token,
        quantization=size.quantization,
    )


def need_bytes(size: ModelSize) -> int:
    """What a model takes of a Mac's room: its weights to the byte, and its working memory."""
    tokens = min(KV_TOKENS, size.context_tokens)
    one = tokens * size.kv_bytes_per_token + size.state_bytes
    return size.weight_bytes + BATCH_COPIES * KV_SEQUENCES * one


def room_bytes(memory_bytes: int) -> int:
    """What all models of a Mac may take together, of the memory it may use."""
    return memory_bytes - min(RESERVE_BYTES_MAX, int(memory_bytes * RESERVE_SHARE_MAX))
