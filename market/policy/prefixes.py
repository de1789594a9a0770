"""Block hashes of a prompt: how a router knows what a Mac has read without seeing a word of it.

Block k's hash covers all tokens up to the end of block k, so equal hashes mean equal beginnings.
It is keyed by whose cache may be used: the same prompt of two consumers has nothing in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

BLOCK_TOKENS = 64
"""Finer blocks know more and cost more; a shorter beginning saves less than it costs to copy."""

BLOCKS_MAX = 512
"""Tokens beyond the first 32,768 are not told apart: a request carries 4 KB of hashes at most."""


def block_hashes(tokens: Sequence[int], scope: str, model: str) -> tuple[int, ...]:
    """One 64-bit number for each whole block of these tokens; none without a scope."""
    blocks = min(len(tokens) // BLOCK_TOKENS, BLOCKS_MAX)
    if not blocks or not scope:
        return ()
    data = np.asarray(tokens[: blocks * BLOCK_TOKENS], dtype="<u4").tobytes()
    running = hashlib.blake2b(f"{model}\x1f{scope}".encode(), digest_size=8)
    size = BLOCK_TOKENS * 4
    hashes = []
    for block in range(blocks):
        running.update(data[block * size : (block + 1) * size])
        hashes.append(int.from_bytes(running.copy().digest(), "big", signed=True))
    return tuple(hashes)
