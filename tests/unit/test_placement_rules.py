"""Laws of what a plan may change: locks, prices, permits, pins, and what has to leave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.placement.case import (
    FREE,
    IS_HELD,
    IS_LAST,
    IS_LOADING,
    IS_PINNED,
    IS_SPENT,
    IS_YOUNG,
    PATIENCE_S,
    Case,
    locks_of,
    prices_of,
)
from market.placement.draft import FAILED_MACS_MAX, draft_of
from market.placement.finish import with_empty_macs_filled
from market.placement.permits import LOAD_SLOWS_SHARE, Office
from market.placement.shed import shed
from market.placement.tables import FAILED, LEAVING
from market.placement.view import MacView
from market.routing.messages import Place
from market.types import ModelId
from tests.placement_kit import (
    LARGE,
    MIDDLE,
    SMALL,
    case_of,
    mac,
    ready,
    tables,
)

Q27 = ModelId("qwen3.5-27b")
NAMES = (SMALL, MIDDLE, Q27, LARGE)


def small_mac(number: int, *names: ModelId, since_s: float = 5000.0) -> MacView:
    """A Mac with room for one of MIDDLE and Q27, not for both."""
    return mac(number, "M4 Max", 36, places=ready(*names, since_s=since_s))


# ── whatever the fleet ────────────────────────────────────────────────────────────────

STATES = st.sampled_from(["ready", "ready", "ready", "loading", "leaving", "failed"])
STANDINGS = st.sampled_from(["open", "open", "open", "held", "away"])
ALLOWED = st.sampled_from([None, None, NAMES[:2], (Q27,)])
MACS = st.sampled_from([("M4 Max", 36), ("M2 Ultra", 192), ("M1", 16), ("M3 Max", 64)])
SOME = st.sampled_from(NAMES)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Macs in any condition, with any demand, pins and prices paid."""
    macs = []
    for number in range(draw(st.integers(1, 6))):
        chip, memory_gb = draw(MACS)
        names = draw(st.lists(SOME, unique=True, max_size=4))
        places = [Place(name, draw(STATES), since_s=draw(st.integers(0, 2000))) for name in names]
        standing, allowed = draw(STANDINGS), draw(ALLOWED)
        macs.append(mac(number, chip, memory_gb, places=places, standing=standing, allowed=allowed))
    asked = draw(st.dictionaries(SOME, st.integers(0, 3000)))
    waiting = draw(st.dictionaries(SOME, st.integers(0, 50)))
    fleet = tables(macs, NAMES, asked, waiting)
    fleet = shed(fleet, np.zeros(fleet.place.shape, dtype=bool))
    rows = list(range(len(fleet.machines)))
    pin = st.tuples(st.sampled_from(rows or [0]), st.integers(0, 3))
    return case_of(
        fleet,
        paid=draw(st.dictionaries(SOME, st.integers(0, 10**8))),
        pins=tuple(draw(st.lists(pin, unique=True, max_size=3))) if rows else (),
        swaps_left=draw(st.integers(0, 3)),
        failed=tuple((int(row), int(column)) for row, column in np.argwhere(fleet.place == FAILED)),
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_whatever_the_fleet_a_plan_can_keep_every_rule(case: Case) -> None:
    """Doing only what pins ask is always possible; what is locked stays; what is new may be there.

    No copy that is young, pinned, loading, held, spent or waited for is up for change. A new place
    is on an open Mac that allows the model, can hold it and did not fail it.
    """
    seen, problem, locks = case.tables, draft_of(case).problem, locks_of(case)

    assert list(problem.broken(problem.start)) == []
    assert not (problem.must & ~problem.may).any()
    assert not (problem.must & ~problem.start).any()
    assert not ((locks != FREE) & seen.here & ~problem.must).any()
    new = problem.may & ~seen.here
    assert not (new & ~(seen.open[:, None] & seen.fits & ~case.failed)).any()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_no_model_gives_way_to_one_that_has_not_paid(case: Case) -> None:
    """A place that others would have to make is open only if its price has been paid."""
    permits = Office(case).permits()

    for (row, column), quote in permits.quotes.items():
        if permits.granted[row, column] and quote.leaving:
            assert case.paid[column] >= quote.price
            assert len(quote.leaving) <= case.swaps_left[row]
            assert all(permits.locks[row, other] == FREE for other in quote.leaving)


# ── locks ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lock", "macs", "waiting", "more"),
    [
        (IS_LOADING, [mac(0, places=[Place(SMALL, "loading")])], {}, {}),
        (IS_HELD, [mac(0, places=ready(SMALL), standing="held")], {}, {}),
        (IS_PINNED, [mac(0, places=ready(SMALL))], {}, {"pins": ((0, 0),)}),
        (IS_YOUNG, [mac(0, places=ready(SMALL, since_s=599.0))], {}, {}),
        (FREE, [mac(0, places=ready(SMALL, since_s=601.0))], {}, {}),
        (IS_LAST, [mac(0, places=ready(SMALL))], {SMALL: 1}, {}),
        (IS_SPENT, [mac(0, places=ready(SMALL))], {}, {"swaps_left": 0}),
    ],
)
def test_each_lock_holds_for_its_reason(
    lock: int, macs: list[MacView], waiting: dict[ModelId, int], more: dict[str, object]
) -> None:
    """A copy with one reason to stay is locked for exactly that reason."""
    case = case_of(tables(macs, NAMES, {SMALL: 100.0}, waiting), **more)  # type: ignore[arg-type]

    assert locks_of(case)[0, 0] == lock


