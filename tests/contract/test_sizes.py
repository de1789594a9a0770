"""What a model needs is known to the byte before it is loaded, and without loading MLX here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engines import sizes
from actors.engines.mlx import runtime
from actors.engines.mlx.sizes import described, sizes_of
from actors.engines.model_folder import read_folder
from actors.engines.sizes import model_sizes
from market.catalogue import DEMO_MODEL, Catalogue
from market.errors import InvalidRequest
from market.hardware import profile_of
from market.settings import EngineSettings, MarketSettings, ModelSource
from market.types import ModelId
from tests.support.mlx_cores import finished
from tests.tiny_model import ARCHITECTURES, build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelId("test/tiny")
CATALOGUED = ModelId("qwen3.5-27b")


def needs(loaded: runtime.Loaded) -> tuple[int, int, int]:
    return loaded.weight_bytes, loaded.kv_bytes_per_token, loaded.state_bytes


def tensor_bytes(folder: Path) -> int:
    """What the tensors of the weight files take, by the files' own headers."""
    total = 0
    for path in folder.glob("model*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        offsets = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        total += sum(end - start for start, end in offsets)
    return total


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_was_predicted_is_what_is_loaded(
    architecture: str, dtype: str, bits: int | None, tmp_path: Path
) -> None:
    """From the config alone, from the weights' headers, and by loading: the same three numbers."""
    folder = build_tiny_model(tmp_path, architecture=architecture, bits=bits, torch_dtype=dtype)
    loaded = finished(runtime.load_slices(read_folder(folder)))
    assert needs(sizes_of(folder)) == needs(loaded)
    config = json.loads((folder / "config.json").read_text())
    assert needs(runtime.loaded_of(described(config))) == needs(loaded)
    assert tensor_bytes(folder) == loaded.weight_bytes
    assert (loaded.state_bytes > 0) == (architecture in ("gemma4", "qwen3_5"))


def settings(data: Path, kind: str, *sources: ModelSource) -> MarketSettings:
    return MarketSettings(str(data), sources, "test", engine=EngineSettings(kind=kind))


def test_a_market_of_folders_is_counted_once(tiny_folder: Path, tmp_path: Path) -> None:
    """A short-lived program counts; the second time nothing is started, and a change of the
    folder is counted anew.
    """
    market = settings(tmp_path, "mlx", ModelSource(TINY, str(tiny_folder)), ModelSource(DEMO_MODEL))
    first = model_sizes(market)
    facts = read_folder(tiny_folder)
    tiny = first[TINY]
    assert (tiny.weight_bytes, tiny.kv_bytes_per_token, tiny.state_bytes) == (431_616, 512, 0)
    assert (tiny.digest, tiny.context_tokens) == (facts.digest, facts.context_tokens)
    assert first[DEMO_MODEL].weight_bytes > 1_000_000

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "_count", lambda folders: [] if not folders else 1 / 0)
        assert model_sizes(market) == first
        copy = build_tiny_model(tmp_path / "copy", intermediate_size=128)
        with pytest.raises(ZeroDivisionError):
            model_sizes(settings(tmp_path, "mlx", ModelSource(TINY, str(copy))))


LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(("bits", "weight_gb"), [(None, 16.06), (4, 4.52), (8, 8.53)])
def test_a_config_alone_is_enough(bits: int | None, weight_gb: float, tmp_path: Path) -> None:
    """A published model of 8.03 billion parameters, of which no weight is here."""
    quantization = {"quantization": {"group_size": 64, "bits": bits}} if bits else {}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | quantization))
    found = model_sizes(settings(tmp_path, "mlx", ModelSource(TINY, str(tmp_path))))[TINY]
    assert found.weight_bytes / 1e9 == pytest.approx(weight_gb, abs=0.01)
    assert (found.kv_bytes_per_token, found.state_bytes) == (131_072, 0)
    assert (found.context_tokens, found.digest) == (131_072, "")
    assert found.quantization == (f"{bits}bit" if bits else "bf16")


def test_what_was_kept_and_cannot_be_read_is_counted_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """A damaged file costs a second, not the market."""
    market = settings(tmp_path, "mlx", ModelSource(TINY, str(tiny_folder)))
    first = model_sizes(market)
    (kept,) = (tmp_path / sizes.SIZES_FOLDER).iterdir()
    kept.write_text("{")
    assert model_sizes(market) == first
    assert json.loads(kept.read_text())["weight_bytes"] == first[TINY].weight_bytes


def test_a_folder_that_cannot_be_served_is_refused_by_name(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """The error names the file, what is wrong with it and what to do."""
    folder = build_tiny_model(tmp_path / "bad")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
    for broken, word in ((folder, "model.safetensors"), (tmp_path / "gone", "gone")):
        with pytest.raises(InvalidRequest, match=word):
            model_sizes(settings(tmp_path, "mlx", ModelSource(TINY, str(broken))))
    with pytest.raises(InvalidRequest, match="no folder"):
        model_sizes(settings(tmp_path, "mlx", ModelSource(CATALOGUED)))


def test_simulated_models_need_what_the_tables_say(tiny_folder: Path, tmp_path: Path) -> None:
    """Catalogue models need no folder; an echo engine needs no memory."""
    sources = (ModelSource(CATALOGUED), ModelSource(TINY, str(tiny_folder)))
    found = model_sizes(settings(tmp_path, "simulated", *sources))
    profile, card = profile_of(CATALOGUED), Catalogue().get(CATALOGUED)
    size = found[CATALOGUED]
    assert (size.weight_bytes, size.state_bytes) == (profile.weight_bytes, profile.state_bytes)
    assert (size.context_tokens, size.quantization) == (card.context_tokens, card.quantization)
    assert found[TINY].context_tokens == 512
    echo = model_sizes(settings(tmp_path, "echo", *sources))
    assert echo[CATALOGUED].weight_bytes == echo[CATALOGUED].kv_bytes_per_token == 0


def test_whoever_asks_imports_no_mlx(tiny_folder: Path, tmp_path: Path) -> None:
    """The router asks, and must stay light."""
    program = (
        "import sys; from pathlib import Path\n"
        "from actors.engines.sizes import model_sizes\n"
        "from market.settings import *\n"
        "s = MarketSettings(sys.argv[1], (ModelSource('m', sys.argv[2]),), 't')\n"
        "print(model_sizes(s)['m'].weight_bytes)\n"
        "print([m for m in sys.modules if m.startswith('mlx')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(tiny_folder)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["431616", "[]"]
