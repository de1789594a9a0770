"""Demand, the price of waiting, bytes and rates: what a plan is made from."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines import memory
from market.catalogue import CARDS
from market.hardware import CHIPS, hardware_of, memory_budget_bytes
from market.placement import work
from market.placement.demand import HALF_LIFE_S, MODELS_MAX, WINDOW_S, Demand
from market.placement.rent import HALF_LIFE_S as RENT_HALF_LIFE_S
from market.placement.rent import STEP_S_MAX, Rent
from market.placement.work import Mix, cost_tokens, need_bytes, room_bytes, work_rate
from market.types import ModelId
from tests.placement_kit import LARGE, SIZES, SMALL

MODEL = ModelId("m")
MIX = Mix(512.0, 128.0)


def steady(every_s: float, seconds: float, at_once: int = 1) -> Demand:
    demand = Demand()
    for number in range(int(seconds / every_s)):
        for _ in range(at_once):
            demand.arrived(MODEL, 500.0, 100.0, number * every_s)
    return demand


# ── demand ────────────────────────────────────────────────────────────────────────────


@given(st.floats(0.05, 10.0), st.integers(1, 20))
def test_a_steady_stream_is_measured_as_it_is(every_s: float, windows: int) -> None:
    """Evenly spaced requests give their own rate from the first whole window on."""
    seconds = WINDOW_S * windows
    offered = steady(every_s, seconds).offered(MODEL, seconds)

    assert offered.mean == pytest.approx(900.0 / every_s, rel=0.02 + every_s / WINDOW_S)
    assert offered.mix.prompt_tokens == pytest.approx(500.0, abs=10.0)


def test_bursts_are_planned_for_more_than_a_steady_stream_of_the_same_rate() -> None:
    """The same work in bursts of two hundred is more dispersed, so more is planned."""
    even = steady(0.5, 1800.0).offered(MODEL, 1800.0)
    bursts = steady(100.0, 1800.0, at_once=200).offered(MODEL, 1800.0)

    assert bursts.mean == pytest.approx(even.mean, rel=0.1)
    assert bursts.dispersion > 10 * even.dispersion
    assert bursts.high > 1.5 * even.high > even.mean


def test_what_nobody_asks_for_any_more_fades() -> None:
    """After each half-life of silence half is left, and no margin is planned for old bursts."""
    demand = steady(100.0, 3600.0, at_once=200)
    before = demand.offered(MODEL, 3600.0).mean

    for lives in (1, 2, 4):
        offered = demand.offered(MODEL, 3600.0 + lives * HALF_LIFE_S)
        assert offered.mean == pytest.approx(before / 2**lives, rel=0.1)
        assert offered.high == offered.mean


@given(st.floats(0.05, 5.0), st.floats(1.0, 1000.0), st.floats(0.0, 400.0))
def test_what_came_lately_is_told_apart_from_what_came_before(
    every_s: float, seconds: float, quiet_s: float
) -> None:
    """It is the work of the present window and the last over their time, whatever was before."""
    demand = steady(every_s, seconds)
    now_s = seconds + quiet_s
    opened_s = now_s - now_s % WINDOW_S - WINDOW_S
    came = sum(opened_s <= at * every_s for at in range(int(seconds / every_s)))
    offered = demand.offered(MODEL, now_s)
    assert offered.lately == pytest.approx(came * 900.0 / (now_s - opened_s), rel=0.01, abs=31.0)
    assert demand.offered(ModelId("unknown"), now_s).lately == 0.0


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.integers(1, 4))
def test_asking_for_the_demand_changes_nothing(pauses_s: list[int], looks: int) -> None:
    """However often somebody looks, the demand is the same: windows close by time alone."""
    watched, alone, now_s = Demand(), Demand(), 0.0
    for pause_s in pauses_s:
        for look in range(looks):
            watched.offered(MODEL, now_s + pause_s * look / looks)
        now_s += pause_s
        watched.arrived(MODEL, 10.0, 5.0, now_s)
        alone.arrived(MODEL, 10.0, 5.0, now_s)

    expected = alone.offered(MODEL, now_s)
    seen = watched.offered(MODEL, now_s)
    assert seen.mean == pytest.approx(expected.mean)
    assert seen.high == pytest.approx(expected.high)


def test_a_model_never_asked_for_has_no_demand() -> None:
    """Nothing came, so nothing is planned."""
    offered = Demand().offered(MODEL, 100.0)
    assert (offered.mean, offered.high) == (0.0, 0.0)


def test_the_memory_of_models_is_bounded() -> None:
    """The model that was quiet longest is forgotten for one more; offered ones are kept."""
    demand = Demand()
    for number in range(MODELS_MAX + 1):
        demand.arrived(ModelId(f"m{number}"), 1.0, 1.0, float(number))

    assert demand.offered(ModelId("m0"), 2000.0).mean == 0.0
    assert demand.offered(ModelId("m1"), 2000.0).mean > 0.0
    demand.keep([ModelId("m2")])
    assert demand.offered(ModelId("m1"), 2000.0).mean == 0.0


# ── rent ──────────────────────────────────────────────────────────────────────────────


@given(st.floats(1.0, 1e6), st.integers(1, 60))
def test_rent_is_what_waits_times_how_long(waiting: float, seconds: int) -> None:
    """A minute of looking each second charges each second's waiting work, hardly faded."""
    rent = Rent()
    for _ in range(seconds):
        rent.pay({MODEL: waiting}, 1.0)

    assert rent.paid(MODEL) == pytest.approx(waiting * seconds, rel=0.02)
    rent.bought(MODEL)
    assert rent.paid(MODEL) == 0.0


