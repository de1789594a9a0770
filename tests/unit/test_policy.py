"""Laws of a single routing decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.policy.ask import SUSPECT_AFTER_S, Ask
from market.policy.candidates import pack, unpack
from market.policy.columns import MAC_COLUMNS, PLACES
from market.policy.decision import TOP_KEPT, best, decide, materialise
from market.policy.filters import FILTERS, SLOWER_THAN_ALONE, SLOWEST_STEP_MS
from market.policy.fleet import Load
from market.policy.picker import EXPLORE_SHARE_BATCH, TIE_WINDOW_MS, draw
from market.policy.predictor import predict, table_step_ms
from market.policy.rates import KNOTS, rates_of
from market.policy.registry import COSTER, POLICIES, custom, oracle, policy_named, without
from market.policy.scorers import SCORERS, View
from market.types import AccountId, Hardware, MachineId, ProviderId, RequestId
from tests.fleet_kit import FAST, SLOW, ask, busy, choose, fleet_of, standing, wish
from tests.router_kit import FACTS, MODEL

# ── filters ───────────────────────────────────────────────────────────────────────────


OTHER = (ProviderId("prv_other"),)
REASONS: list[tuple[str, dict[str, float | str], dict[str, object]]] = [
    ("excluded", {}, {"excluded": (MachineId("mac_0"),)}),
    ("digest", {}, {"digest": 99}),
    ("context", {}, {"max_tokens": 9000}),
    ("memory", {"memory_bytes": 4_000_000_100}, {}),
    ("not_only", {}, wish(only=OTHER)),
    ("ignored", {}, wish(ignore=(ProviderId("prv_0"),))),
    ("not_in_order", {}, wish(order=OTHER, allow_fallbacks=False)),
    ("not_own", {}, wish(own="self", own_machines=(MachineId("mac_9"),))),
    ("trust", {}, wish(trust="verified")),
    ("quantization", {}, {**wish(quantizations=("8bit",)), "quantizations": (77,)}),
    ("max_price", {}, wish(max_price_in_nano=99)),
    ("max_price", {"ask_pct": 90.0}, wish(max_price_out_nano=719)),
    ("stopped", {"standing": standing("stopped")}, {}),
    ("draining", {"standing": standing("draining")}, {}),
    ("quarantined", {"standing": standing("quarantined")}, {}),
    ("lost", {"standing": standing("lost")}, {}),
    ("failing", {"standing": standing("failing")}, {}),
    ("starting", {"standing": standing("starting")}, {}),
    ("load_failed", {"place": float(PLACES.index("failed"))}, {}),
    ("loading", {"place": float(PLACES.index("loading"))}, {}),
    ("leaving", {"place": float(PLACES.index("leaving"))}, {}),
    ("suspect", {}, {"now_s": SUSPECT_AFTER_S + 0.1}),
    ("cooling_down", {"cooling_until_s": 2.0}, {}),
    ("cooling_down", {"cooling_until_s": 0.5, "in_flight": 1}, {}),
    ("collecting", {"collecting": 1.0}, {}),
    ("capped", {"cap": 2.0, "in_flight": 2.0}, {}),
    ("memory_busy", {"memory_bytes": 4_050_000_000, "kv_reserved_bytes": 40_000_000}, {}),
    ("no_slot", {"in_flight": 4}, {}),
    ("no_slot", {"reported": 4}, {"rebuilding": True}),
    ("slow", {"in_flight": 1, "busy_ms": 500.0}, {}),
]


@pytest.mark.parametrize(("reason", "columns", "asked"), REASONS)
def test_each_filter_rules_out_with_its_name(
    reason: str, columns: dict[str, float | str], asked: dict[str, object]
) -> None:
    """A Mac with one thing wrong is ruled out for exactly that reason."""
    decision = choose(fleet_of(columns), **asked)
    kind = next(rule.kind for rule in FILTERS if rule.name == reason)

    assert decision.chosen is None
    assert decision.counts == {reason: 1}
    assert decision.hopeless == (kind != "passing")
    assert decision.unwanted == (kind == "wish")
    assert [v.reason for v in materialise(decision)] == [reason]


def test_only_a_mac_that_has_something_to_do_is_too_slow() -> None:
    """However slow it is, an idle Mac takes an answer; and what can wait may be slow."""
    slow = {"scale_step": 50.0}
    assert choose(fleet_of(slow)).chosen == "mac_0"
    assert choose(fleet_of({**slow, "in_flight": 1, "busy_ms": 9e3})).counts == {"slow": 1}
    busy_for_days = {"in_flight": 3, "busy_ms": 9e3}
    assert choose(fleet_of(busy_for_days), request_class="batch").chosen == "mac_0"


def test_a_mac_that_is_slow_alone_still_gets_a_small_batch() -> None:
    """Where one answer alone comes slowly, a second beside it costs nobody half as much again."""
    fleet = fleet_of({"scale_step": 50.0})
    alone_ms = float(choose(fleet).predicted.step_ms[0])
    busy(fleet, 0, 1)
    both = choose(fleet)
    assert alone_ms > SLOWEST_STEP_MS
    assert both.chosen == "mac_0"
    assert both.predicted.step_ms[0] <= SLOWER_THAN_ALONE * alone_ms


def test_every_filter_has_a_case() -> None:
    """A filter nobody shows to rule anything out would be untested."""
    assert {rule.name for rule in FILTERS} == {reason for reason, _, _ in REASONS}


def test_the_words_count_each_reason() -> None:
    """The summary names how many Macs can take the request and why others cannot."""
    draining: dict[str, float | str] = {"standing": standing("draining")}
    fleet = fleet_of(draining, draining, {"standing": standing("starting")})
    fleet.add(MachineId("mac_x"), ProviderId("prv_x"), AccountId("a"))
    words = choose(fleet).in_words()
    assert words == (
        "0 of 3 Macs can take this now: 2 draining, 1 starting; 1 more without the model"
    )


def test_a_probing_mac_takes_one_request_at_a_time() -> None:
    """After its cool-down a Mac without work may be tried."""
    assert choose(fleet_of({"cooling_until_s": 0.5})).chosen == "mac_0"


def test_an_idle_mac_is_never_capped_and_a_cap_grows_back() -> None:
    """A Mac that once refused gets one request at once, and a slot more each clean minute."""
    assert choose(fleet_of({"cap": 1.0})).chosen == "mac_0"
    capped = fleet_of({"cap": 2.0, "in_flight": 2.0, "last_beat_s": 61.0})
    assert choose(capped, now_s=59.0).chosen is None
    assert choose(capped, now_s=61.0).chosen == "mac_0"


# ── prediction ────────────────────────────────────────────────────────────────────────


def test_the_faster_mac_is_chosen_until_its_load_makes_it_slower() -> None:
    """A faster Mac gets work first, but not all of it."""
    fleet = fleet_of({"chip": "M3 Max", "slots": 64}, {"chip": "M3 Pro", "slots": 64})
    chosen = []
    for number in range(24):
        decision = choose(fleet, f"r{number}")
        assert decision.chosen is not None
        fleet.add_load(decision.chosen, MODEL, Load(1, 150.0, 100.0, 0.0), 1)
        chosen.append(decision.chosen)

    assert chosen[0] == "mac_0"
    assert chosen.count(MachineId("mac_0")) > chosen.count(MachineId("mac_1")) > 0


def test_a_measured_mac_is_believed_over_its_table() -> None:
    """A Mac that measures half the table's speed is predicted to take twice as long."""
    fleet = fleet_of({}, {"scale_step": 2.0})
    predicted = predict(fleet.candidates(MODEL), ask())
    assert predicted.step_ms[1] == pytest.approx(2 * predicted.step_ms[0])


