"""Bringing MLX up, and a model into it.

Importing mlx_lm has a side effect no server wants: it lowers the limit on open files. Loading
has ways to fail that end in a traceback. Both are dealt with here, once per process. Everything
in this file runs on the engine's thread; MLX objects must not cross threads.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engines.memory import CACHE_BLOCK_TOKENS, CPU_MEMORY_SHARE, ram_bytes
from actors.engines.model_folder import FolderFacts
from market.errors import InvalidRequest
from market.hardware import GIB, USABLE_MEMORY_SHARE

BUFFER_POOL_BYTES = GIB
"""Bytes of freed buffers MLX keeps; its default grows to nearly all memory."""

WIRE_ABOVE_RAM_SHARE = 0.5
WIRED_HEADROOM_BYTES = 4 * GIB
"""Weights above half of the RAM are wired, or decoding pages; below, wiring risks panics."""

LOAD_SLICE_BYTES = 256 * 2**20
"""Weights read before other models get their turn: a tenth of a second from a Mac's disk."""

PROBE_CHUNK_TOKENS = 512
PROBE_CHUNKS = 8
"""Cache sizes are taken at 4096 tokens, past the windows of common models."""

WINDOWLESS = ("KVCache", "ArraysCache")
"""Caches that grow by every token, or never: two blocks of tokens tell all about them, and
describing 4096 steps of a recurrence would take seconds per layer without Metal.
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `kv_bytes_per_token` and `state_bytes` are of one sequence."""

    model: Any
    vocab_size: int
    weight_bytes: int
    kv_bytes_per_token: int
    state_bytes: int
    trimmable: bool


def import_mlx() -> None:
    """Import MLX and mlx_lm with the machine's limits left as they are.

    Without Metal, graph compilation calls a C++ compiler for tens of seconds to gain
    nothing, so it is switched off before the first import.
    """
    if sys.platform != "darwin":
        os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
    with _untouched_limits():
        import mlx_lm.generate
        import mlx_lm.utils  # noqa: F401 - imported for its effect on sys.modules


@contextmanager
def _untouched_limits() -> Iterator[None]:
    """mlx_lm sets RLIMIT_NOFILE to 2048/4096 on import: lower than it found, for good."""
    original = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = original


def budget_bytes() -> int:
    """GPU memory to plan with: Metal's own recommendation, else a share of the RAM."""
    import mlx.core as mx

    if mx.metal.is_available():
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        return int(USABLE_MEMORY_SHARE * recommended)
    return int(ram_bytes() * CPU_MEMORY_SHARE)


def limit_memory(weight_bytes: int) -> None:
    """Bound MLX's pools on Metal, and wire weights only where they need it."""
    import mlx.core as mx

    mx.set_cache_limit(BUFFER_POOL_BYTES)
    if not mx.metal.is_available():
        return
    recommended = int(mx.device_info()["max_recommended_working_set_size"])
    mx.set_memory_limit(int(USABLE_MEMORY_SHARE * recommended))
    wire = weight_bytes > WIRE_ABOVE_RAM_SHARE * ram_bytes()
    mx.set_wired_limit(min(recommended, weight_bytes + WIRED_HEADROOM_BYTES) if wire else 0)


def load_slices(facts: FolderFacts) -> Generator[None, None, Loaded]:
    """Load the weights of a checked folder, a slice each time it is resumed.

    Between slices other models make their steps; on Metal a slice also keeps each command short
    enough for slow disks, where reading a whole model as one runs into the GPU's time limit.
    Raises InvalidRequest naming file and fix.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    try:
        model, _ = load_model(facts.folder, lazy=True, trust_remote_code=False)
        arrays = [array for _, array in tree_flatten(model.parameters())]
        yield
        for some in _slices(arrays):
            mx.eval(some)
            yield
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise unloadable(facts.folder, error) from error
    mx.random.seed(int.from_bytes(os.urandom(8), "little"))
    return loaded_of(model)


def _slices(arrays: Iterable[Any]) -> Iterator[list[Any]]:
    """Arrays in groups of about `LOAD_SLICE_BYTES`."""
    some: list[Any] = []
    size = 0
    for array in arrays:
        some.append(array)
        size += array.nbytes
        if size >= LOAD_SLICE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def loaded_of(model: Any) -> Loaded:
    """The sizes of a model. Nothing is computed: a model without weights will do."""
    from mlx.utils import tree_flatten

    kv_bytes, state_bytes, trimmable, vocab_size = _probe(model)
    return Loaded(
        model=model,
        vocab_size=vocab_size,
        weight_bytes=sum(array.nbytes for _, array in tree_flatten(model.parameters())),
        kv_bytes_per_token=kv_bytes,
        state_bytes=state_bytes,
        trimmable=trimmable,
    )


class ExactLogits:
    """A model whose scores are 32-bit floats, whatever it computes with.

    Normalised in 16 bits, chances add up to visibly more or less than 1, and penalties and
    biases are rounded away. Raising the scores of every sequence keeps what one draws
    independent of what its neighbours ask for.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import mlx.core as mx

        return self._model(*args, **kwargs).astype(mx.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def unloadable(folder: Path, error: Exception) -> InvalidRequest:
    """The error of a folder that looked right and did not load."""
    reason = str(error).splitlines()[0][:200].rstrip(". ") if str(error) else type(error).__name__
    of_config = "odel type" in reason or "custom module" in reason
    file = "config.json" if of_config else "model.safetensors"
    return InvalidRequest(
        f"{folder / file} could not be loaded: {reason}. Use a model that mlx-lm supports, or "
        "download or convert it again.",
        "model",
        "bad_model",
    )


def _probe(model: Any) -> tuple[int, int, bool, int]:
    """Cache bytes per token and per sequence, whether caches can be trimmed, logits width.

    MLX is lazy: the passes are described and never computed, only their shapes are read.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache

    cache = make_prompt_cache(model)
    trimmable = bool(can_trim_prompt_cache(cache))
    windowless = all(type(layer).__name__ in WINDOWLESS for layer in cache)
    tokens, chunks = (CACHE_BLOCK_TOKENS, 1) if windowless else (PROBE_CHUNK_TOKENS, PROBE_CHUNKS)
    chunk = mx.zeros((1, tokens), dtype=mx.int32)
    sizes: list[int] = []
    width = 0
    for _ in range(chunks + 1):
        width = int(model(chunk, cache=cache).shape[-1])
        sizes.append(sum(layer.nbytes for layer in cache))
    kv_bytes = max(0, sizes[-1] - sizes[-2]) // tokens
    state_bytes = max(0, sizes[-2] - kv_bytes * chunks * tokens)
    return kv_bytes, state_bytes, trimmable, width


def free() -> None:
    """Give back what dropped models and caches held."""
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()


def leave_thread() -> None:
    """End MLX on this thread. Without it the process aborts at exit, now and then."""
    if "mlx.core" not in sys.modules:
        return
    import mlx.core as mx

    mx.clear_streams()
