"""Several MLX models in one process: one thread, one memory, turns; and a fault stays at home."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.engines.mlx import runtime
from actors.engines.mlx import thread as thread_module
from actors.engines.mlx.engine import MlxEngine
from actors.engines.mlx.thread import MlxHost
from actors.engines.model_folder import read_folder
from actors.engines.text import TokenizerVocabulary
from market.errors import InvalidRequest, Unavailable
from market.types import Job, ModelId, RequestId
from tests.support.engine_bench import GREEDY, Bench, job
from tests.tiny_model import build_tiny_model

QWEN, LLAMA = ModelId("test/qwen"), ModelId("test/llama")
PROMPT = tuple(range(30, 60))


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("llama"), architecture="llama", seed=5)


class Pair:
    """Two folders and a host for their engines."""

    def __init__(self, qwen: Path, llama: Path, host: MlxHost) -> None:
        self.folders = {QWEN: qwen, LLAMA: llama}
        self.host = host
        self.open: list[MlxEngine] = []

    def engine(self, model: ModelId) -> Bench:
        engine = MlxEngine(model, self.folders[model], host=self.host, slots=4)
        self.open.append(engine)
        tokenizer = read_folder(self.folders[model]).tokenizer_path
        return Bench(engine, TokenizerVocabulary(tokenizer))

    async def loaded(self, model: ModelId) -> Bench:
        bench = self.engine(model)
        await bench.engine.load(bench.sink)
        return bench


@pytest.fixture
async def pair(tiny_folder: Path, llama_folder: Path) -> AsyncIterator[Pair]:
    pair = Pair(tiny_folder, llama_folder, MlxHost(2**30))
    yield pair
    for engine in pair.open:
        await engine.close()


def mlx_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "mlx"]


def asked(name: str, **fields: object) -> Job:
    return job(name, PROMPT, **({"max_tokens": 60} | fields))


async def test_two_models_on_one_thread_answer_as_if_alone(pair: Pair) -> None:
    """Each says what it says by itself, in turns with the other, on a single thread."""
    alone = {}
    for model in (QWEN, LLAMA):
        bench = await pair.loaded(model)
        await bench.run(asked("r"))
        alone[model] = bench.tokens(asked("r"))
        await bench.engine.close()
    assert mlx_threads() == []
    assert alone[QWEN] != alone[LLAMA]

    qwen, llama = await pair.loaded(QWEN), await pair.loaded(LLAMA)
    assert mlx_threads() == ["mlx"]
    await asyncio.gather(qwen.run(asked("r"), asked("s")), llama.run(asked("r")))
    assert qwen.tokens(asked("r")) == qwen.tokens(asked("s")) == alone[QWEN]
    assert llama.tokens(asked("r")) == alone[LLAMA]


async def test_a_load_interrupts_nobody(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a model is loaded, slice by slice, the other one goes on answering; no event is lost
    and nobody looks unhealthy.
    """
    monkeypatch.setattr(runtime, "LOAD_SLICE_BYTES", 1)  # a slice per array
    bench = await pair.loaded(QWEN)
    await bench.run(asked("alone"))
    bench.engine.submit(asked("during", max_tokens=400))
    await bench.until(lambda: len(bench.choice(asked("during"))) > 2)
    before = len(bench.choice(asked("during")))
    healthy: list[bool] = []

    async def watch() -> None:
        while True:
            healthy.append(bench.engine.healthy())
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    other = await pair.loaded(LLAMA)
    after = len(bench.choice(asked("during")))
    assert after - before > 10
    watching.cancel()
    await bench.until(lambda: bench.over(asked("during")))
    assert healthy
    assert all(healthy)
    told = bench.choice(asked("during"))
    assert [event.count for event in told] == list(range(1, len(told) + 1))
    assert bench.tokens(asked("during"))[:60] == bench.tokens(asked("alone"))
    await other.run(asked("r"))


