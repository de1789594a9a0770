"""What a simulated Mac remembers of prompts: blocks of them, by model, bounded by bytes.

Live and in the lab alike. Blocks are named by `market.policy.prefixes.block_hashes`, whose
numbers hold whose cache it is: what one consumer had read is nothing to another.
"""

from __future__ import annotations

from collections import OrderedDict

from market.policy.prefixes import BLOCK_TOKENS
from market.types import ModelId


class PrefixStore:
    """Least recently used blocks go first; the first blocks of a sequence last of all."""

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[ModelId, int], float] = OrderedDict()
        self._of_model: dict[ModelId, float] = {}
        self._bytes = 0.0

    def bytes_of(self, model: ModelId) -> int:
        """What this model's blocks take."""
        return int(self._of_model.get(model, 0.0))

    def cached_tokens(self, model: ModelId, prefix: tuple[int, ...]) -> int:
        """How much of this prompt need not be read; whole blocks."""
        count = 0
        for block in prefix:
            if (model, block) not in self._blocks:
                break
            count += 1
        return count * BLOCK_TOKENS

    def note(self, model: ModelId, leaves: tuple[int, ...], bytes_per_token: float) -> None:
        """A sequence was read to its end."""
        size = bytes_per_token * BLOCK_TOKENS
        blocks = self._blocks
        for block in reversed(leaves):
            key = (model, block)
            if key in blocks:
                blocks.move_to_end(key)
            else:
                blocks[key] = size
                self._count(model, size)
        while self._bytes > self._max_bytes and blocks:
            (gone, _), freed = blocks.popitem(last=False)
            self._count(gone, -freed)

    def forget(self, model: ModelId | None = None) -> None:
        """The model was unloaded, or the Mac has restarted."""
        for key in [key for key in self._blocks if model in (None, key[0])]:
            self._count(key[0], -self._blocks.pop(key))

    def _count(self, model: ModelId, size: float) -> None:
        self._bytes += size
        self._of_model[model] = self._of_model.get(model, 0.0) + size