def test_a_mac_that_runs_another_model_is_slower() -> None:
    """Models of one Mac share its GPU: a step of each waits for a step of the others."""
    fleet = fleet_of({}, {"busy_ms": 40.0})
    predicted = predict(fleet.candidates(MODEL), ask())
    assert predicted.step_ms[1] == pytest.approx(predicted.step_ms[0] + 40.0)


def test_prompts_granted_before_are_read_first() -> None:
    """The first token waits for the prompts that were granted a moment ago."""
    fleet = fleet_of({}, {"prefill_until_s": 3.5})
    predicted = predict(fleet.candidates(MODEL), ask())
    assert list(predicted.wait_ms) == [0.0, 2500.0]


def test_what_was_read_before_is_not_read_again() -> None:
    """A Mac that holds the beginning of the prompt wins, until its load costs more than that."""
    fleet = fleet_of({}, {})
    asked = ask(prompt_tokens=6000)
    cached = replace(fleet.candidates(MODEL), cached=np.array([0.0, 5900.0]))
    assert decide(cached, asked, 0).chosen == "mac_1"
    busy(fleet, 1, 3)
    full = replace(fleet.candidates(MODEL), cached=np.array([0.0, 200.0]))
    assert decide(full, asked, 0).chosen == "mac_0"


@given(st.lists(st.floats(0.1, 100.0), min_size=6, max_size=6), st.floats(1, 60), st.floats(1, 60))
def test_interpolation_is_monotone_and_meets_the_table(
    steps: list[float], a: float, b: float
) -> None:
    """More sequences never make a step shorter, and at its knots the table is exact."""
    fleet = fleet_of({})
    rates = replace(rates_of(Hardware(SLOW, 8, 0, 8, 0.0), FACTS), steps_ms=tuple(sorted(steps)))
    fleet.set_place(MachineId("mac_0"), MODEL, 1, rates, FACTS)
    candidates = fleet.candidates(MODEL)
    low, high = sorted((a, b))
    at_low, at_high = (float(table_step_ms(candidates, np.array([x]))[0]) for x in (low, high))
    assert at_low <= at_high + 1e-9
    assert at_low == pytest.approx(rates.step_ms(low))
    for knot, step_ms in zip(KNOTS, rates.steps_ms, strict=True):
        assert rates.step_ms(knot) == pytest.approx(step_ms)