def test_a_model_nobody_asked_for_since_it_came_is_not_protected_by_its_youth() -> None:
    """The residency keeps demand from flapping; a copy that never served is no demand."""
    fleet = tables([mac(0, places=ready(SMALL, since_s=5.0))], NAMES)

    assert locks_of(case_of(fleet))[0, 0] == FREE


def test_only_one_copy_of_a_model_is_kept_for_those_who_wait() -> None:
    """The fastest ready copy stays; another may move."""
    macs = [mac(0, "M1 Max", 64, places=ready(SMALL)), mac(1, places=ready(SMALL))]
    locks = locks_of(case_of(tables(macs, NAMES, {SMALL: 1.0}, {SMALL: 5})))

    assert locks[:, 0].tolist() == [FREE, IS_LAST]


# ── prices ────────────────────────────────────────────────────────────────────────────


def test_a_copy_that_others_can_stand_in_for_costs_nothing() -> None:
    """Two copies for what one does: either may go. With demand for both, either has its price."""
    macs = [small_mac(0, MIDDLE), small_mac(1, MIDDLE)]

    assert prices_of(case_of(tables(macs, NAMES, {MIDDLE: 100.0})))[:, 1].tolist() == [0.0, 0.0]
    assert (prices_of(case_of(tables(macs, NAMES, {MIDDLE: 900.0})))[:, 1] > 0).all()


def test_the_last_copy_costs_its_demand_for_as_long_as_it_stays_out() -> None:
    """What goes unserved until the successor's residency is over, at what each refusal costs."""
    case = case_of(tables([small_mac(0, MIDDLE)], NAMES, {MIDDLE: 100.0}))

    expected = 130.0 * case.settings.residency_s * PATIENCE_S
    assert prices_of(case)[0, 1] == pytest.approx(expected)


def test_a_copy_that_fits_elsewhere_costs_only_the_move() -> None:
    """With room on another Mac the model is out only while it loads there."""
    alone = case_of(tables([small_mac(0, MIDDLE)], NAMES, {MIDDLE: 100.0}))
    beside = case_of(tables([small_mac(0, MIDDLE), small_mac(1)], NAMES, {MIDDLE: 100.0}))

    assert 0 < prices_of(beside)[0, 1] < prices_of(alone)[0, 1] / 100


# ── permits ───────────────────────────────────────────────────────────────────────────


def granted(case: Case, row: int, model: ModelId) -> bool:
    return bool(Office(case).permits().granted[row, NAMES.index(model)])


@pytest.mark.parametrize(("share", "expected"), [(0.99, False), (1.01, True)])
def test_a_load_is_bought_only_when_its_price_has_been_paid(share: float, expected: bool) -> None:
    """Ski rental: below the price nothing gives way, above it the place is open."""
    fleet = tables([small_mac(0, MIDDLE)], NAMES, {MIDDLE: 100.0}, {Q27: 3})
    price = Office(case_of(fleet)).quote(0, 2).price

    assert price > 0
    assert granted(case_of(fleet, paid={Q27: share * price}), 0, Q27) is expected


def test_a_cold_model_that_is_waited_for_gets_free_room_at_once() -> None:
    """Where nothing has to give way the first copy costs nothing, however busy the Mac is."""
    fleet = tables([mac(0, places=ready(SMALL))], NAMES, {SMALL: 700.0}, {MIDDLE: 1})

    assert granted(case_of(fleet), 0, MIDDLE)


