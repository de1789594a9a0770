"""How much memory each model of a market needs, before any Mac has loaded it.

Placement plans with these numbers, so they are exact: of a model folder under the MLX engine
they are counted from its config by a short-lived program (`actors.engines.mlx.sizes`), once per
folder and version of mlx-lm; what was counted is kept below the market's data. Simulated engines
need what the hardware tables say, and the echo engine nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actors.engines.factory import own_folder, served_facts
from actors.engines.model_folder import read_config, read_folder, resolve_model
from market.errors import Internal, InvalidRequest
from market.hardware import profile_of
from market.settings import MarketSettings, ModelSource
from market.types import ModelId, ModelSize

COUNT_S_MAX = 300.0
"""Counting takes a second per model, and as much again to import MLX; a minute on a busy Mac."""

FORMAT = 1
"""Of what is kept; counts of another format are made again."""

SIZES_FOLDER = "model_sizes"

Counts = dict[str, int]


def model_sizes(settings: MarketSettings) -> dict[ModelId, ModelSize]:
    """What each model of the market needs. Blocks for seconds when something must be counted.

    Raises InvalidRequest naming the folder that cannot be served, and why.
    """
    if settings.engine.kind == "mlx":
        return _counted(settings.models, Path(settings.data_dir) / SIZES_FOLDER)
    simulated = settings.engine.kind == "simulated"
    return {source.model: _tabled(source, simulated=simulated) for source in settings.models}


def _tabled(source: ModelSource, *, simulated: bool) -> ModelSize:
    facts, profile = served_facts(source), profile_of(source.model)
    return ModelSize(
        model=source.model,
        weight_bytes=profile.weight_bytes if simulated else 0,
        kv_bytes_per_token=profile.kv_bytes_per_token if simulated else 0,
        state_bytes=profile.state_bytes if simulated else 0,
        context_tokens=facts.context_tokens,
        quantization=facts.quantization,
        digest=facts.digest,
    )


def _counted(sources: Sequence[ModelSource], kept: Path) -> dict[ModelId, ModelSize]:
    """Sizes of folders; those that are not known yet are counted in one go."""
    folders = {source.model: _folder(source) for source in sources}
    files = {model: kept / f"{_key(folder)}.json" for model, folder in folders.items()}
    counts = {model: _read(file) for model, file in files.items()}
    unknown = [model for model, found in counts.items() if found is None]
    for model, found in zip(unknown, _count([folders[m] for m in unknown]), strict=True):
        _keep(files[model], found)
        counts[model] = found
    return {model: _size(model, folders[model], found or {}) for model, found in counts.items()}


def _size(model: ModelId, folder: Path, counts: Counts) -> ModelSize:
    if any(folder.glob("model*.safetensors")):
        facts = read_folder(folder)
        context, quantization, digest = facts.context_tokens, facts.quantization, facts.digest
    else:
        config = read_config(folder)
        context, quantization, digest = config.context_tokens, config.quantization, ""
    return ModelSize(
        model,
        counts["weight_bytes"],
        counts["kv_bytes_per_token"],
        counts["state_bytes"],
        context,
        quantization,
        digest,
    )


def _folder(source: ModelSource) -> Path:
    """Its folder, where the config at least is; nobody needs the weights to plan with them."""
    return resolve_model(source.source, weights=False) if source.source else own_folder(source)


def _key(folder: Path) -> str:
    """Names what the counts depend on: the config, which weights there are, and mlx-lm."""
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidRequest(f"{config} is missing; download the model again.", "model")
    total = hashlib.sha256(config.read_bytes())
    for path in sorted(folder.glob("model*.safetensors")):
        total.update(f"\0{path.name}\0{path.stat().st_size}".encode())
    try:
        mlx_lm = version("mlx-lm")
    except PackageNotFoundError:
        mlx_lm = ""
    total.update(f"\0{mlx_lm}\0{FORMAT}".encode())
    return total.hexdigest()


def _count(folders: Sequence[Path]) -> list[Counts]:
    """Count these folders in a process of its own, which imports MLX so that this one need not."""
    if not folders:
        return []
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "actors.engines.mlx.sizes", *map(str, folders)]
    try:
        done = subprocess.run(  # noqa: S603 - our own program, folders as arguments
            command,
            capture_output=True,
            text=True,
            timeout=COUNT_S_MAX,
            check=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or str(error)
        last = str(said).strip().splitlines()[-1:] or [type(error).__name__]
        raise Internal(f"The sizes of the models could not be counted: {last[0][:200]}") from error
    for each in found:
        if "error" in each:
            raise InvalidRequest(str(each["error"]), "model", "bad_model")
    return found


def _read(file: Path) -> Counts | None:
    """What was kept; None when it is not there or not what we write."""
    try:
        kept = json.loads(file.read_text())
        return {
            name: int(kept[name]) for name in ("weight_bytes", "kv_bytes_per_token", "state_bytes")
        }
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(file: Path, counts: Counts) -> None:
    """Written whole or not at all; two who count at once write the same."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(counts))
    partial.replace(file)
