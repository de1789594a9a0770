"""Randomness of a run: one seed, and a stream of its own for each thing that draws.

Who draws more or less changes only its own stream. So two policies meet the same requests, and a
workload that is added leaves the others as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np

SEED_BYTES = 8
"""Of the digest that a stream is seeded with."""


class Streams:
    """The streams of one seed. Names of a scope are told apart by its name before theirs."""

    def __init__(self, seed: int, scope: str = "") -> None:
        self._seed = seed
        self._scope = scope

    def stream(self, name: str) -> np.random.Generator:
        """The stream of this name, from its beginning; asked again it begins again."""
        return np.random.Generator(np.random.PCG64(self.number(name)))

    def number(self, name: str) -> int:
        """What the stream of this name is seeded with: 64 bits."""
        digest = hashlib.sha256(f"{self._seed}:{self._scope}{name}".encode()).digest()
        return int.from_bytes(digest[:SEED_BYTES], "big")

    def within(self, scope: str) -> Streams:
        """The streams of a part, under its name."""
        return Streams(self._seed, f"{self._scope}{scope}:")
