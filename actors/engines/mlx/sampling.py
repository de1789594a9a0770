"""How the next token is drawn.

Sequences that share a sampler object are drawn in one call, which doubles the speed of a busy
batch, so unseeded samplers are shared by parameters. A seeded sequence has a sampler of its own
whose key depends on the seed and the position alone: the same text in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from market.sampling_bounds import GREEDY_BELOW_TEMPERATURE
from market.types import Sampling

Sampler = Callable[[Any], Any]
Processor = Callable[[Any, Any], Any]

SHARED_SAMPLERS_MAX = 256
TOP_P_MIN = 1e-9
"""A smaller top_p may be 0 as a 32-bit float, and nothing would be likely enough to stay."""

_MASK_64 = 2**64 - 1
_WEYL = 0x9E3779B97F4A7C15
"""Increment of the splitmix64 generator, which spreads neighbouring positions apart."""


def sampler_for(sampling: Sampling, index: int, position: int) -> Sampler:
    """The sampler of choice `index`, which has drawn `position` tokens before."""
    if sampling.temperature < GREEDY_BELOW_TEMPERATURE or sampling.top_k == 1:
        return _greedy
    if sampling.seed is None:
        return _shared(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    return SeededSampler(sampling, sampling.seed + index, position)


def _greedy(logprobs: Any) -> Any:
    import mlx.core as mx

    return mx.argmax(logprobs, axis=-1)


@lru_cache(maxsize=SHARED_SAMPLERS_MAX)
def _shared(temperature: float, top_k: int, top_p: float, min_p: float) -> Sampler:
    import mlx.core as mx

    def draw(logprobs: Any) -> Any:
        return mx.random.categorical(_filtered(logprobs, temperature, top_k, top_p, min_p))

    return draw


class SeededSampler:
    """Draws token after token of one sequence, reproducibly."""

    def __init__(self, sampling: Sampling, seed: int, position: int) -> None:
        self._sampling = sampling
        self._seed = seed
        self._position = position

    def __call__(self, logprobs: Any) -> Any:
        import mlx.core as mx

        s = self._sampling
        key = mx.random.key(_mix(self._seed, self._position))
        self._position += 1
        scores = _filtered(logprobs, s.temperature, s.top_k, s.top_p, s.min_p)
        return mx.random.categorical(scores, key=key)


def _mix(seed: int, position: int) -> int:
    """A 64-bit key from a seed and a position (the finaliser of splitmix64)."""
    z = (seed + (position + 1) * _WEYL) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return z ^ (z >> 31)


def _filtered(logprobs: Any, temperature: float, top_k: int, top_p: float, min_p: float) -> Any:
    """Scores at this temperature with everything outside top_k, top_p and min_p ruled out."""
    import mlx.core as mx

    scores = logprobs.astype(mx.float32) * (1.0 / temperature)
    never = mx.array(-float("inf"), mx.float32)
    if top_k > 0:
        smallest_kept = mx.min(mx.topk(scores, top_k, axis=-1), axis=-1, keepdims=True)
        scores = mx.where(scores < smallest_kept, never, scores)
    if top_p < 1.0:
        ordered = mx.sort(scores, axis=-1)  # ascending: the likeliest last
        mass = mx.softmax(ordered, axis=-1)
        likelier = mx.cumsum(mass, axis=-1, reverse=True, inclusive=False)
        # The likeliest token has no likelier mass: it always stays.
        kept = mx.where(
            likelier < max(top_p, TOP_P_MIN), ordered, mx.array(float("inf"), mx.float32)
        )
        scores = mx.where(scores < mx.min(kept, axis=-1, keepdims=True), never, scores)
    if min_p > 0.0:
        likeliest = mx.max(scores, axis=-1, keepdims=True)
        # As logarithms, so that no min_p rounds to one that the likeliest token misses.
        scores = mx.where(scores - likeliest < math.log(min_p), never, scores)
    return scores


def processors_for(sampling: Sampling, prompt_tokens: int) -> list[Processor]:
    """What changes the scores of one sequence before drawing, in order; often nothing.

    Frequency and presence count what the answer has said so far; repetition also what the
    prompt said.
    """
    processors: list[Processor] = []
    if sampling.logit_bias:
        processors.append(_bias(sampling.logit_bias))
    if sampling.repetition_penalty != 1.0:
        processors.append(_repetition(sampling.repetition_penalty))
    if sampling.frequency_penalty or sampling.presence_penalty:
        processors.append(
            _said_before(sampling.frequency_penalty, sampling.presence_penalty, prompt_tokens)
        )
    return processors


def _bias(bias: tuple[tuple[int, float], ...]) -> Processor:
    import mlx.core as mx

    tokens = mx.array([token for token, _ in bias])
    values = mx.array([value for _, value in bias])

    def process(_context: Any, logits: Any) -> Any:
        return logits.at[:, tokens].add(values.astype(logits.dtype))

    return process


def _repetition(penalty: float) -> Processor:
    """Divide positive and multiply negative scores of tokens already in the context."""
    import mlx.core as mx

    def process(context: Any, logits: Any) -> Any:
        scores = logits[:, context]
        logits[:, context] = mx.where(scores < 0, scores * penalty, scores / penalty)
        return logits

    return process


def _said_before(frequency: float, presence: float, prompt_tokens: int) -> Processor:
    """Subtract `frequency` per earlier use in the answer and `presence` once if any."""
    import mlx.core as mx

    def process(context: Any, logits: Any) -> Any:
        said = context[prompt_tokens:]
        if said.size == 0:
            return logits
        uses = mx.zeros((logits.shape[-1],), mx.float32).at[said].add(mx.array(1.0))
        penalty = uses * frequency + (uses > 0).astype(mx.float32) * presence
        return logits - penalty.astype(logits.dtype)

    return process
