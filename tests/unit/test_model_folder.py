"""What a model folder says about itself, and how ids become folders."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engines.model_folder import read_folder, resolve_model
from actors.engines.model_support import check_architecture
from market.errors import InvalidRequest

TOKENIZER = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"\0" * 8
    )
    write(tmp_path, "tokenizer.json", TOKENIZER)
    write(
        tmp_path,
        "config.json",
        {"model_type": "qwen3", "vocab_size": 50, "max_position_embeddings": 900},
    )
    return tmp_path


def test_a_plain_folder(folder: Path) -> None:
    """Without optional files there is no template, no end token and the config's context."""
    facts = read_folder(folder)
    assert (facts.context_tokens, facts.vocab_size) == (900, 50)
    assert (facts.chat_template, facts.eos_ids) == (None, ())
    assert facts.quantization == "unknown"


def test_nested_configs_and_named_templates(folder: Path) -> None:
    """Multimodal configs keep text settings inside; tokenizers may name several templates."""
    write(
        folder,
        "config.json",
        {
            "model_type": "qwen3_5",
            "text_config": {"vocab_size": 70, "max_position_embeddings": 5000},
            "quantization": {"bits": 4, "group_size": 64},
            "eos_token_id": 9,
        },
    )
    write(folder, "generation_config.json", {"eos_token_id": [7, 8]})
    write(
        folder,
        "tokenizer_config.json",
        {
            "model_max_length": 2000,
            "eos_token": {"content": "<end>"},
            "bos_token": None,
            "chat_template": [
                {"name": "tool", "template": "T"},
                {"name": "default", "template": "D"},
            ],
        },
    )
    facts = read_folder(folder)
    assert (facts.context_tokens, facts.vocab_size, facts.eos_ids) == (2000, 70, (7, 8))
    assert (facts.chat_template, facts.eos_token, facts.bos_token) == ("D", "<end>", "")
    assert facts.quantization == "4bit"
    (folder / "chat_template.jinja").write_text("J")
    assert read_folder(folder).chat_template == "J"


def test_an_endless_tokenizer_does_not_shorten_the_context(folder: Path) -> None:
    """Tokenizers write 10^30 for no limit."""
    write(folder, "tokenizer_config.json", {"model_max_length": 10**30})
    assert read_folder(folder).context_tokens == 900


def test_the_digest_follows_weights_and_tokenizer(folder: Path) -> None:
    """Changing either changes the digest; nothing else does."""
    before = read_folder(folder).digest
    write(folder, "generation_config.json", {"eos_token_id": 3})
    assert read_folder(folder).digest == before
    write(folder, "tokenizer.json", {**TOKENIZER, "added_tokens": []})
    after = read_folder(folder).digest
    assert after != before
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert read_folder(folder).digest not in (before, after)


def test_an_index_must_not_name_missing_files(folder: Path) -> None:
    """A download cut short is told by the file that is not there."""
    write(folder, "model.safetensors.index.json", {"weight_map": {"w": "model-2.safetensors"}})
    with pytest.raises(InvalidRequest, match=r"model-2\.safetensors is named by the index"):
        read_folder(folder)


def test_weights_are_checked_against_their_header(folder: Path) -> None:
    """A byte too few or too many is found before any loader sees the file."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for wrong in (whole[:-1], whole + b"\0", whole[:5], b""):
        path.write_bytes(wrong)
        with pytest.raises(InvalidRequest, match=r"model\.safetensors"):
            read_folder(folder)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "not a tokenizer"),
        ({"model": {}}, "not a tokenizer"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "no vocabulary"),
    ],
)
def test_a_tokenizer_must_load_and_know_words(folder: Path, content: object, what: str) -> None:
    """JSON that is no tokenizer, and one that is empty, are refused by the file's name."""
    write(folder, "tokenizer.json", content)
    with pytest.raises(InvalidRequest, match=rf"tokenizer\.json .*{what}.*download it again\.$"):
        read_folder(folder)


@pytest.mark.parametrize("given", ["unheard_of", "../generate", "", None, 7])
def test_an_architecture_nobody_here_can_run_is_refused(folder: Path, given: object) -> None:
    """Before any engine starts, with the file, the reason and the way out."""
    write(folder, "config.json", {"model_type": given, "vocab_size": 50})
    with pytest.raises(InvalidRequest, match=r"config\.json has .*model_type.*; .*[a-z]\.$"):
        read_folder(folder)


def test_architectures_that_mlx_lm_maps_to_others_are_taken(folder: Path) -> None:
    """mlx-lm runs some model types with the module of another; its own table says which."""
    write(folder, "config.json", {"model_type": "mistral", "vocab_size": 50})
    assert read_folder(folder).vocab_size == 50


@pytest.mark.parametrize(
    ("utils", "model_type", "taken"),
    [
        ('MODEL_REMAPPING = {"old": "new"}', "old", True),
        ('MODEL_REMAPPING = {"old": "gone"}', "old", False),
        ('MODEL_ARCHITECTURE_REMAPPING = {("old", "Arch"): "new"}', "old", True),
        ('MODEL_ARCHITECTURE_REMAPPING = {("old", "Other"): "new"}', "old", False),
        ("MODEL_REMAPPING = dict(computed())", "new", True),
        ("", "old", False),
    ],
)
def test_the_tables_of_whatever_mlx_lm_is_installed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utils: str, model_type: str, taken: bool
) -> None:
    """By type and by type with architecture; without a readable table, files decide."""
    package = tmp_path / "mlx_lm"
    (package / "models").mkdir(parents=True)
    (package / "models" / "new.py").touch()
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(utils)
    monkeypatch.delitem(sys.modules, "mlx_lm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model_type": model_type, "architectures": ["Arch"]}
    if taken:
        check_architecture(tmp_path / "config.json", config)
        return
    with pytest.raises(InvalidRequest, match="'old', which the installed mlx-lm does not support"):
        check_architecture(tmp_path / "config.json", config)


def test_looking_for_an_architecture_imports_no_mlx(folder: Path) -> None:
    """Gateways read folders too, and must never have MLX in their process."""
    program = (
        "import sys; from pathlib import Path; from actors.engines.model_folder import read_folder;"
        "read_folder(Path(sys.argv[1])); print([m for m in sys.modules if m.startswith('mlx')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_a_folder_is_used_as_it_is(folder: Path) -> None:
    """An existing folder resolves to itself; a path that is none is not looked up anywhere."""
    assert resolve_model(str(folder)) == folder.resolve()
    with pytest.raises(InvalidRequest, match="is not a folder"):
        resolve_model(str(folder / "absent"))
    with pytest.raises(InvalidRequest, match="is not a folder"):
        resolve_model("justaword")


def test_an_unreachable_hub_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline, an id that was never downloaded is refused with what to do."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidRequest, match="local folder"):
        resolve_model("nobody/nothing")
