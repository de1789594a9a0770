"""What models need, to the byte, without reading a weight: a program of its own.

MLX is lazy: a model is described, its parameters and caches are asked for their sizes, and
nothing is ever computed. It runs in a short-lived process, so that whoever asks imports no MLX:

    python -m actors.engines.mlx.sizes FOLDER...

prints one JSON list, an object per folder: its sizes, or the error that kept it from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from actors.engines.mlx import runtime
from actors.engines.model_folder import text_of
from market.errors import InvalidRequest

ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError)
"""What mlx_lm raises for a folder it cannot use."""


def sizes_of(folder: Path) -> runtime.Loaded:
    """The sizes of a model folder; the weights' own headers say more than the config, where the
    weights are there. Raises InvalidRequest.
    """
    runtime.import_mlx()
    from mlx_lm.utils import load_model

    try:
        if any(folder.glob("model*.safetensors")):
            return runtime.loaded_of(load_model(folder, lazy=True)[0])
        return runtime.loaded_of(described(json.loads((folder / "config.json").read_text())))
    except ERRORS as error:
        raise runtime.unloadable(folder, error) from error


def described(config: dict[str, Any]) -> Any:
    """The model that a config describes: right shapes and types, no weights."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map_with_path
    from mlx_lm.utils import _get_classes

    if config.get("model_file") is not None:
        raise ValueError("it needs a custom module, which market models may not have")
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    text = text_of(config)
    dtype = getattr(mx, str(text.get("torch_dtype") or text.get("dtype") or "bfloat16"))
    may_cast = getattr(model, "cast_predicate", lambda _: True)
    model.update(
        tree_map_with_path(
            lambda path, array: (
                array.astype(dtype)
                if may_cast(path) and mx.issubdtype(array.dtype, mx.floating)
                else array
            ),
            model.parameters(),
        )
    )
    quantization = config.get("quantization")
    if isinstance(quantization, dict):
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=_Quantized(model, quantization),
        )
    return model


class _Quantized:
    """How each layer is quantised: as the config says, else as mlx_lm's converter does it."""

    def __init__(self, model: Any, quantization: dict[str, Any]) -> None:
        self._quantization = quantization
        self._own = getattr(model, "quant_predicate", None)

    def __call__(self, path: str, layer: Any) -> Any:
        if path in self._quantization:
            return self._quantization[path]
        if not hasattr(layer, "to_quantized"):
            return False
        if layer.weight.shape[-1] % self._quantization["group_size"]:
            return False
        return True if self._own is None else bool(self._own(path, layer))


def main(folders: list[str]) -> None:
    """Print what was found of each folder."""
    found: list[dict[str, Any]] = []
    for folder in folders:
        try:
            sizes = sizes_of(Path(folder))
        except InvalidRequest as error:
            found.append({"error": error.message})
            continue
        found.append(
            {
                "weight_bytes": sizes.weight_bytes,
                "kv_bytes_per_token": sizes.kv_bytes_per_token,
                "state_bytes": sizes.state_bytes,
            }
        )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
