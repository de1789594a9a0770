"""What a model folder says about itself, and how ids become folders."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from actors.engines.model_folder import read_folder, resolve_model
from market.errors import InvalidRequest


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + b"\0" * 8
    )
    write(tmp_path, "tokenizer.json", {"model": {}})
    write(tmp_path, "config.json", {"vocab_size": 50, "max_position_embeddings": 900})
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
    write(folder, "tokenizer.json", {"model": {"x": 1}})
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
