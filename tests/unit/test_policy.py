"""Laws of a single routing decision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.policy.ask import SUSPECT_AFTER_S, Ask
from market.policy.filters import FILTERS
from market.policy.fleet import LOST, STATE_CODE, Fleet
from market.policy.picker import TIE_WINDOW_MS, draw
from market.policy.predictor import predict
from market.policy.route import TOP_KEPT, decide, materialise
from market.policy.scorers import SCORERS
from market.types import MachineId, RequestId
from tests.router_kit import FACTS, MODEL, provider_beat


def ask(name: str = "r", **changes: object) -> Ask:
    values: dict[str, object] = {
        "request_id": RequestId(name),
        "attempt": 1,
        "model": MODEL,
        "prompt_tokens": 100,
        "max_tokens": 100,
        "n": 1,
        "expected_tokens": 100.0,
        "now_s": 1.0,
        **changes,
    }
    return Ask(**values)  # type: ignore[arg-type]


def fleet_of(*macs: dict[str, float]) -> Fleet:
    fleet = Fleet()
    for number, columns in enumerate(macs):
        machine = MachineId(f"mac_{number}")
        fleet.add(machine)
        fleet.set_models(machine, (FACTS,))
        ready = {"state": STATE_CODE["ready"], "slots": 4, "bandwidth_gbs": 200.0}
        fleet.set(machine, **{**ready, **columns})
    return fleet


REASONS: list[tuple[str, dict[str, float], dict[str, object]]] = [
    ("excluded", {}, {"excluded": (MachineId("mac_0"),)}),
    ("context", {}, {"max_tokens": 9000}),
    ("memory", {"memory_bytes": 4_000_000_100}, {}),
    ("stopped", {"state": STATE_CODE["stopped"]}, {}),
    ("draining", {"draining": True}, {}),
    ("draining", {"state": STATE_CODE["draining"]}, {}),
    ("draining", {"state": STATE_CODE["drained"]}, {}),
    ("lost", {"state": LOST}, {}),
    ("failing", {"state": STATE_CODE["failing"]}, {}),
    ("starting", {"state": STATE_CODE["starting"]}, {}),
    ("suspect", {}, {"now_s": SUSPECT_AFTER_S + 0.1}),
    ("cooling_down", {"cooling_until_s": 2.0}, {}),
    ("cooling_down", {"cooling_until_s": 0.5, "in_flight": 1}, {}),
    ("collecting", {"collecting": True}, {}),
    ("no_slot", {"in_flight": 4}, {}),
    ("no_slot", {"reported": 4}, {"rebuilding": True}),
]


@pytest.mark.parametrize(("reason", "columns", "asked"), REASONS)
def test_each_filter_rules_out_with_its_name(
    reason: str, columns: dict[str, float], asked: dict[str, object]
) -> None:
    """A Mac with one thing wrong is ruled out for exactly that reason."""
    decision = decide(fleet_of(columns).candidates(MODEL), ask(**asked), 0)

    assert decision.chosen is None
    assert decision.counts == {reason: 1}
    assert decision.hopeless == next(f.lasting for f in FILTERS if f.name == reason)
    assert [v.reason for v in materialise(decision)] == [reason]


def test_every_filter_has_a_case() -> None:
    """A filter nobody shows to rule anything out would be untested."""
    assert {f.name for f in FILTERS} == {reason for reason, _, _ in REASONS}


def test_the_words_count_each_reason() -> None:
    """The summary names how many Macs can take the request and why others cannot."""
    fleet = fleet_of({"draining": True}, {"draining": True}, {"state": STATE_CODE["starting"]})
    decision = decide(fleet.candidates(MODEL), ask(), 0)
    assert decision.in_words() == "0 of 3 Macs can take this now: 2 draining, 1 starting"


def test_a_probing_mac_takes_one_request_at_a_time() -> None:
    """After its cool-down a Mac without work may be tried."""
    fleet = fleet_of({"cooling_until_s": 0.5})
    assert decide(fleet.candidates(MODEL), ask(), 0).chosen == "mac_0"


def test_the_faster_mac_is_chosen_until_its_load_makes_it_slower() -> None:
    """A Mac of twice the bandwidth gets work first, but not all of it."""
    fleet = fleet_of({"bandwidth_gbs": 400.0, "slots": 64}, {"bandwidth_gbs": 200.0, "slots": 64})
    chosen = []
    for number in range(8):
        decision = decide(fleet.candidates(MODEL), ask(f"r{number}"), 0)
        assert decision.chosen is not None
        fleet.add_in_flight(decision.chosen, 1)
        chosen.append(decision.chosen)

    assert chosen[0] == "mac_0"
    assert chosen.count(MachineId("mac_0")) > chosen.count(MachineId("mac_1")) > 0


def test_measured_rates_replace_the_roofline() -> None:
    """What a Mac's beats measure counts for more than what its bandwidth promises."""
    fleet = fleet_of({}, {"solo_step_ms": 1.0, "prefill_tps": 10_000.0})
    predicted = predict(fleet.candidates(MODEL), ask())
    assert predicted.step_ms[1] == pytest.approx(1.0)
    assert predicted.prefill_ms[1] == pytest.approx(10.0)
    assert predicted.step_ms[0] > 10.0


