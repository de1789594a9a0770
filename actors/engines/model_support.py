"""Whether what is installed here can use a model folder, found out without loading the model.

A tokenizer that does not load, or an architecture mlx-lm does not know, would otherwise come
to light on every Mac in turn, as an engine that fails to start. mlx-lm's own tables are read
from its files: importing it takes seconds and brings MLX into processes that must not have it.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from market.errors import InvalidRequest

REMAPPING = "MODEL_REMAPPING"
ARCHITECTURE_REMAPPING = "MODEL_ARCHITECTURE_REMAPPING"
"""Names in mlx_lm/utils.py; without them every model_type must have a file of its own."""


def bad_model(path: Path, what: str, fix: str) -> InvalidRequest:
    """The error of a file of a model folder: what is wrong with it and what to do."""
    return InvalidRequest(f"{path} {what}; {fix.rstrip('.')}.", "model", "bad_model")


def check_tokenizer(path: Path, fix: str) -> None:
    """Raise InvalidRequest unless `tokenizers` loads the file and it has a vocabulary."""
    try:
        size = Tokenizer.from_file(str(path)).get_vocab_size()
    except Exception as error:  # the library raises nothing narrower
        raise bad_model(path, "is not a tokenizer of a known format", fix) from error
    if not size:
        raise bad_model(path, "has no vocabulary", fix)


def check_architecture(path: Path, config: dict[str, Any]) -> None:
    """Raise InvalidRequest when mlx-lm has no module for the config's model_type.

    Where mlx-lm is not installed nothing is known and nothing is refused: no engine runs
    there. `path` is the config's, for the message.
    """
    package = _mlx_lm_folder()
    if package is None:
        return
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise bad_model(path, "has no model_type", "download or convert the model again")
    tables = _tables(package / "utils.py")
    module = tables.get(REMAPPING, {}).get(model_type, model_type)
    for architecture in _architectures(config):
        other = tables.get(ARCHITECTURE_REMAPPING, {}).get((model_type, architecture))
        module = module if other is None else other
    names = {entry.stem for entry in (package / "models").iterdir() if entry.suffix in ("", ".py")}
    if module not in names:
        raise bad_model(
            path,
            f"has model_type {model_type[:60]!r}, which the installed mlx-lm does not support",
            "choose another model, or upgrade mlx-lm",
        )


def _architectures(config: dict[str, Any]) -> list[str]:
    given = config.get("architectures")
    listed = given if isinstance(given, list) else [given]
    return [name for name in listed if isinstance(name, str)]


def _mlx_lm_folder() -> Path | None:
    """Where mlx-lm's files are; finding the spec of a top-level package imports nothing."""
    spec = find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=1)
def _tables(source: Path) -> dict[str, dict[Any, Any]]:
    """The two remappings as written in the file; absent when they are no plain tables."""
    found: dict[str, dict[Any, Any]] = {}
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
            continue
        for target in statement.targets:
            if isinstance(target, ast.Name) and target.id in (REMAPPING, ARCHITECTURE_REMAPPING):
                found[target.id] = ast.literal_eval(statement.value)
    return found