# ── picking ───────────────────────────────────────────────────────────────────────────


def test_equal_macs_share_ties_by_load_and_then_by_seed() -> None:
    """Near-ties go to the least loaded; among equals the seed decides, not the order."""
    fleet = fleet_of({"in_flight": 1}, {}, {})
    chosen = {choose(fleet, f"r{i}", 7, expected_tokens=1.0).chosen for i in range(40)}
    assert chosen == {"mac_1", "mac_2"}
    assert {draw(seed, "r", 5) for seed in range(100)} == set(range(5))


def test_the_window_never_prefers_a_clearly_slower_idle_mac() -> None:
    """Beyond the tie window the score decides, however unequal the load."""
    fleet = fleet_of({"chip": "M1"}, {"chip": "M2 Ultra"})
    busy(fleet, 1, 1)
    decision = choose(fleet)
    kept = best(decision)
    assert decision.chosen == "mac_1"
    assert (kept[1].total_ms or 0.0) - (kept[0].total_ms or 0.0) > TIE_WINDOW_MS


def test_the_chosen_mac_is_among_those_kept() -> None:
    """A tie-break may choose beyond the best eight; the record still shows the chosen one."""
    fast: dict[str, float | str] = {"chip": "M2 Ultra", "in_flight": 1, "slots": 8}
    fleet = fleet_of(*[fast] * 12, {"chip": "M2 Ultra", "slots": 8, "scale_step": 3.0})
    decision = choose(fleet, prompt_tokens=1, expected_tokens=1.0)
    kept = best(decision)
    assert decision.chosen == "mac_12"
    assert len(kept) == TOP_KEPT
    assert kept[-1].machine == "mac_12"


