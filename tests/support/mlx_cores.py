"""Cores of MLX engines, driven by hand on the test's own thread."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from actors.engines.memory import SharedMemory
from actors.engines.mlx import runtime
from actors.engines.mlx.core import EngineCore, load_core
from actors.engines.mlx.readings import Reading
from actors.engines.model_folder import FolderFacts

T = TypeVar("T")


def finished(work: Generator[Any, None, T]) -> T:
    """What a generator returns, with all its steps taken at once."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def make_core(
    facts: FolderFacts,
    *,
    slots: int,
    budget_bytes: int = 2**30,
    memory: SharedMemory | None = None,
    prefix_cache_bytes: int | None = None,
) -> EngineCore:
    """A loaded core, in a memory of its own unless one is given."""
    runtime.import_mlx()
    memory = memory or SharedMemory(budget_bytes)
    loading = load_core(
        facts, Reading(), memory, slots=slots, prefix_cache_bytes=prefix_cache_bytes
    )
    return finished(loading)
