"""The chats of the engine benchmarks: many, none twice, so that no prefix cache answers them.

All sides get the same ones in the same order, greedy, with the same limit.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import chat_body

CHATS = 2048
CLIENTS = 32
TOKENS_MAX = 64
TOPICS = (
    "Tell me a short story about the number {}.",
    "Number {}: what is coster?",
    "{} people ask: what is the capital of France?",
    "How do I sell with my {} Macs?",
    "Tell me about the prices of {} tokens.",
    "Hello number {}, who are you?",
)


@dataclass(frozen=True, slots=True)
class EngineRound:
    """What a round of an engine in process is told."""

    seconds: float


def prompts() -> list[str]:
    """The user's words of every chat."""
    return [TOPICS[i % len(TOPICS)].format(i) for i in range(CHATS)]


def bodies(model: str) -> tuple[str, ...]:
    """Streaming requests for them."""
    options: dict[str, Any] = {"temperature": 0, "stream_options": {"include_usage": True}}
    return tuple(chat_body(words, TOKENS_MAX, model=model, **options) for words in prompts())


def add_model_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="a model folder [default: the demo model]")


def model_folder(asked: Path | None) -> Path:
    """The folder of the model under test, the same for every side."""
    from actors.engines.factory import model_folder as folder_of
    from market.catalogue import DEMO_MODEL
    from market.settings import ModelSource

    return asked.resolve() if asked is not None else folder_of(ModelSource(DEMO_MODEL))


def engine_environment() -> dict[str, str]:
    """What our provider runs under and the other sides shall too.

    Without Metal, MLX's graph compilation calls a C++ compiler for tens of seconds.
    """
    return {} if sys.platform == "darwin" else {"MLX_DISABLE_COMPILE": "1"}


def blas_of(pid: int) -> str:
    """The matrix library a process has loaded, and the threads it is told to use."""
    process = psutil.Process(pid)
    names = set()
    for mapped in process.memory_maps():
        name = Path(mapped.path).name
        # numpy brings a BLAS of its own, which MLX does not use.
        if ("blas" in name and "openblas64" not in name) or name == "Accelerate":
            names.add(name)
    threads = process.environ().get("OMP_NUM_THREADS", "unset")
    return f"{', '.join(sorted(names)) or 'none'}, OMP_NUM_THREADS {threads}"