def test_a_further_copy_pays_for_what_it_holds_up() -> None:
    """On a busy Mac it waits for its price; on an idle one it is free."""
    busy = [mac(0, places=ready(SMALL)), mac(1, places=ready(MIDDLE))]
    case = case_of(tables(busy, NAMES, {SMALL: 700.0, MIDDLE: 700.0}, {MIDDLE: 9}))
    quote = Office(case).quote(0, 1)

    held_up = LOAD_SLOWS_SHARE * quote.load_s**2 * case.tables.busy[0].sum()
    assert quote.price == pytest.approx(held_up)
    assert not granted(case, 0, MIDDLE)
    idle = case_of(tables(busy, NAMES, {MIDDLE: 700.0}, {MIDDLE: 9}))
    assert granted(idle, 0, MIDDLE)


def test_two_idle_models_do_not_push_each_other_out() -> None:
    """A model that nobody waits for does not take the place of another's only copy."""
    fleet = tables([small_mac(0, MIDDLE)], NAMES)

    assert not granted(case_of(fleet), 0, Q27)
    assert granted(case_of(tables([small_mac(0, MIDDLE)], NAMES, {}, {Q27: 1})), 0, Q27)


def test_copies_to_spare_give_way_to_a_first_copy() -> None:
    """Each model is kept once before any is kept twice for nothing."""
    macs = [small_mac(0, MIDDLE), small_mac(1, MIDDLE)]

    assert granted(case_of(tables(macs, NAMES)), 0, Q27)


@pytest.mark.parametrize(
    ("row", "model", "words"),
    [
        (0, LARGE, "needs 45.1 GB, has room for 22.9 GB"),
        (1, SMALL, "its owner does not allow it"),
        (2, SMALL, "it takes nothing new now"),
        (3, SMALL, "loading it there failed"),
    ],
)
def test_what_is_impossible_says_why(row: int, model: ModelId, words: str) -> None:
    """Each barrier names itself, with its numbers."""
    macs = [
        small_mac(0),
        mac(1, allowed=(MIDDLE,)),
        mac(2, standing="held"),
        mac(3),
    ]
    case = case_of(tables(macs, NAMES, {}, {SMALL: 1}), failed=((3, 0),))
    quote = Office(case).quote(row, NAMES.index(model))

    assert quote.barrier == words
    assert not granted(case, row, model)


def test_a_model_that_fails_on_several_macs_is_not_tried_on_the_rest() -> None:
    """It may kill what loads it: after three failures the others are spared, and told so."""
    macs = [mac(number) for number in range(FAILED_MACS_MAX + 1)]
    failed = tuple((row, 0) for row in range(FAILED_MACS_MAX))
    draft = draft_of(case_of(tables(macs, NAMES, {}, {SMALL: 9}), failed=failed))

    assert not draft.problem.may[:, 0].any()
    assert any(r.model == SMALL and "could not be loaded" in r.words for r in draft.refused)


# ── pins ──────────────────────────────────────────────────────────────────────────────


def test_a_pin_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    """The refusal adds up: weights, working memory, what is pinned already, the room."""
    case = case_of(tables([small_mac(0)], NAMES), pins=((0, 1), (0, 2), (0, 3)))
    draft = draft_of(case)

    assert draft.problem.must[0].tolist() == [False, True, False, False]
    beside, alone = (refusal.words for refusal in draft.refused[:2])
    assert beside == (
        "pinned, but it needs 16.2 GB (15.1 of weights, 1.1 to work with) and 9.4 GB are pinned "
        "for qwen3.5-14b, and the Mac has room for 22.9 GB"
    )
    assert "needs 45.1 GB" in alone


def test_a_pin_pushes_out_what_is_not_pinned_and_waits_for_what_is_locked() -> None:
    """It does not wait for a price; it does wait for a residency to end."""
    old = case_of(tables([small_mac(0, MIDDLE)], NAMES, {MIDDLE: 500.0}), pins=((0, 2),))
    young = small_mac(0, MIDDLE, since_s=60.0)
    early = draft_of(case_of(tables([young], NAMES, {MIDDLE: 500.0}), pins=((0, 2),)))

    assert draft_of(old).problem.must[0].tolist() == [False, False, True, False]
    assert early.problem.must[0].tolist() == [False, True, False, False]
    assert early.refused[0].words == (
        "pinned, but it waits for room: qwen3.5-14b has not been here for the minimum residency"
    )


def test_a_pin_waits_for_a_swap_to_be_left() -> None:
    """The hour's swaps bind the operator's wish as everything else."""
    fleet = tables([small_mac(0, MIDDLE)], NAMES)
    draft = draft_of(case_of(fleet, pins=((0, 2),), swaps_left=0))

    assert draft.problem.must[0, 1]
    assert not draft.problem.must[0, 2]
    assert "has made its swaps of the hour" in draft.refused[0].words