async def test_a_fault_ends_one_engine_and_no_other(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken one's jobs fail and its health is lost; the other stays exact, and a new engine
    of the broken model can be loaded beside it.
    """
    qwen, llama = await pair.loaded(QWEN), await pair.loaded(LLAMA)
    await llama.run(asked("alone"))
    from mlx_lm.models.qwen3 import Model

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("injected")

    llama.engine.submit(asked("steady", max_tokens=60))
    with monkeypatch.context() as patch:
        patch.setattr(Model, "__call__", broken)
        doomed = [asked(f"doomed{i}") for i in range(6)]
        for each in doomed:
            qwen.engine.submit(each)
        await qwen.until(lambda: all(qwen.over(each) for each in doomed))
        async with asyncio.timeout(20):
            while qwen.engine.healthy():
                await asyncio.sleep(0.01)
    assert llama.engine.healthy()
    await llama.until(lambda: llama.over(asked("steady")))
    assert llama.tokens(asked("steady")) == llama.tokens(asked("alone"))
    assert {e.error.code for each in doomed for e in qwen.choice(each) if e.error} == {"engine"}
    await qwen.engine.close()
    again = await pair.loaded(QWEN)
    await again.run(asked("r"))
    assert mlx_threads() == ["mlx"]


async def test_a_folder_that_does_not_load_harms_nobody(pair: Pair, tmp_path: Path) -> None:
    """The refusal names it; the engine beside it goes on."""
    bench = await pair.loaded(LLAMA)
    bad = build_tiny_model(tmp_path / "bad")
    (bad / "config.json").write_text(
        (bad / "config.json").read_text().replace('"hidden_size": 64', '"hidden_size": 96')
    )
    pair.folders[QWEN] = bad
    with pytest.raises(InvalidRequest, match=r"model\.safetensors"):
        await pair.loaded(QWEN)
    await bench.run(asked("r"))
    assert bench.engine.healthy()


async def test_closing_one_frees_its_memory_and_the_last_one_ends_the_thread(pair: Pair) -> None:
    """What a model took is there again, whatever else is loaded."""
    llama = await pair.loaded(LLAMA)
    import mlx.core as mx

    await llama.run(asked("r"))
    before = mx.get_active_memory()
    qwen = await pair.loaded(QWEN)
    await qwen.run(asked("r", cache_scope="ada"))
    weights = (pair.folders[QWEN] / "model.safetensors").stat().st_size
    assert mx.get_active_memory() - before > weights * 0.9
    await qwen.engine.close()
    assert mx.get_active_memory() - before < weights * 0.1
    await llama.run(asked("s"))
    await llama.engine.close()
    assert mlx_threads() == []
    await (await pair.loaded(QWEN)).run(asked("r"))  # and the host can begin again


async def test_models_share_one_budget(tiny_folder: Path, llama_folder: Path) -> None:
    """A model that does not fit beside the others is for later, one that never fits is not."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    pair = Pair(tiny_folder, llama_folder, MlxHost(int(size * 1.8 / 0.75)))
    qwen = await pair.loaded(QWEN)
    with pytest.raises(Unavailable, match="Unload one"):
        await pair.loaded(LLAMA)
    assert qwen.engine.healthy()
    await qwen.engine.close()
    llama = await pair.loaded(LLAMA)
    await llama.run(asked("r"))
    await llama.engine.close()
    never = Pair(tiny_folder, llama_folder, MlxHost(size // 2))
    with pytest.raises(InvalidRequest, match="Choose a smaller model"):
        await never.loaded(QWEN)


async def test_a_request_too_long_beside_the_others_is_for_another_mac(
    tiny_folder: Path, llama_folder: Path
) -> None:
    """What one sequence may take is what the other models leave."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    pair = Pair(tiny_folder, llama_folder, MlxHost(int((2 * size + 300_000) / 0.75)))
    qwen = await pair.loaded(QWEN)
    long = Job(RequestId("long"), QWEN, (5,) * 100, 400, GREEDY)
    qwen.engine.submit(long)
    await qwen.until(lambda: qwen.over(long))
    llama = await pair.loaded(LLAMA)
    with pytest.raises(Unavailable) as refused:
        qwen.engine.submit(replace(long, request_id=RequestId("again")))
    assert refused.value.code == "memory"
    await llama.engine.close()
    qwen.engine.submit(replace(long, request_id=RequestId("again")))
    await qwen.engine.close()


async def test_a_hang_is_everybodys(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that does not end stops all who share the thread, and all of them say so."""
    qwen, llama = await pair.loaded(QWEN), await pair.loaded(LLAMA)
    monkeypatch.setattr(thread_module, "STALL_S", 0.05)
    release = threading.Event()
    from mlx_lm.models.qwen3 import Model

    healthy = Model.__call__

    def hanging(*args: Any, **kwargs: Any) -> Any:
        release.wait(20)
        return healthy(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "__call__", hanging)
        qwen.engine.submit(asked("r"))
        async with asyncio.timeout(20):
            while qwen.engine.healthy() or llama.engine.healthy():
                await asyncio.sleep(0.01)
        release.set()
    await qwen.until(lambda: qwen.over(asked("r")))
