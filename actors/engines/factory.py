"""Which engine a Mac runs, chosen by the settings. Imports MLX only when it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from actors.engines.model_folder import read_folder, resolve_model
from market.catalogue import Catalogue
from market.ports import Engine
from market.settings import EngineSettings, MacSettings, MarketSettings, ModelSource

DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"


def model_folder(source: ModelSource) -> Path:
    """The local folder of a served model; downloads a hub id the first time.

    Raises InvalidRequest when there is no such folder or the download fails.
    """
    return DEMO_FOLDER if not source.source else resolve_model(source.source)


def served_catalogue(settings: MarketSettings) -> Catalogue:
    """The catalogue with the operator's own models in it, at the demo model's price."""
    catalogue = Catalogue()
    for source in settings.models:
        facts = read_folder(model_folder(source))
        catalogue = catalogue.served_like(
            source.model, context_tokens=facts.context_tokens, quantization=facts.quantization
        )
    return catalogue


def make_engine(settings: EngineSettings, source: ModelSource, mac: MacSettings) -> Engine:
    """A new engine of the configured kind for this Mac; it is not loaded yet."""
    folder = model_folder(source)
    if settings.kind == "echo":
        from actors.engines.echo import EchoEngine

        return EchoEngine(
            source.model, folder=folder, slots=settings.slots, pace_ms=settings.pace_ms
        )
    if settings.kind == "simulated":
        from actors.engines.simulated import SimulatedEngine

        return SimulatedEngine(
            source.model,
            folder=folder,
            chip=mac.hardware.chip,
            slots=settings.slots,
            seed=_seed_of(mac.machine),
            memory_gb=mac.hardware.memory_gb,
        )
    from actors.engines.mlx.engine import MlxEngine

    return MlxEngine(
        source.model,
        folder,
        slots=settings.slots,
        memory_bytes_budget=settings.memory_bytes_budget,
    )


def _seed_of(machine: str) -> int:
    return int.from_bytes(hashlib.sha256(machine.encode()).digest()[:4], "big")
