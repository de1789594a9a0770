"""Hashes of blocks of prompts that nobody wrote: equal exactly where the texts would be equal.

As `market.policy.prefixes` has them, of what a consumer sends to a model: the k-th hash stands
for all tokens up to the end of the k-th block. What two consumers send is never equal, because
no cache serves both.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from market.policy.prefixes import BLOCK_TOKENS, BLOCKS_MAX

SHARED_TEXTS_MAX = 4_096
"""Texts whose blocks are kept: 4 KB each at most."""

_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def text_id(*names: object) -> int:
    """A number of 64 bits for a text that these names stand for."""
    name = "\x1f".join(map(str, names))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def blocks_of(text: int, first: int, after: int) -> list[int]:
    """The hashes of the blocks from `first` to before `after` of a text."""
    after = min(after, BLOCKS_MAX)
    if after <= first:
        return []
    return _mixed(np.uint64(text) + np.arange(first, after, dtype=np.uint64) * _STRIDE)


@lru_cache(SHARED_TEXTS_MAX)
def shared_blocks(tokens: int, *names: object) -> tuple[int, ...]:
    """All whole blocks of a text that many requests begin with; kept, for they come again."""
    return tuple(blocks_of(text_id(*names), 0, blocks_in(tokens)))


def blocks_in(tokens: int) -> int:
    """Whole blocks in so many tokens, as far as they are told apart."""
    return min(tokens // BLOCK_TOKENS, BLOCKS_MAX)


def regrouped(hashes: tuple[int, ...], block_tokens: int, tokens: int, text: int) -> list[int]:
    """Hashes of blocks of another size as hashes of ours, for a prompt of so many tokens.

    `text` keeps apart whose they are. One size must divide the other: larger blocks are cut
    into ours, of smaller ones the last in each of ours stands for it.
    """
    count = blocks_in(tokens)
    ids = np.array([each & 0xFFFF_FFFF_FFFF_FFFF for each in hashes], dtype=np.uint64)
    if block_tokens >= BLOCK_TOKENS:
        parts = block_tokens // BLOCK_TOKENS
        ids = np.repeat(ids, parts)[:count]
        part = np.arange(len(ids), dtype=np.uint64) % np.uint64(parts)
    else:
        per_block = BLOCK_TOKENS // block_tokens
        ids = ids[per_block - 1 :: per_block][:count]
        part = np.zeros(len(ids), dtype=np.uint64)
    return _mixed((ids * _MIX_1) ^ (np.uint64(text) + part * _STRIDE))


def _mixed(numbers: np.ndarray) -> list[int]:
    """SplitMix64's last step: neighbours become strangers. Signed, as the market has them."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX_1
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX_2
    mixed: list[int] = (numbers ^ (numbers >> np.uint64(31))).view(np.int64).tolist()
    return mixed
