"""How many sequences fit in memory: admission by bytes, before anything is allocated.

A batch's key/value cache is padded: it holds batch x longest sequence, rounded up, and each
join or leave copies it whole. Running out of memory on a Mac aborts the process, or worse, so
a sequence joins only when the worst case of everyone running to their limit still fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CACHE_BLOCK_TOKENS = 256
"""Key/value caches grow in blocks of this many tokens (mlx_lm's KVCache.step)."""

RESERVE_BYTES_MAX = 3 * 2**30
"""Kept free for what no formula explains; measured peaks missed their prediction by 2.4 GiB."""

RESERVE_SHARE_MAX = 0.25
"""The reserve never takes more than this share of a small budget."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one model needs on this machine, all in bytes.

    `state_bytes` is the constant part per sequence (windows, recurrent layers). The reserve
    also covers the activations of a prefill chunk.
    """

    budget_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int

    @property
    def reserve_bytes(self) -> int:
        return min(RESERVE_BYTES_MAX, int(self.budget_bytes * RESERVE_SHARE_MAX))

    def need_bytes(self, sequence_tokens: Iterable[int], prefix_cache_bytes: int = 0) -> int:
        """The worst case of running sequences of these full lengths together."""
        fixed = self.weight_bytes + prefix_cache_bytes + self.reserve_bytes
        return fixed + self.batch_bytes(list(sequence_tokens))

    def batch_bytes(self, lengths: list[int]) -> int:
        """The padded batch cache, its state, and the copy made when the batch changes."""
        if not lengths:
            return 0
        padded = -(-max(lengths) // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS
        return 2 * len(lengths) * (padded * self.kv_bytes_per_token + self.state_bytes)

    def fits(self, sequence_tokens: Iterable[int], prefix_cache_bytes: int = 0) -> bool:
        """Whether these sequences may run together within the budget."""
        return self.need_bytes(sequence_tokens, prefix_cache_bytes) <= self.budget_bytes

    def longest_tokens(self) -> int:
        """The longest sequence that fits alone; 0 when none does."""
        spare = self.budget_bytes - self.need_bytes(()) - 2 * self.state_bytes
        if spare <= 0:
            return 0
        blocks = spare // max(1, 2 * self.kv_bytes_per_token * CACHE_BLOCK_TOKENS)
        return blocks * CACHE_BLOCK_TOKENS
