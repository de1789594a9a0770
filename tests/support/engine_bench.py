"""An engine under test, and everything it has said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from actors.engines.echo import EchoEngine
from actors.engines.mlx.engine import MlxEngine
from actors.engines.model_folder import read_folder
from actors.engines.simulated import SimulatedEngine, SimulatedMac
from actors.engines.text import TokenizerVocabulary, Vocabulary, WordVocabulary
from market.ports import Engine
from market.types import Event, Job, ModelId, RequestId, Sampling

MODEL = ModelId("test/tiny")
GREEDY = Sampling(temperature=0.0)
SLOTS = 4
WAITING = 6
PATIENCE_S = 20.0

Build = Callable[[Path], Engine]


def quick_mac() -> SimulatedMac:
    """A fast simulated Mac, whose disk delivers any model at once."""
    return SimulatedMac("M3 Ultra", seed=1, disk_bytes_per_s=1e15)


ENGINES: dict[str, Build] = {
    "mlx": lambda folder: MlxEngine(
        MODEL, folder, slots=SLOTS, waiting_max=WAITING, memory_bytes_budget=2**30
    ),
    "echo": lambda folder: EchoEngine(MODEL, folder=folder, slots=SLOTS, waiting_max=WAITING),
    "echo-words": lambda _: EchoEngine(
        MODEL, slots=SLOTS, waiting_max=WAITING, context_tokens=512, vocab_size=360
    ),
    "simulated": lambda folder: SimulatedEngine(
        MODEL, mac=quick_mac(), folder=folder, slots=SLOTS, waiting_max=WAITING
    ),
}


class Bench:
    """An engine under test and everything it has said, by request."""

    def __init__(self, engine: Engine, vocabulary: Vocabulary) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self.said: dict[str, list[Event]] = {}
        self.steps = 0
        self._news = asyncio.Event()

    def sink(self, events: object) -> None:
        self.steps += 1
        for event in events:  # type: ignore[attr-defined]
            self.said.setdefault(event.request_id, []).append(event)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def over(self, job: Job) -> bool:
        events = self.said.get(job.request_id, [])
        ended = {e.index for e in events if e.finish is not None}
        return len(ended) == job.n or any(e.error is not None for e in events)

    async def run(self, *jobs: Job) -> None:
        for job in jobs:
            self.engine.submit(job)
        await self.until(lambda: all(self.over(job) for job in jobs))

    def choice(self, job: Job, index: int = 0) -> list[Event]:
        return [e for e in self.said.get(job.request_id, []) if e.index == index]

    def text(self, job: Job, index: int = 0) -> str:
        return "".join(e.text for e in self.choice(job, index))

    def tokens(self, job: Job, index: int = 0) -> list[int]:
        return [t for e in self.choice(job, index) for t in e.token_ids]

    @property
    def byte_level(self) -> bool:
        """Whether a token may be part of a character."""
        return isinstance(self.vocabulary, TokenizerVocabulary)

    def decoded(self, tokens: list[int]) -> str:
        if isinstance(self.vocabulary, TokenizerVocabulary):
            return self.vocabulary.decode(tokens)
        return "".join(self.vocabulary.text_of(token) for token in tokens)


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Bench]:
    """A loaded engine of this kind, closed in the end."""
    vocabulary: Vocabulary = (
        WordVocabulary()
        if kind == "echo-words"
        else TokenizerVocabulary(read_folder(folder).tokenizer_path)
    )
    bench = Bench(ENGINES[kind](folder), vocabulary)
    await bench.engine.load(bench.sink)
    try:
        yield bench
    finally:
        await bench.engine.close()


def job(name: str, prompt: tuple[int, ...] = (40, 60, 80), **fields: object) -> Job:
    base = Job(RequestId(name), MODEL, prompt, 12, GREEDY)
    return replace(base, **fields)  # type: ignore[arg-type]


def many(count: int, **fields: object) -> list[Job]:
    return [job(f"r{i}", tuple(range(10 + i, 30 + 2 * i)), **fields) for i in range(count)]


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to where the first stop string to complete begins."""
    for end in range(len(text) + 1):
        begun = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begun:
            return text[: min(begun)]
    return text