def test_a_beat_under_load_is_traced_back_to_a_lone_sequence() -> None:
    """The rate of a full batch predicts that same batch again."""
    fleet = fleet_of({})
    machine = MachineId("mac_0")
    beat = provider_beat("0", running=4, decode_tps=200.0)
    fleet.observe(machine, beat.hardware, beat.stats)
    fleet.set(machine, in_flight=3)

    step_ms = float(predict(fleet.candidates(MODEL), ask()).step_ms[0])

    assert step_ms == pytest.approx(1000.0 * 4 / 200.0)


def test_equal_macs_share_ties_by_load_and_then_by_seed() -> None:
    """Near-ties go to the least loaded; among equals the seed decides, not the order."""
    fleet = fleet_of({"in_flight": 1}, {}, {})
    names = [f"r{i}" for i in range(40)]
    chosen = {decide(fleet.candidates(MODEL), ask(n, expected_tokens=1.0), 7).chosen for n in names}
    assert chosen == {"mac_1", "mac_2"}
    assert {draw(seed, "r", 5) for seed in range(100)} == set(range(5))


def test_the_window_never_prefers_a_clearly_slower_idle_mac() -> None:
    """Beyond the tie window the score decides, however unequal the load."""
    fast = {"bandwidth_gbs": 800.0, "in_flight": 1, "slots": 4}
    decision = decide(fleet_of({"bandwidth_gbs": 60.0}, fast).candidates(MODEL), ask(), 0)
    assert decision.chosen == "mac_1"
    assert decision.top[1].total_ms is not None
    assert decision.top[0].total_ms is not None
    assert decision.top[1].total_ms - decision.top[0].total_ms > TIE_WINDOW_MS


def test_the_chosen_mac_is_among_those_kept() -> None:
    """A tie-break may choose beyond the best eight; the record still shows the chosen one."""
    busy = {"bandwidth_gbs": 800.0, "prefill_tps": 1e4, "in_flight": 1}
    fleet = fleet_of(*[busy] * 12, {"bandwidth_gbs": 300.0, "prefill_tps": 1e4})
    decision = decide(fleet.candidates(MODEL), ask(expected_tokens=1.0), 0)
    assert decision.chosen == "mac_12"
    assert len(decision.top) == TOP_KEPT
    assert decision.top[-1].machine == "mac_12"


MACS = st.lists(
    st.fixed_dictionaries(
        {
            "in_flight": st.integers(0, 4),
            "slots": st.integers(0, 4),
            "bandwidth_gbs": st.sampled_from([60.0, 100.0, 273.0, 546.0, 800.0]),
            "draining": st.booleans(),
            "fail_rate": st.floats(0, 1),
            "state": st.integers(0, LOST),
        }
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(MACS, st.integers(0, 2**32), st.sets(st.integers(0, 11), max_size=3), st.integers(1, 4))
def test_decision_laws(macs: list[dict[str, float]], seed: int, excluded: set[int], n: int) -> None:
    """Equal input, equal decision; the chosen Mac passes every filter; verdicts add up."""
    candidates = fleet_of(*macs).candidates(MODEL)
    asked = ask(n=n, excluded=tuple(MachineId(f"mac_{i}") for i in sorted(excluded)))

    decision = decide(candidates, asked, seed)
    again = decide(candidates, asked, seed)
    verdicts = {v.machine: v for v in materialise(decision)}

    assert decision.chosen == again.chosen
    assert decision.top == again.top
    assert len(verdicts) == len(macs)
    eligible = {m for m, v in verdicts.items() if v.reason is None}
    assert len(macs) - sum(decision.counts.values()) == len(eligible)
    assert (decision.chosen is None) == (not eligible)
    if decision.chosen is not None:
        assert decision.chosen in eligible
        assert decision.chosen not in asked.excluded
        assert len(decision.top) == min(TOP_KEPT, len(eligible))
        assert decision.chosen in {v.machine for v in decision.top}
        best = min(v.total_ms or 0.0 for v in verdicts.values() if v.reason is None)
        assert decision.top[0].total_ms == pytest.approx(best)
        assert all(set(dict(v.terms_ms)) == set(SCORERS) for v in decision.top)


def test_a_row_is_reused_without_its_past() -> None:
    """A new Mac in an old Mac's row starts blank, and the fleet grows beyond its rows."""
    fleet = fleet_of(*({"in_flight": 3, "failures": 2} for _ in range(40)))
    fleet.remove(MachineId("mac_7"))
    row = fleet.add(MachineId("mac_new"))

    assert all(column[row] == 0 for column in fleet.columns.values())
    assert len(fleet.candidates(MODEL)) == 39
    assert not np.isin("mac_7", fleet.candidates(MODEL).machine)
    assert fleet.models == [MODEL]
