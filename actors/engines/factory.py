"""Which engines a Mac runs, chosen by the settings. Imports MLX only when it is asked for."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from actors.engines.memory import CPU_MEMORY_SHARE, ram_bytes
from actors.engines.model_folder import FolderFacts, resolve_model
from actors.engines.shared_folders import facts_of
from market.catalogue import DEMO_MODEL, Catalogue, ModelCard
from market.errors import InvalidRequest
from market.hardware import GIB, memory_budget_bytes, profile_of
from market.ports import Engine
from market.provider_places import Offer
from market.settings import EngineSettings, MacSettings, MarketSettings, ModelSource
from market.types import ModelId

if TYPE_CHECKING:
    from actors.engines.mlx.thread import MlxHost
    from actors.engines.simulated import SimulatedMac

DEMO_FOLDER = Path(__file__).parent.parent / "demo" / "model"


def model_folder(source: ModelSource) -> Path:
    """The local folder of a served model; downloads a hub id the first time.

    Raises InvalidRequest when there is no such folder or the download fails.
    """
    return DEMO_FOLDER if not source.source else resolve_model(source.source)


def card_of(source: ModelSource) -> ModelCard | None:
    """The card of a catalogue model that has no folder: it speaks the demo model's tokens."""
    if source.source or source.model == DEMO_MODEL:
        return None
    return Catalogue().get(source.model)


def served_facts(source: ModelSource) -> FolderFacts:
    """A served model as gateways and engines see it. Raises InvalidRequest, or NotFound for a
    model that has no folder and is not in the catalogue.
    """
    return facts_of(model_folder(source), card_of(source))


def served_catalogue(settings: MarketSettings) -> Catalogue:
    """The catalogue with the operator's own models in it, at the demo model's price."""
    catalogue = Catalogue()
    for source in settings.models:
        facts = served_facts(source)
        catalogue = catalogue.served_like(
            source.model, context_tokens=facts.context_tokens, quantization=facts.quantization
        )
    return catalogue


def own_folder(source: ModelSource) -> Path:
    """The folder with the weights of a served model; raises InvalidRequest when it has none."""
    if card_of(source) is not None:
        raise InvalidRequest(
            f"{source.model} is in the catalogue but has no folder here; serve it from a folder "
            "or a hub id, or run simulated engines.",
            "model",
            "bad_model",
        )
    return model_folder(source)


class Workshop:
    """Makes the engines of one Mac. They share what it has once: memory, GPU and disk."""

    def __init__(self, settings: MarketSettings, mac: MacSettings) -> None:
        self._settings: EngineSettings = settings.engine
        self._mac = mac
        self._sources = {
            source.model: source
            for source in settings.models
            if not mac.models or source.model in mac.models
        }
        self._host: MlxHost | None = None
        self._simulated: SimulatedMac | None = None

    def offer(self) -> Offer:
        """What this Mac may load, as far as that is known without loading anything."""
        return Offer(
            models=tuple(self._sources),
            weight_bytes=tuple(self._weight_bytes(each) for each in self._sources.values()),
            memory_bytes=self.memory_bytes(),
        )

    def memory_bytes(self) -> int:
        """What weights and caches may take together, until an engine knows better."""
        claimed = memory_budget_bytes(self._mac.hardware.memory_gb)
        if self._settings.kind != "mlx":
            return claimed
        if self._settings.memory_bytes_budget is not None:
            return self._settings.memory_bytes_budget
        if sys.platform == "darwin":
            return memory_budget_bytes(round(ram_bytes() / GIB))
        # Demo Macs claim more than the machine that stands in for them has.
        return min(claimed, int(ram_bytes() * CPU_MEMORY_SHARE))

    def make(self, model: ModelId) -> Engine:
        """A new engine of this model; it is not loaded yet. Blocks while a hub id is fetched.

        Raises InvalidRequest when the model cannot be served.
        """
        source, settings = self._sources[model], self._settings
        if settings.kind == "mlx":
            return self._mlx(source)
        folder, card = model_folder(source), card_of(source)
        if settings.kind == "echo":
            from actors.engines.echo import EchoEngine

            return EchoEngine(
                model, folder=folder, card=card, slots=settings.slots, pace_ms=settings.pace_ms
            )
        from actors.engines.simulated import SimulatedEngine, SimulatedMac

        if self._simulated is None:
            hardware = self._mac.hardware
            seed = _seed_of(self._mac.machine)
            self._simulated = SimulatedMac(hardware.chip, hardware.memory_gb, seed=seed)
        return SimulatedEngine(
            model, mac=self._simulated, folder=folder, card=card, slots=settings.slots
        )

    def _mlx(self, source: ModelSource) -> Engine:
        from actors.engines.mlx.engine import MlxEngine
        from actors.engines.mlx.thread import MlxHost

        if self._host is None:
            metal = sys.platform == "darwin" and self._settings.memory_bytes_budget is None
            self._host = MlxHost(None if metal else self.memory_bytes())
        return MlxEngine(
            source.model, own_folder(source), host=self._host, slots=self._settings.slots
        )

    def _weight_bytes(self, source: ModelSource) -> int:
        """0 for what is not on this disk yet; the engine counts it when it loads it."""
        if self._settings.kind == "echo":
            return 0
        if self._settings.kind == "simulated":
            return profile_of(source.model).weight_bytes
        folder = Path(source.source).expanduser() if source.source else DEMO_FOLDER
        return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def _seed_of(machine: str) -> int:
    return int.from_bytes(hashlib.sha256(machine.encode()).digest()[:4], "big")
