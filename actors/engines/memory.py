"""How many sequences fit in memory: admission by bytes, before anything is allocated.

A batch's key/value cache is padded: it holds batch x longest sequence, rounded up, and each
join or leave copies it whole. Running out of memory on a Mac aborts the process, or worse, so
a sequence joins only when the worst case of everyone running to their limit still fits. The
models of one process share its memory: what one of them takes the others do not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

CACHE_BLOCK_TOKENS = 256
"""Key/value caches grow in blocks of this many tokens (mlx_lm's KVCache.step)."""

RESERVE_BYTES_MAX = 3 * 2**30
"""Kept free for what no formula explains; measured peaks missed their prediction by 2.4 GiB."""

RESERVE_SHARE_MAX = 0.25
"""The reserve never takes more than this share of a small budget."""


CPU_MEMORY_SHARE = 0.5
"""Share of the RAM that engines without Metal plan with; the rest is the machine's."""


def ram_bytes() -> int:
    """The memory of the machine we run on."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def reserve_bytes(budget_bytes: int) -> int:
    """What is kept free of this budget."""
    return min(RESERVE_BYTES_MAX, int(budget_bytes * RESERVE_SHARE_MAX))


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
        return reserve_bytes(self.budget_bytes)

    def need_bytes(self, sequence_tokens: Iterable[int], taken_bytes: int = 0) -> int:
        """The worst case of running sequences of these full lengths together.

        `taken_bytes` is what stored prefixes and other models have.
        """
        fixed = self.weight_bytes + taken_bytes + self.reserve_bytes
        return fixed + self.batch_bytes(list(sequence_tokens))

    def batch_bytes(self, lengths: list[int]) -> int:
        """The padded batch cache, its state, and the copy made when the batch changes."""
        if not lengths:
            return 0
        padded = -(-max(lengths) // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS
        return 2 * len(lengths) * (padded * self.kv_bytes_per_token + self.state_bytes)

    def fits(self, sequence_tokens: Iterable[int], taken_bytes: int = 0) -> bool:
        """Whether these sequences may run together within the budget."""
        return self.need_bytes(sequence_tokens, taken_bytes) <= self.budget_bytes

    def longest_tokens(self, taken_bytes: int = 0) -> int:
        """The longest sequence that fits alone; 0 when none does."""
        spare = self.budget_bytes - self.need_bytes((), taken_bytes) - 2 * self.state_bytes
        if spare <= 0:
            return 0
        blocks = spare // max(1, 2 * self.kv_bytes_per_token * CACHE_BLOCK_TOKENS)
        return blocks * CACHE_BLOCK_TOKENS


class Tenant(Protocol):
    """A model that shares memory with others."""

    weight_bytes: int

    def batch_bytes(self) -> int:
        """The worst case of all that it has admitted."""
        ...

    def prefix_bytes(self) -> int:
        """What its stored prefixes take."""
        ...

    def drop_prefix(self) -> bool:
        """Give up the stored prefix used longest ago; False when there is none."""
        ...


class SharedMemory:
    """The memory of one process, between its models. Used on one thread, weights read from any.

    Models whose oldest sequence waits for room queue up for it: until the first has been let in
    nobody else admits anything, or a steady flow of small sequences would keep a large one waiting
    for ever.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._tenants: list[Tenant] = []
        self._claims: list[Tenant] = []
        self._coming: dict[object, int] = {}

    def expect(self, weight_bytes: int) -> object:
        """Keep room for weights that are about to be loaded, until `arrived` is told the same.

        From now on nobody is admitted where they will be; `has_room` says when those who were
        admitted before have made room.
        """
        coming = object()
        self._coming[coming] = weight_bytes
        return coming

    def has_room(self) -> bool:
        """Whether all that is promised fits, once stored prefixes have given way."""
        room = self.budget_bytes - reserve_bytes(self.budget_bytes)
        while self._tenants and self.promised_bytes() > room:
            if not any(each.drop_prefix() for each in self._tenants):
                return False
        return True

    def arrived(self, coming: object) -> None:
        """They are loaded, or will not be. Idempotent."""
        self._coming.pop(coming, None)

    def promised_bytes(self) -> int:
        """Weights, admitted sequences, stored prefixes, and what is being loaded."""
        working = sum(each.batch_bytes() + each.prefix_bytes() for each in self._tenants)
        return self.weight_bytes() + working + sum(self._coming.values())

    def join(self, tenant: Tenant) -> None:
        self._tenants.append(tenant)

    def leave(self, tenant: Tenant) -> None:
        self._tenants.remove(tenant)
        self.settle(tenant)

    def weight_bytes(self, apart_from: Tenant | None = None) -> int:
        """Of all models, or of all others."""
        return sum(each.weight_bytes for each in tuple(self._tenants) if each is not apart_from)

    def taken_bytes(self, tenant: Tenant) -> int:
        """What this model cannot have: all that the others hold or have promised, and what is
        being loaded.
        """
        others = [each for each in self._tenants if each is not tenant]
        promised = sum(each.batch_bytes() + each.prefix_bytes() for each in others)
        return self.weight_bytes(tenant) + promised + sum(self._coming.values())

    def give_way(self, tenant: Tenant) -> bool:
        """Drop one stored prefix, its own before others'; False when nobody has any."""
        others = [each for each in self._tenants if each is not tenant]
        return any(each.drop_prefix() for each in (tenant, *others))

    def nobody_else_runs(self, tenant: Tenant) -> bool:
        """Whether waiting would bring no more room."""
        return not any(each.batch_bytes() for each in self._tenants if each is not tenant)

    def may_admit(self, tenant: Tenant) -> bool:
        """Whether no other model waits for room before this one."""
        return not self._claims or self._claims[0] is tenant

    def claim(self, tenant: Tenant) -> None:
        """Its oldest sequence waits for room; it keeps the place in the queue that it has."""
        if tenant not in self._claims:
            self._claims.append(tenant)

    def settle(self, tenant: Tenant) -> None:
        """It has been let in, or waits no more."""
        if tenant in self._claims:
            self._claims.remove(tenant)