def test_several_pins_share_the_swaps_that_are_left() -> None:
    """Each pin takes its swaps from the same budget; the one that finds none left waits."""
    one = mac(0, "M4 Max", 48, places=ready(MIDDLE, Q27))
    gemma, nemo = ModelId("gemma-4-12b"), ModelId("mistral-nemo-12b")
    fleet = tables([one], (MIDDLE, Q27, gemma, nemo, SMALL))
    draft = draft_of(case_of(fleet, pins=((0, 2), (0, 3), (0, 4)), swaps_left=1))

    assert list(draft.problem.broken(draft.problem.start)) == []
    assert (fleet.here & ~draft.problem.start).sum() <= 1
    assert any("has made those of the hour" in refusal.words for refusal in draft.refused)


# ── empty Macs ────────────────────────────────────────────────────────────────────────


def test_empty_macs_are_shared_out_by_what_is_asked() -> None:
    """A model asked for three times as much gets three times the Macs that have nothing."""
    macs = [mac(0, places=ready(SMALL)), mac(1, places=ready(MIDDLE))]
    macs += [mac(number, "M4", 24) for number in range(2, 8)]
    fleet = tables(macs, (SMALL, MIDDLE))
    rates = fleet.rate.max(axis=0)
    fleet = tables(macs, (SMALL, MIDDLE), {SMALL: 3 * rates[0], MIDDLE: rates[1]})
    problem = draft_of(case_of(fleet)).problem
    filled = with_empty_macs_filled(problem, problem.start)

    assert filled.any(axis=1).all()
    assert filled.sum(axis=0).tolist() == [6, 2]
    assert list(problem.broken(filled)) == []


def test_no_mac_is_filled_with_a_model_that_has_not_shown_that_it_loads() -> None:
    """While the first copy loads the other Macs wait for it."""
    macs = [mac(0, places=[Place(SMALL, "loading")]), mac(1), mac(2)]
    problem = draft_of(case_of(tables(macs, (SMALL,)))).problem

    assert np.array_equal(with_empty_macs_filled(problem, problem.start), problem.start)


# ── what has to leave ─────────────────────────────────────────────────────────────────


def test_what_an_owner_forbids_leaves() -> None:
    """Taken off the allow-list, a model leaves, whether it is busy or not."""
    one = mac(0, places=ready(SMALL, MIDDLE), allowed=(MIDDLE,))
    fleet = shed(tables([one], NAMES, {SMALL: 500.0}), np.zeros((1, 4), dtype=bool))

    assert fleet.place[0].tolist() == [LEAVING, 2, 0, 0]
    assert not draft_of(case_of(fleet)).problem.may[0, 0]


def test_too_much_for_a_mac_is_shed_the_least_busy_first() -> None:
    """When a Mac's memory shrinks, the busy model and the pinned one stay."""
    one = small_mac(0, MIDDLE, Q27)
    asked, none = {Q27: 100.0}, np.zeros((1, 4), dtype=bool)
    pinned = none.copy()
    pinned[0, 1] = True

    assert shed(tables([one], NAMES, asked), none).shed[0].tolist() == [False, True, False, False]
    assert shed(tables([one], NAMES, asked), pinned).shed[0].tolist() == [False, False, True, False]


def test_a_model_alone_on_its_mac_stays_though_our_sum_says_it_cannot() -> None:
    """It runs, so it fits: only the working memory that we would like is missing."""
    one = mac(0, "M4 Max", 36, places=ready(LARGE))
    fleet = shed(tables([one], NAMES), np.zeros((1, 4), dtype=bool))

    assert not fleet.shed.any()
    problem = draft_of(case_of(fleet)).problem
    assert list(problem.broken(problem.start)) == []


def test_nonsense_from_a_mac_is_not_believed() -> None:
    """Infinite speeds, negative memory and no numbers at all give rates that can be planned."""
    nan, inf = float("nan"), float("inf")
    macs = [
        MacView(one.machine, one.hardware, memory, "open", (), None, 8, speed, ((SMALL, slow),))
        for one, memory, speed, slow in (
            (mac(0), -5, -1.0, nan),
            (mac(1), 0, nan, inf),
            (mac(2), 10**15, 1e300, -3.0),
        )
    ]
    fleet = tables(macs, NAMES, {SMALL: 10.0}, {SMALL: 2})

    assert np.isfinite(fleet.rate).all()
    assert (fleet.rate > 0).all()
    assert np.isfinite(fleet.load_s).all()
    assert (fleet.load_s > 0).all()
    assert fleet.room[:2].tolist() == [0.0, 0.0]
    problem = draft_of(case_of(fleet)).problem
    assert list(problem.broken(problem.start)) == []