def test_little_known_macs_get_a_small_share() -> None:
    """About one request in fifty of those that may explores; none where it takes too long."""
    fleet = fleet_of({"chip": FAST}, {"chip": "M3 Max", "seen": 0.0}, {"chip": "M1", "seen": 0.0})
    names = [f"r{i}" for i in range(4000)]
    seen = [choose(fleet, n, request_class="batch").chosen for n in names]
    share = seen.count(MachineId("mac_1")) / len(names)
    assert EXPLORE_SHARE_BATCH / 2 < share < EXPLORE_SHARE_BATCH * 2
    assert MachineId("mac_2") not in seen


# ── the whole ─────────────────────────────────────────────────────────────────────────

MACS = st.lists(
    st.fixed_dictionaries(
        {
            "in_flight": st.integers(0, 4),
            "slots": st.integers(0, 4),
            "chip": st.sampled_from(["M1", "M2 Pro", "M3 Ultra", "M4 Max"]),
            "fail_rate": st.floats(0, 1),
            "standing": st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6]),
            "place": st.sampled_from([0, 0, 0, 1, 2, 3]),
            "ask_pct": st.integers(1, 100),
            "seen": st.sampled_from([0, 20]),
        }
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(
    MACS,
    st.integers(0, 2**32),
    st.sets(st.integers(0, 11), max_size=3),
    st.integers(1, 4),
    st.sampled_from(sorted(POLICIES)),
)
def test_decision_laws(
    macs: list[dict[str, float | str]], seed: int, excluded: set[int], n: int, name: str
) -> None:
    """Under every policy: equal input, equal decision, also from a stored snapshot; the chosen
    Mac passes every filter; verdicts add up and name each Mac once.
    """
    candidates = fleet_of(*macs).candidates(MODEL)
    asked = ask(n=n, excluded=tuple(MachineId(f"mac_{i}") for i in sorted(excluded)))
    policy = POLICIES[name]

    decision = decide(candidates, asked, seed, policy)
    again = decide(unpack(pack(candidates)), asked, seed, policy)
    verdicts = {v.machine: v for v in materialise(decision)}

    assert decision.chosen == again.chosen
    assert best(decision) == best(again)
    assert decision.faults == ()
    assert len(verdicts) == len(macs)
    eligible = {m for m, v in verdicts.items() if v.reason is None}
    assert len(macs) - sum(decision.counts.values()) == len(eligible)
    assert (decision.chosen is None) == (not eligible)
    for verdict in verdicts.values():
        if verdict.total_ms is not None:
            assert verdict.total_ms == pytest.approx(sum(ms for _, ms in verdict.terms_ms))
    if decision.chosen is not None:
        assert decision.chosen in eligible
        assert decision.chosen not in asked.excluded
        assert len(best(decision)) == min(TOP_KEPT, len(eligible))
        assert decision.chosen in {v.machine for v in best(decision)}
        lowest = min(v.total_ms or 0.0 for v in verdicts.values() if v.reason is None)
        assert best(decision)[0].total_ms == pytest.approx(lowest)
        assert all(set(dict(v.terms_ms)) == set(policy.scorers) for v in best(decision))


