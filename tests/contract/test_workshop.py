"""What a Mac may load, and that the engines made for it share what the Mac has once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.engines.factory import DEMO_FOLDER, Workshop, served_catalogue, served_facts
from actors.engines.memory import ram_bytes
from actors.machines import demo_macs
from market.catalogue import DEMO_MODEL, Catalogue
from market.errors import InvalidRequest, NotFound
from market.hardware import GIB, memory_budget_bytes, profile_of
from market.settings import EngineSettings, MacSettings, MarketSettings, ModelSource
from market.types import ModelId

LARGE, SMALL = ModelId("qwen3.5-27b"), ModelId("llama-3.3-8b")
MODELS = (ModelSource(LARGE), ModelSource(SMALL), ModelSource(DEMO_MODEL))


@pytest.fixture
def mac(tmp_path: Path) -> MacSettings:
    return demo_macs(tmp_path, 1)[0]


def market(kind: str, *models: ModelSource, budget: int | None = None) -> MarketSettings:
    engine = EngineSettings(kind=kind, slots=4, memory_bytes_budget=budget)
    return MarketSettings("data", models or MODELS, "test", engine=engine)


def test_a_mac_is_offered_what_it_may_have_in_the_markets_order(mac: MacSettings) -> None:
    """With the sizes of the tables, and the memory of its hardware."""
    offer = Workshop(market("simulated"), mac).offer()
    assert offer.models == (LARGE, SMALL, DEMO_MODEL)
    assert offer.weight_bytes[0] == profile_of(LARGE).weight_bytes
    assert offer.memory_bytes == memory_budget_bytes(mac.hardware.memory_gb)
    choosy = replace(mac, models=(DEMO_MODEL, SMALL))
    assert Workshop(market("simulated"), choosy).offer().models == (SMALL, DEMO_MODEL)


def test_a_folder_is_offered_with_its_size_and_mlx_with_the_memory_there_is(
    mac: MacSettings,
) -> None:
    """What no disk has yet is not known; no Mac plans with more than it claims or has."""
    hub = ModelSource(ModelId("some/model"), "some/model")
    offer = Workshop(market("mlx", ModelSource(DEMO_MODEL), hub), mac).offer()
    weights = (DEMO_FOLDER / "model.safetensors").stat().st_size
    assert offer.weight_bytes == (weights, 0)
    assert 0 < offer.memory_bytes <= min(ram_bytes(), mac.hardware.memory_gb * GIB)
    assert Workshop(market("mlx", budget=5 * GIB), mac).offer().memory_bytes == 5 * GIB


async def test_simulated_engines_of_a_mac_share_its_gpu_and_its_memory_for_prompts(
    mac: MacSettings,
) -> None:
    """Of one Mac they are the same, of two they are not."""
    here, there = Workshop(market("simulated"), mac), Workshop(market("simulated"), mac)
    large, small, other = here.make(LARGE), here.make(SMALL), there.make(SMALL)
    assert large._device is small._device is not other._device  # type: ignore[attr-defined]
    assert large._pace._mac is small._pace._mac  # type: ignore[attr-defined]


async def test_mlx_engines_of_a_mac_share_its_thread(mac: MacSettings, tiny_folder: Path) -> None:
    """One host for all; a catalogue model without a folder is refused, with what to do."""
    tiny = ModelSource(ModelId("test/tiny"), str(tiny_folder))
    workshop = Workshop(market("mlx", tiny, *MODELS), mac)
    one, other = workshop.make(tiny.model), workshop.make(DEMO_MODEL)
    assert one._host is other._host  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequest, match="no folder"):
        workshop.make(LARGE)


def test_a_catalogue_model_without_a_folder_is_served_as_its_card_says() -> None:
    """Gateways count with the demo model's tokens and the card's context; the price stays."""
    facts, demo = served_facts(ModelSource(LARGE)), served_facts(ModelSource(DEMO_MODEL))
    card = Catalogue().get(LARGE)
    assert (facts.context_tokens, facts.quantization) == (card.context_tokens, card.quantization)
    assert facts.tokenizer_path == demo.tokenizer_path
    assert facts.digest != demo.digest
    assert served_catalogue(market("simulated")).get(LARGE) == card
    with pytest.raises(NotFound):
        served_facts(ModelSource(ModelId("nobody/knows-it")))
