"""Which Mac has read which beginnings of prompts: the router's mirror of their caches.

An estimate: it is fed by what ended where, forgets as the Macs do (least recently used first,
by the size of their caches), and is corrected by what each answer says was cached.
"""

from __future__ import annotations

from collections import OrderedDict

from market.policy.prefixes import BLOCK_TOKENS
from market.types import MachineId, ModelId

BLOCKS_PER_PLACE_MAX = 65_536
"""Most blocks remembered for one model on one Mac, 4M tokens."""

BLOCKS_TOTAL_MAX = 2_000_000
"""Of all Macs together, about 200 MB; the place that has most gives way."""

_Place = tuple[MachineId, ModelId]


class Prefixes:
    """Blocks by Mac and model, and Macs by block."""

    def __init__(self) -> None:
        self._blocks: dict[_Place, OrderedDict[int, None]] = {}
        self._holders: dict[tuple[ModelId, int], set[MachineId]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def cached_tokens(self, model: ModelId, hashes: tuple[int, ...]) -> dict[MachineId, int]:
        """How many tokens of this prompt each Mac is thought to have read, where any."""
        everyone = self._holders.get((model, hashes[0])) if hashes else None
        if everyone is None:
            return {}
        found: dict[MachineId, int] = {}
        for number in range(self._deepest(model, hashes), 0, -1):
            for machine in self._holders.get((model, hashes[number - 1]), ()):
                found.setdefault(machine, number * BLOCK_TOKENS)
            if len(found) == len(everyone):
                break
        return found

    def _deepest(self, model: ModelId, hashes: tuple[int, ...]) -> int:
        """Number of the last block that anybody holds; who holds one holds those before it."""
        low, high = 1, len(hashes)
        while low < high:
            middle = (low + high + 1) // 2
            if (model, hashes[middle - 1]) in self._holders:
                low = middle
            else:
                high = middle - 1
        return low

    def note(
        self, machine: MachineId, model: ModelId, hashes: tuple[int, ...], max_blocks: int
    ) -> None:
        """The Mac has now read these blocks; it keeps at most `max_blocks`."""
        if not hashes or max_blocks <= 0:
            return
        place = (machine, model)
        held = self._blocks.setdefault(place, OrderedDict())
        # The first blocks last: what many prompts share is forgotten last.
        for block in reversed(hashes):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._holders.setdefault((model, block), set()).add(machine)
                self._total += 1
        self._shrink(place, min(max_blocks, BLOCKS_PER_PLACE_MAX))
        while self._total > BLOCKS_TOTAL_MAX:
            fullest = max(self._blocks, key=lambda key: len(self._blocks[key]))
            self._shrink(fullest, len(self._blocks[fullest]) // 2)

    def correct(
        self, machine: MachineId, model: ModelId, hashes: tuple[int, ...], cached_tokens: int
    ) -> None:
        """The Mac had only so much of the prompt: what was thought beyond it is forgotten."""
        held = self._blocks.get((machine, model))
        if held is None:
            return
        for block in hashes[cached_tokens // BLOCK_TOKENS + 1 :]:
            if block in held:
                self._drop(machine, model, block)

    def forget(self, machine: MachineId, model: ModelId | None = None) -> None:
        """The Mac has restarted, or no longer has the model."""
        for place in [p for p in self._blocks if p[0] == machine and model in (None, p[1])]:
            self._shrink(place, 0)
            del self._blocks[place]

    def _shrink(self, place: _Place, most: int) -> None:
        held = self._blocks[place]
        while len(held) > most:
            self._drop(*place, next(iter(held)))

    def _drop(self, machine: MachineId, model: ModelId, block: int) -> None:
        del self._blocks[machine, model][block]
        self._total -= 1
        holders = self._holders[model, block]
        holders.discard(machine)
        if not holders:
            del self._holders[model, block]
