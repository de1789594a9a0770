"""The table of chips and the formulas: against published speeds, and in their directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.catalogue import CARDS
from market.errors import InvalidRequest
from market.hardware import (
    CHIPS,
    PROFILES,
    ModelProfile,
    chip_named,
    decode_tps,
    hardware_of,
    load_bytes_per_s,
    memory_budget_bytes,
    prefill_ms,
    prefill_tps,
    profile_of,
    step_ms,
    warm_ms,
)
from market.types import ModelId

CHIP_NAMES = st.sampled_from(sorted(CHIPS))
MODELS = st.sampled_from(sorted(PROFILES))


def dense(billion: float, bits: float, layers: int) -> ModelProfile:
    return ModelProfile(layers, int(billion * 1e9 * bits / 8), 131_072, billion * 1e9, 80.0)


@pytest.mark.parametrize(
    ("chip", "profile", "published_tps"),
    [
        ("M4 Max", dense(4.0, 4.5, 36), 134.5),  # Qwen3-4B at 4 bit, mlx_lm's own table
        ("M4 Max", dense(4.0, 8.5, 36), 86.9),
        ("M4 Max", dense(4.0, 16.0, 36), 52.5),
        ("M3 Ultra", dense(8.03, 4.5, 32), 119.4),  # Llama-3.1-8B, community benchmarks
        ("M3 Ultra", dense(14.8, 4.5, 40), 66.4),
    ],
)
def test_decode_speed_is_near_what_was_published(
    chip: str, profile: ModelProfile, published_tps: float
) -> None:
    """One stream at a short context is within 15 % of published measurements."""
    assert decode_tps(chip_named(chip), profile, 1, 256) == pytest.approx(published_tps, rel=0.15)


@given(CHIP_NAMES, MODELS, st.integers(1, 64), st.integers(0, 100_000))
def test_a_step_takes_longer_with_more_sequences_and_longer_ones(
    chip: str, model: ModelId, batch: int, context: int
) -> None:
    """Step time never falls as batch or context grow."""
    here, profile = CHIPS[chip], PROFILES[model]
    now = step_ms(here, profile, batch, context)
    assert step_ms(here, profile, batch + 1, context) >= now > 0
    assert step_ms(here, profile, batch, context + 1000) >= now


@given(MODELS, st.integers(1, 32))
def test_more_bandwidth_and_cores_are_never_slower(model: ModelId, batch: int) -> None:
    """Within a generation the larger chip is at least as fast at both phases."""
    profile = PROFILES[model]
    for generation in ("M1", "M2", "M3", "M4", "M5"):
        small, large = CHIPS[generation], CHIPS[f"{generation} Max"]
        assert decode_tps(large, profile, batch, 2048) > decode_tps(small, profile, batch, 2048)
        assert prefill_tps(large, profile) > prefill_tps(small, profile)


def test_a_mixture_gains_less_from_batching_than_a_dense_model() -> None:
    """Experts are read as a union, so eight streams of a mixture share less."""
    chip = CHIPS["M4 Max"]
    gains = {
        model: decode_tps(chip, PROFILES[ModelId(model)], 8, 2048)
        / decode_tps(chip, PROFILES[ModelId(model)], 1, 2048)
        for model in ("qwen3.5-27b", "mlx-community/gemma-4-26b-a4b-it-8bit")
    }
    assert gains["mlx-community/gemma-4-26b-a4b-it-8bit"] < gains["qwen3.5-27b"]


def test_nothing_to_do_takes_no_time() -> None:
    """Empty batches and empty prompts cost nothing."""
    chip, profile = CHIPS["M1"], profile_of(ModelId("llama-3.3-8b"))
    assert step_ms(chip, profile, 0, 0) == 0
    assert decode_tps(chip, profile, 0, 0) == 0
    assert prefill_ms(chip, profile, 0) == 0
    assert prefill_ms(chip, profile, 1) >= step_ms(chip, profile, 1, 1)


def test_every_model_on_offer_has_a_profile_that_fits_its_smallest_mac() -> None:
    """A card's minimum memory holds the weights of its profile."""
    for card in CARDS:
        assert card.id in PROFILES
        if card.id != "deepseek-v3":  # its published minimum is below its own weights
            assert PROFILES[card.id].weight_bytes < card.min_memory_gb * 2**30


def test_budgets_grow_with_memory_and_stay_below_it() -> None:
    """Metal recommends about two thirds, then three quarters, of the memory."""
    budgets = [memory_budget_bytes(gb) for gb in (8, 16, 32, 48, 128, 512)]
    assert budgets == sorted(budgets)
    assert all(b < gb * 2**30 for b, gb in zip(budgets, (8, 16, 32, 48, 128, 512), strict=True))


def test_an_unknown_chip_is_refused_with_the_known_ones() -> None:
    """The error lists what may be written."""
    with pytest.raises(InvalidRequest, match="M4 Max"):
        chip_named("M9")
    assert hardware_of("M4 Max").memory_gb == 128
    assert hardware_of("M4 Max", 36).memory_gb == 36


def test_weights_come_in_as_fast_as_was_measured() -> None:
    """14 GB cold take the published 7 to 11 s somewhere between the slow and the fast disks."""
    seconds = sorted(14e9 / load_bytes_per_s(chip) for chip in CHIPS.values())
    assert seconds[0] < 7
    assert seconds[-1] > 11
    for chip in CHIPS.values():
        assert 3 < 14e9 / load_bytes_per_s(chip) < 15


@given(CHIP_NAMES, MODELS)
def test_warming_up_is_a_few_steps(chip: str, model: ModelId) -> None:
    """A loaded model is warm after a fixed number of steps for one short sequence."""
    here, profile = CHIPS[chip], PROFILES[model]
    assert warm_ms(here, profile) == pytest.approx(4 * step_ms(here, profile, 1, 0))
