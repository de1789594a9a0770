"""What a model folder says about itself, read without loading the model.

Gateways render templates and count tokens with these facts and must never import MLX; an
engine checks the folder with them first, so that a bad folder is an error that names the file
and the fix, not a crash inside a loader.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engines.model_support import bad_model, check_architecture, check_tokenizer
from market.errors import InvalidRequest

CONTEXT_TOKENS_DEFAULT = 4096
"""Used when neither the config nor the tokenizer states a context length."""

SANE_CONTEXT_TOKENS = 10**8
"""Tokenizer configs write 10^30 for "no limit"; anything above this is not a length."""

WHOLE_DIGEST_BYTES = 64 * 2**20
"""Weight files up to this size enter the digest whole; larger ones by header and edges."""

EDGE_BYTES = 2**20
HEADER_BYTES_MAX = 256 * 2**20


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A model folder as a gateway needs it. `chat_template` is None for base models."""

    folder: Path
    tokenizer_path: Path
    context_tokens: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    chat_template: str | None
    bos_token: str
    eos_token: str
    quantization: str
    weight_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """What is known of a model whose weights are elsewhere."""

    context_tokens: int
    quantization: str


def resolve_model(path_or_id: str, *, weights: bool = True) -> Path:
    """The local folder of `path_or_id`: a folder as it is, else a Hugging Face id, whose weights
    are fetched only when they are needed.

    Raises InvalidRequest when there is neither, or the download fails.
    """
    local = Path(path_or_id).expanduser()
    if local.is_dir():
        return local.resolve()
    looks_local = path_or_id.startswith((".", "/", "~")) or path_or_id.count("/") != 1
    if looks_local:
        raise bad_model(local, "is not a folder", "give a folder with config.json, or owner/name")
    return _download(
        path_or_id, [*TEXT_PATTERNS, "model*.safetensors"] if weights else TEXT_PATTERNS
    )


TEXT_PATTERNS = ["*.json", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
WEIGHT_PATTERNS = ["model*.safetensors"]
"""The files of a model, its weights apart: a gateway has no use for those."""


def _download(model_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=patterns))
    except HFValidationError as error:
        raise InvalidRequest(
            f"{model_id[:120]!r} is neither a folder nor a Hugging Face id; "
            "write a path, or owner/name.",
            "model",
            "bad_model",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InvalidRequest(
            f"Could not download {model_id!r} from Hugging Face ({type(error).__name__}); check "
            "the id and the connection, log in for gated models, or pass a local folder.",
            "model",
            "download_failed",
        ) from error


def read_folder(folder: Path) -> FolderFacts:
    """Read and check a model folder; raises InvalidRequest naming the first bad file."""
    if not folder.is_dir():
        raise bad_model(folder, "is not a folder", "give a folder with config.json")
    config = _read_json(folder / "config.json", "download the model again")
    check_architecture(folder / "config.json", config)
    tokenizer_path = folder / "tokenizer.json"
    fix = "convert the tokenizer to the fast format, or download it again"
    _read_json(tokenizer_path, fix)
    check_tokenizer(tokenizer_path, fix)
    tokenizer_config = _optional_json(folder / "tokenizer_config.json")
    weights = _weight_files(folder)
    text = text_of(config)
    return FolderFacts(
        folder=folder,
        tokenizer_path=tokenizer_path,
        context_tokens=_context_tokens(text, tokenizer_config),
        vocab_size=_vocab_size(folder, text),
        eos_ids=_eos_ids(folder, text),
        chat_template=_chat_template(folder, tokenizer_config),
        bos_token=_token_text(tokenizer_config.get("bos_token")),
        eos_token=_token_text(tokenizer_config.get("eos_token")),
        quantization=_quantization(config, text),
        weight_bytes=sum(path.stat().st_size for path in weights),
        digest=_digest([folder / "config.json", tokenizer_path, *weights]),
    )


def read_config(folder: Path) -> ConfigFacts:
    """What the config alone says; raises InvalidRequest when it is not usable."""
    config = _read_json(folder / "config.json", "download the model again")
    check_architecture(folder / "config.json", config)
    text = text_of(config)
    tokenizer_config = _optional_json(folder / "tokenizer_config.json")
    return ConfigFacts(_context_tokens(text, tokenizer_config), _quantization(config, text))


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """A config with what it says of text on top, where it keeps that apart."""
    text_config = config.get("text_config")
    return {**config, **(text_config if isinstance(text_config, dict) else {})}


def _read_json(path: Path, fix: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise bad_model(path, "is missing", fix) from error
    except (OSError, ValueError) as error:
        raise bad_model(path, "is not readable JSON", fix) from error
    if not isinstance(data, dict):
        raise bad_model(path, "does not hold a JSON object", fix)
    return data


def _optional_json(path: Path) -> dict[str, Any]:
    return _read_json(path, "repair or remove it") if path.exists() else {}


def _weight_files(folder: Path) -> list[Path]:
    """The weight files, each with a header that matches its size."""
    fix = "download or convert the model again"
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise bad_model(folder / "model.safetensors", "is missing", fix)
    index = _optional_json(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(index, dict):
        for name in sorted({str(file) for file in index.values()}):
            if not (folder / name).is_file():
                raise bad_model(folder / name, "is named by the index but missing", fix)
    for path in paths:
        _check_weights(path, fix)
    return paths


def _check_weights(path: Path, fix: str) -> None:
    """A safetensors file is an 8-byte length, a JSON header, and tensors up to its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_BYTES_MAX):
            raise bad_model(path, "is cut short or not a safetensors file", fix)
        try:
            header = json.loads(file.read(length))
            end = max(
                entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise bad_model(path, "has an unreadable header", fix) from error
    if size != 8 + length + end:
        raise bad_model(path, f"is {size} bytes where its header says {8 + length + end}", fix)


def _context_tokens(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int:
    found = [config.get("max_position_embeddings"), tokenizer_config.get("model_max_length")]
    lengths = [int(n) for n in found if isinstance(n, int | float) and 0 < n < SANE_CONTEXT_TOKENS]
    return min(lengths) if lengths else CONTEXT_TOKENS_DEFAULT


def _vocab_size(folder: Path, config: dict[str, Any]) -> int:
    size = config.get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise bad_model(folder / "config.json", "has no vocab_size", "download the model again")
    return size


def _eos_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """The ids of generation_config.json override those of config.json."""
    generation = _optional_json(folder / "generation_config.json")
    found = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = found if isinstance(found, list) else [found]
    return tuple(i for i in ids if isinstance(i, int) and not isinstance(i, bool))


def _chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # named templates: the default one is for plain chat
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(token: object) -> str:
    """Tokenizer configs write a token as text or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _quantization(config: dict[str, Any], text: dict[str, Any]) -> str:
    for key in ("quantization", "quantization_config"):
        block = config.get(key) or text.get(key)
        if isinstance(block, dict) and isinstance(block.get("bits"), int):
            return f"{block['bits']}bit"
    dtype = str(text.get("torch_dtype") or text.get("dtype") or "")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(dtype, dtype or "unknown")


def _digest(paths: list[Path]) -> str:
    """sha256 over names, sizes and contents; huge files by header and edges, for speed."""
    total = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        total.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_DIGEST_BYTES:
                total.update(file.read())
                continue
            total.update(file.read(EDGE_BYTES))
            file.seek(-EDGE_BYTES, 2)
            total.update(file.read())
    return total.hexdigest()
