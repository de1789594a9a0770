"""What an operator is told of a pin is what the next plan makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import InvalidRequest
from market.placement.case import Case
from market.placement.draft import draft_of, unloads_max_of
from market.placement.pins import PINNED_BUT, outlook_of
from market.routing.placing import Placing
from market.settings import PlacementSettings
from market.types import MachineId, ModelId
from tests.placement_kit import LARGE, MIDDLE, SIZES, SMALL, case_of, mac, ready, tables
from tests.unit.test_placement_rules import NAMES, Q27, cases, small_mac


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(0, 5), st.integers(0, 3))
def test_an_outlook_is_what_the_plan_does(case: Case, row: int, column: int) -> None:
    """Said to load, it is in the plan; said to wait or to be impossible, it is refused with just
    these words; impossible only where waiting can never help.
    """
    if not case.tables.machines:
        return
    row %= len(case.tables.machines)
    told = outlook_of(case, (row, column), unloads_max_of(case.tables))
    others = tuple(pin for pin in case.pins if pin != (row, column))
    draft = draft_of(replace(case, pins=(*others, (row, column))))
    asked = (case.tables.machines[row], case.tables.models[column])
    refused = {(r.machine, r.model): r.words for r in draft.refused if PINNED_BUT in r.words}

    there = told.words.startswith(("it loads in", "it is there"))
    assert bool(draft.problem.must[row, column]) >= there
    assert (asked in refused) == (not there)
    if told.possible and not there:
        assert refused[asked] == PINNED_BUT + told.words
    assert told.possible or "needs" in told.words or "does not allow" in told.words


def test_a_pin_that_can_never_be_is_told_with_the_arithmetic() -> None:
    """The model's weights, what it works with, and the Mac's room."""
    told = outlook_of(case_of(tables([small_mac(0)], NAMES)), (0, 3), 1)
    assert not told.possible
    assert told.words == (
        "it needs 45.1 GB (39.7 of weights, 5.4 to work with), and the Mac has room for 22.9 GB"
    )


def test_a_pin_that_waits_is_possible() -> None:
    """A full Mac, a spent hour, a Mac that is being waited for: all of that passes."""
    young = tables([small_mac(0, MIDDLE, since_s=60.0)], NAMES, {MIDDLE: 500.0})
    told = outlook_of(case_of(young), (0, 2), 1)
    assert (told.possible, "minimum residency" in told.words) == (True, True)
    held = tables([mac(0, "M4 Max", 36, standing="held")], NAMES)
    told = outlook_of(case_of(held), (0, 1), 1)
    assert (told.possible, told.words) == (True, "the Mac takes nothing new now")


def test_a_pin_that_pushes_something_out_says_what() -> None:
    """The time it takes to load, and who gives way."""
    told = outlook_of(case_of(tables([small_mac(0, MIDDLE)], NAMES)), (0, 2), 1)
    assert told.possible
    assert told.words.startswith("it loads in ")
    assert told.words.endswith("; qwen3.5-14b gives way")


def test_a_pin_comes_after_those_that_were_asked_for_before() -> None:
    """The hour's one swap is the earlier pin's; the later one waits for its own."""
    gemma, nemo = ModelId("gemma-4-12b"), ModelId("mistral-nemo-12b")
    full = mac(0, "M4 Max", 48, places=ready(MIDDLE, Q27))
    fleet = tables([full], (MIDDLE, Q27, gemma, nemo, SMALL))
    alone = outlook_of(case_of(fleet, swaps_left=1), (0, 3), 9)
    late = outlook_of(case_of(fleet, swaps_left=1, pins=((0, 2),)), (0, 3), 9)
    assert "gives way" in alone.words
    assert (late.possible, "swap" in late.words) == (True, True)


def test_what_is_not_on_offer_or_not_placed_cannot_be_pinned() -> None:
    """Refused at once, naming what there is to pin, or the setting that is off."""
    machine = MachineId("mac_000")
    placing = Placing(PlacementSettings(), (SIZES[SMALL],), 0.0)
    with pytest.raises(InvalidRequest, match=f"it offers {SMALL}"):
        placing.outlook(machine, "mini", LARGE, 0.0)
    assert placing.outlook(machine, "mini", SMALL, 0.0) == "it waits for the first plan"
    off = Placing(PlacementSettings(enabled=False), (SIZES[SMALL],), 0.0)
    with pytest.raises(InvalidRequest, match=r"placement\.enabled is off"):
        off.outlook(machine, "mini", SMALL, 0.0)
