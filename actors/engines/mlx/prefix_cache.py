"""Finished sequences' key/value caches, kept so that the next turn need not read them again.

Entries are visible only to the scope that wrote them: a consumer must not learn from latency
what another asked. The cache is bounded by bytes and gives way, oldest first, before work is
refused. Runs on the engine's thread.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES_PER_SCOPE_MAX = 32
"""Entries compared per lookup; the oldest of the scope makes room for the next."""

MIN_PREFIX_TOKENS = 8
"""A shorter hit saves less than copying the cache costs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence's tokens and the caches that hold exactly those tokens."""

    tokens: NDArray[np.int64]
    caches: list[Any]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Hit:
    """Caches holding the first `tokens` of a prompt, free to be changed by the taker."""

    tokens: int
    caches: list[Any]


class PrefixCache:
    """Least recently used entries, by (scope, number)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, int], Entry] = OrderedDict()
        self._next = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, scope: str, prompt: Sequence[int]) -> Hit | None:
        """The longest stored prefix of `prompt`, leaving at least one token to feed.

        Caches that cannot be trimmed serve only when all their tokens begin the prompt.
        """
        if not scope or not self._entries:
            return None
        wanted = np.asarray(prompt, dtype=np.int64)
        best_key, best_shared = None, MIN_PREFIX_TOKENS - 1
        for key, entry in self._entries.items():
            if key[0] != scope:
                continue
            shared = min(_shared(entry.tokens, wanted), len(wanted) - 1)
            usable = shared == len(entry.tokens) or _trimmable(entry.caches)
            if usable and shared > best_shared:
                best_key, best_shared = key, shared
        if best_key is None:
            return None
        self._entries.move_to_end(best_key)
        entry = self._entries[best_key]
        caches = copy.deepcopy(entry.caches)  # arrays are shared until one side changes
        surplus = len(entry.tokens) - best_shared
        if surplus:
            for layer in caches:
                layer.trim(surplus)
        return Hit(best_shared, caches)

    def store(self, scope: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Keep a sequence. An older entry of the scope that it continues is replaced."""
        import mlx.core as mx

        nbytes = sum(layer.nbytes for layer in caches)
        if not scope or nbytes > self._max_bytes or len(tokens) < MIN_PREFIX_TOKENS:
            return
        held = np.asarray(tokens, dtype=np.int64)
        trimmable = _trimmable(caches)
        for key, entry in list(self._entries.items()):
            if key[0] != scope:
                continue
            shared = _shared(entry.tokens, held)
            if trimmable and shared == len(held):  # all of it is stored already
                self._entries.move_to_end(key)
                return
            if trimmable and shared == len(entry.tokens):
                self._drop(key)
        # Slices of the batch would keep the whole batch's cache alive until evaluated.
        mx.eval([layer.state for layer in caches])
        self._entries[(scope, self._next)] = Entry(held, caches, nbytes)
        self._next += 1
        self.nbytes += nbytes
        self._shrink(scope)

    def evict_oldest(self) -> bool:
        """Drop the entry used longest ago; False when there is none."""
        if not self._entries:
            return False
        self._drop(next(iter(self._entries)))
        return True

    def clear(self) -> None:
        self._entries.clear()
        self.nbytes = 0

    def _shrink(self, scope: str) -> None:
        mine = [key for key in self._entries if key[0] == scope]
        for key in mine[: max(0, len(mine) - ENTRIES_PER_SCOPE_MAX)]:
            self._drop(key)
        while self.nbytes > self._max_bytes:
            self.evict_oldest()

    def _drop(self, key: tuple[str, int]) -> None:
        self.nbytes -= self._entries.pop(key).nbytes


def _shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Length of the common beginning."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _trimmable(caches: list[Any]) -> bool:
    return all(layer.is_trimmable() for layer in caches)