@settings(max_examples=40, deadline=None)
@given(MACS, st.randoms(use_true_random=False))
def test_the_order_of_macs_does_not_matter(
    macs: list[dict[str, float | str]], random: object
) -> None:
    """Macs that came in another order are scored alike."""
    order = list(range(len(macs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain, mixed = fleet_of(*macs), fleet_of(*(macs[i] for i in order))
    scores = [v.total_ms for v in materialise(choose(plain))]
    shuffled = [v.total_ms for v in materialise(choose(mixed))]
    assert [scores[i] for i in order] == pytest.approx(shuffled, nan_ok=True)


def test_a_term_that_fails_or_is_no_number_is_left_out_and_named() -> None:
    """A plugin's fault costs its own term, never the request."""

    def raises(view: View) -> np.ndarray:
        raise ZeroDivisionError

    fleet = fleet_of({}, {})
    broken = {
        "raises": raises,
        "nan": lambda v: v.candidates["slots"] * np.nan,
        "short": lambda _: np.zeros(1),
    }
    policy = replace(COSTER, scorers={**SCORERS, **broken}, pick=lambda _view, _total: 7)
    decision = decide(fleet.candidates(MODEL), ask(), 0, policy)
    assert decision.chosen in {"mac_0", "mac_1"}
    assert set(decision.terms) == set(SCORERS)
    named = sorted(fault.split()[0] for fault in decision.faults)
    assert named == ["nan", "pick", "raises", "short"]


def test_a_policy_of_ones_own_is_one_function() -> None:
    """`custom` takes a function from what a decision sees to a score for each Mac."""
    mine = custom("mine", lambda view: -view.candidates["slots"])
    fleet = fleet_of({"slots": 2}, {"slots": 9}, {"slots": 3})
    assert decide(fleet.candidates(MODEL), ask(), 0, mine).chosen == "mac_1"


def test_leaving_a_term_out_leaves_the_others() -> None:
    """Each term can be taken away by name, to see what it is worth."""
    assert policy_named("coster-price").scorers.keys() == SCORERS.keys() - {"price"}
    assert without("risk").pick is COSTER.pick


def test_the_oracle_sees_true_lengths_and_others_cannot() -> None:
    """The true length enters only through a policy that was given it."""
    fleet = fleet_of({"chip": "M1", "prefill_until_s": 0.0}, {"chip": FAST, "prefill_until_s": 2.5})
    long, short = RequestId("long"), RequestId("short")
    knowing = oracle({long: 5000, short: 1})
    candidates = fleet.candidates(MODEL)
    assert decide(candidates, ask("long"), 0, knowing).chosen == "mac_1"
    assert decide(candidates, ask("short"), 0, knowing).chosen == "mac_0"
    assert not any("true" in name for name in Ask.__dataclass_fields__)


def test_a_row_is_reused_without_its_past() -> None:
    """A new Mac in an old Mac's row starts blank, and the fleet grows beyond its rows."""
    many: dict[str, float | str] = {"in_flight": 3, "failures": 2}
    fleet = fleet_of(*[many] * 40)
    fleet.remove(MachineId("mac_7"))
    fleet.add(MachineId("mac_new"), ProviderId("prv_new"), AccountId("a"))

    started = {name: fleet.get(MachineId("mac_new"), name) for name in MAC_COLUMNS}
    assert {name for name, value in started.items() if value} == {"ask_pct"}
    assert len(fleet.candidates(MODEL)) == 39
    assert fleet.candidates(MODEL).index_of(MachineId("mac_7")) is None
    assert fleet.models == [MODEL]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 400)), max_size=12), st.randoms())
def test_loads_come_and_go_without_a_trace(loads: list[tuple[int, int]], random: object) -> None:
    """After the last request has ended, a Mac is as if it had never had one."""
    fleet = fleet_of({"memory_bytes": 6e9})
    machine = MachineId("mac_0")
    before = predict(fleet.candidates(MODEL), ask()).total_ms[0]
    granted = [Load(slots, tokens, tokens / 2, tokens * 1e5) for slots, tokens in loads]
    for load in granted:
        fleet.add_load(machine, MODEL, load, 1)
    random.shuffle(granted)  # type: ignore[attr-defined]
    for load in granted:
        fleet.add_load(machine, MODEL, load, -1)
    assert fleet.get(machine, "in_flight") == fleet.place(machine, MODEL, "running") == 0
    assert fleet.get(machine, "busy_ms") == pytest.approx(0.0, abs=1e-6)
    assert predict(fleet.candidates(MODEL), ask()).total_ms[0] == pytest.approx(before)
