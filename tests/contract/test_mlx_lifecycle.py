"""Coming up and going down: bad folders, faults that end the engine, and clean exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.engines.mlx.engine import MlxEngine
from market.errors import InvalidRequest, Unavailable
from market.types import Event, Job, ModelId, RequestId, Sampling

MODEL = ModelId("test/tiny")
ROOT = Path(__file__).resolve().parents[2]


def damage_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}))


def ask_for_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_file": "evil.py"}))
    (folder / "evil.py").write_text("raise SystemExit('ran')")


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "unknown architecture": (damage_config, "config.json"),
    "wants to run code": (ask_for_code, "config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer is no JSON": (lambda f: (f / "tokenizer.json").write_text("["), "tokenizer.json"),
    "tokenizer is no tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "weights cut short": (lambda f: cut_short(f / "model.safetensors"), "model.safetensors"),
    "weights are text": (
        lambda f: (f / "model.safetensors").write_text("hello, not weights"), "model.safetensors"
    ),
    "weights of another shape": (widen, "model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(DAMAGES))
async def test_a_bad_folder_is_refused_naming_the_file(
    damage: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Load raises InvalidRequest that names the file, and leaves nothing running."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    break_it, file = DAMAGES[damage]
    break_it(folder)
    engine = MlxEngine(MODEL, folder, memory_bytes_budget=2**30)
    with pytest.raises(InvalidRequest, match=file):
        await engine.load(lambda _: None)
    assert not engine.healthy()
    with pytest.raises(Unavailable):
        engine.submit(Job(RequestId("r"), MODEL, (5,), 1))
    await engine.close()


async def test_a_model_larger_than_the_budget_is_refused(tiny_folder: Path) -> None:
    """The error says how much there is and how much it needs."""
    engine = MlxEngine(MODEL, tiny_folder, memory_bytes_budget=1000)
    with pytest.raises(InvalidRequest, match="GiB"):
        await engine.load(lambda _: None)


async def test_a_job_beyond_this_machines_memory_may_run_elsewhere(tiny_folder: Path) -> None:
    """It is Unavailable, not invalid: a larger Mac can hold it."""
    size = (tiny_folder / "model.safetensors").stat().st_size
    engine = MlxEngine(MODEL, tiny_folder, memory_bytes_budget=int((size + 300_000) / 0.75))
    await engine.load(lambda _: None)
    try:
        engine.submit(Job(RequestId("small"), MODEL, (5,), 200))
        with pytest.raises(Unavailable) as caught:
            engine.submit(Job(RequestId("large"), MODEL, (5,) * 200, 200))
        assert caught.value.code == "memory"
    finally:
        await engine.close()


async def test_when_the_engine_dies_every_job_hears_it(tiny_folder: Path, monkeypatch: Any) -> None:
    """After a second fault in a row all jobs fail with `engine` and health is lost."""
    import asyncio

    events: list[Event] = []
    engine = MlxEngine(MODEL, tiny_folder, slots=4, memory_bytes_budget=2**30)
    facts = await engine.load(events.extend)
    assert facts.vocab_size == 360
    assert facts.kv_bytes_per_token == 512
    from mlx_lm.models.qwen3 import Model

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("injected")

    monkeypatch.setattr(Model, "__call__", broken)
    greedy = Sampling(temperature=0.0)
    names = [f"r{i}" for i in range(8)]
    for name in names:
        engine.submit(Job(RequestId(name), MODEL, (5, 6, 7), 20, greedy, n=2))
    async with asyncio.timeout(20):
        while engine.healthy():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    failed = [(e.request_id, e.error.code) for e in events if e.error is not None]
    assert sorted(failed) == [(name, "engine") for name in names]
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    await engine.close()


SCRIPT = """
import asyncio, resource, sys
from pathlib import Path
from actors.engines.mlx.engine import MlxEngine
from market.types import Job, ModelId, RequestId

async def main():
    engine = MlxEngine(ModelId("m"), Path(sys.argv[1]), memory_bytes_budget=2**30)
    await engine.load(lambda events: None)
    engine.submit(Job(RequestId("r"), ModelId("m"), (5, 6), 400))
    await asyncio.sleep(0.05)

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
before = (1000, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, before)
asyncio.run(main())
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
print("leaving")
"""


def test_a_program_that_forgets_to_close_exits_cleanly(tiny_folder: Path) -> None:
    """No abort at interpreter exit, and the limit on open files is as it was."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_folder)],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "leaving"
    assert done.returncode == 0
    assert "terminate" not in done.stderr
    assert "Traceback" not in done.stderr