def test_rent_fades_and_a_pause_is_not_charged_in_full() -> None:
    """After an hour half of it counts; what happened while nobody looked is not guessed."""
    rent = Rent()
    rent.pay({MODEL: 1000.0}, 600.0)
    assert rent.paid(MODEL) == pytest.approx(1000.0 * STEP_S_MAX)
    rent.pay({}, RENT_HALF_LIFE_S)
    assert rent.paid(MODEL) == pytest.approx(500.0 * STEP_S_MAX)
    rent.pay({}, 3 * RENT_HALF_LIFE_S)
    assert rent.paid(MODEL) == 0.0


# ── bytes and rates ───────────────────────────────────────────────────────────────────


def test_the_reserve_is_the_engines_own() -> None:
    """The planner keeps as much free as the engine will, or it would order what cannot load."""
    assert work.RESERVE_BYTES_MAX == memory.RESERVE_BYTES_MAX
    assert work.RESERVE_SHARE_MAX == memory.RESERVE_SHARE_MAX


@pytest.mark.parametrize("model", sorted(SIZES))
def test_what_fits_the_planner_fits_the_engine(model: ModelId) -> None:
    """In exactly the memory that the planner asks for, the engine takes the planned batch."""
    size = SIZES[model]
    budget = next(b for b in range(10**8, 10**12, 10**8) if room_bytes(b) >= need_bytes(size))
    plan = memory.MemoryPlan(budget, size.weight_bytes, size.kv_bytes_per_token, size.state_bytes)

    assert plan.fits([min(work.KV_TOKENS, size.context_tokens)] * work.KV_SEQUENCES)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_every_model_of_the_catalogue_fits_some_mac(card: object) -> None:
    """But for the one that needs more than any single Mac has, as its card says."""
    largest = max(memory_budget_bytes(max(chip.memory_gb)) for chip in CHIPS.values())
    model = card.id  # type: ignore[attr-defined]
    assert (need_bytes(SIZES[model]) <= room_bytes(largest)) == (model != "deepseek-v3")


@given(st.sampled_from(sorted(SIZES)), st.integers(1, 64))
def test_faster_chips_do_more_work(model: ModelId, slots: int) -> None:
    """Within a generation the larger chip does more cost tokens a second of any model."""
    for generation in ("M1", "M2", "M3", "M4", "M5"):
        names = (generation, f"{generation} Pro", f"{generation} Max")
        rates = [work_rate(hardware_of(name), SIZES[model], MIX, slots) for name in names]
        assert all(slow < fast for slow, fast in pairwise(rates))


def test_one_unit_makes_chips_comparable() -> None:
    """Demand through rate is a share of time: an M5, quick at prompts, gains most from prompts."""
    prompts, answers = Mix(4000.0, 20.0), Mix(20.0, 1000.0)
    m4, m5 = hardware_of("M4 Max", 64), hardware_of("M5 Max", 64)

    def gain(mix: Mix) -> float:
        return work_rate(m5, SIZES[LARGE], mix, 8) / work_rate(m4, SIZES[LARGE], mix, 8)

    assert gain(prompts) > 2.0 > gain(answers) > 1.0
    assert cost_tokens(10.0, 5.0) == 30.0
    assert work_rate(m4, SIZES[SMALL], MIX, 8) > work_rate(m4, SIZES[LARGE], MIX, 8)
