"""Policies that break: each fault costs its own term and is counted, no request waits for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.policy.decision import decide
from market.policy.predictor import Prediction
from market.policy.preferences import Preferences
from market.policy.registry import COSTER, Policy, custom
from market.policy.scorers import SCORERS, View
from market.routing.messages import Busy, Grant
from market.types import MachineId, RequestId
from tests.fleet_kit import FAST, ask, fleet_of, standing
from tests.router_kit import (
    MODEL,
    granted,
    mail,
    outcome,
    provider_beat,
    request,
    route_one,
    settled_router,
)


def raises(error: Exception) -> Callable[[View], Any]:
    def scorer(view: View) -> Any:
        raise error

    return scorer


def _tampers(view: View) -> Any:
    view.candidates["slots"][:] = np.nan
    return view.candidates["slots"]


def _lets_in(view: View) -> Any:
    view.eligible[:] = True
    return np.zeros(view.eligible.shape)


def _writes_to(told: Callable[[View], Any]) -> Callable[[View], Any]:
    """A term that works in place, as `s = predicted.ttft_ms; s += 1` does."""

    def scorer(view: View) -> Any:
        values = told(view)
        values[...] = values[..., ::-1].copy()
        return np.zeros(len(view.eligible))

    return scorer


SHOWN: dict[str, Callable[[View], Any]] = {
    **{
        name: lambda view, name=name: getattr(view.predicted, name)  # type: ignore[misc]
        for name in (
            *(field.name for field in fields(Prediction)),
            *("ttft_ms", "total_ms"),
        )
    },
    "data": lambda view: view.candidates.data,
    "a column": lambda view: view.candidates["in_flight"],
    "cached": lambda view: view.candidates.cached,
    "rows": lambda view: view.candidates.rows,
    "names": lambda view: view.candidates.names,
    "eligible": lambda view: view.eligible,
}
"""Every array that a policy is shown."""


def each(value: Any) -> Callable[[View], Any]:
    return lambda view: [value] * len(view.eligible)


SCORES: dict[str, Callable[[View], Any]] = {
    "raises": raises(ZeroDivisionError("a / 0")),
    "runs out of memory": raises(MemoryError()),
    "stops": raises(StopIteration()),
    "nan": each(math.nan),
    "inf": each(math.inf),
    "minus inf": each(-math.inf),
    "nan for one": lambda view: np.where(np.arange(len(view.eligible)) == 0, np.nan, 1.0),
    "too few": lambda _: np.zeros(1),
    "too many": lambda view: np.zeros(len(view.eligible) + 1),
    "a matrix": lambda view: np.zeros((len(view.eligible), 2)),
    "one number": lambda _: 3.0,
    "nothing": lambda _: None,
    "text": each("fast"),
    "numbers as text": each("1.5"),
    "objects": each(object()),
    "nothings": each(None),
    "complex": each(1 + 2j),
    "huge whole numbers": each(10**400),
    "ragged": lambda view: [[1], [1, 2], [1]],
    "tampers with the fleet": _tampers,
    "lets everyone in": _lets_in,
}
PICKS: dict[str, Callable[[View, Any], Any]] = {
    "raises": lambda _view, _total: 1 // 0,
    "nothing": lambda _view, _total: None,
    "text": lambda _view, _total: "mac_a",
    "a fraction": lambda _view, _total: 1.5,
    "nan": lambda _view, _total: math.nan,
    "an array": lambda _view, total: total,
    "below": lambda _view, _total: -1,
    "far beyond": lambda _view, _total: 10**30,
    "one that may not": lambda view, _total: int(np.flatnonzero(~view.eligible)[0]),
}


def broken(name: str) -> Policy:
    """Ours, with one term or the picker replaced by a plugin's."""
    if name.startswith("pick "):
        return replace(COSTER, name="mine", pick=PICKS[name.removeprefix("pick ")])
    return replace(COSTER, name="mine", scorers={**SCORERS, "mine": SCORES[name]})


NAMES = [*SCORES, *(f"pick {name}" for name in PICKS)]


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_plugin_is_skipped_counted_and_named(name: str) -> None:
    """Requests go where the other terms send them; the fault is in the metrics and in the why."""
    state = settled_router(*(provider_beat(name, slots=9) for name in "abc"))
    state.drain(MachineId("mac_c"), "update")
    state.use_policy(broken(name))
    grants = [granted(state, request(f"r{number}")) for number in range(8)]

    assert {grant.machine for grant in grants} == {"mac_a", "mac_b"}
    assert state.metrics(10.0)["coster_router_policy_faults_total"] == 8.0
    story = state.story(RequestId("r0"))
    assert story is not None
    (fault,) = story["faults"]
    assert fault.startswith("pick" if name.startswith("pick ") else "mine")
    (told,) = [v for v in story["verdicts"] if v["chosen"]]
    assert set(told["terms_ms"]) == set(SCORERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_plugin_leaves_nobody_in_the_queue(name: str) -> None:
    """Who waits is served as soon as there is a slot, and no Mac gets more than it has."""
    state = settled_router(provider_beat("a", slots=1), provider_beat("b", slots=1))
    state.use_policy(broken(name))
    running = [granted(state, request("r1")), granted(state, request("r2"))]
    for number in range(4):
        assert isinstance(route_one(state, request(f"w{number}", queue=True)), Busy)
    served = []
    while running:
        state.report([outcome(running.pop())], 10.5)
        letters = mail(state)
        assert all(isinstance(letter, Grant) for letter in letters)
        running += [letter for letter in letters if isinstance(letter, Grant)]
        served += [letter.request_id for letter in letters]
    assert sorted(served) == ["w0", "w1", "w2", "w3"]


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("wished", [{}, {"sort": "latency"}], ids=["all", "narrowed"])
def test_a_policy_cannot_change_what_it_is_shown(name: str, wished: dict[str, Any]) -> None:
    """Whoever writes to an array in place is told so; predictions, by which the policy and the
    market are measured, stay what they were, and so does the decision.
    """
    fleet = fleet_of({"chip": FAST}, {"in_flight": 2}, {"in_flight": 1})
    asked = ask(preferences=Preferences(**wished))
    scorers: dict[str, Callable[[View], Any]] = {"mine": _writes_to(SHOWN[name]), **SCORERS}

    ours, theirs = (
        decide(fleet.candidates(MODEL), asked, 0, replace(COSTER, scorers=terms))
        for terms in (SCORERS, scorers)
    )

    assert ours.narrowed == (("sort",) if wished else ())
    assert theirs.faults[0].startswith("mine raised ")
    assert (theirs.index, theirs.counts) == (ours.index, ours.counts)
    for field in fields(Prediction):
        told, true = (getattr(each.predicted, field.name) for each in (theirs, ours))
        np.testing.assert_array_equal(told, true)
    np.testing.assert_array_equal(theirs.predicted.ttft_ms, ours.predicted.ttft_ms)
    np.testing.assert_array_equal(theirs.predicted.total_ms, ours.predicted.total_ms)
    np.testing.assert_array_equal(theirs.candidates.data, ours.candidates.data)


def test_what_it_is_shown_cannot_be_unlocked() -> None:
    """What may be chosen, and every column, are views of arrays that are locked themselves."""
    shown: list[Any] = []

    def keeps(view: View) -> Any:
        shown.extend((view.eligible, view.candidates["slots"]))
        return np.zeros(len(view.eligible))

    for wished in ({}, {"sort": "latency"}):
        asked = ask(preferences=Preferences(**wished))  # type: ignore[arg-type]
        fleet = fleet_of({"chip": FAST}, {})
        decide(fleet.candidates(MODEL), asked, 0, custom("mine", keeps))

    for array in shown:
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4),
    st.integers(-3, 6) | st.none() | NUMBERS,
)
def test_whatever_a_policy_says_the_chosen_mac_may_be_chosen(
    terms: list[tuple[float, float, float]], index: Any
) -> None:
    """Any numbers and any choice: the Mac that a hard filter keeps out is never the one."""
    fleet = fleet_of({}, {}, {"standing": standing("quarantined")})
    scorers = {f"t{at}": lambda _, told=told: list(told) for at, told in enumerate(terms)}
    policy = Policy("mine", "a test", scorers, lambda _view, _total: index)
    decision = decide(fleet.candidates(MODEL), ask(), 0, policy)
    assert decision.chosen in {"mac_0", "mac_1"}
    assert np.isfinite(decision.total_ms()[decision.eligible]).all()
    assert decision.counts == {"quarantined": 1}


def test_a_policy_of_nothing_but_nonsense_still_decides() -> None:
    """Without a term left all are equal, and the least loaded is taken."""
    fleet = fleet_of({"in_flight": 2}, {})
    decision = decide(fleet.candidates(MODEL), ask(), 0, custom("mine", each(math.nan)))
    assert decision.chosen is not None
    assert decision.terms == {}
    assert len(decision.faults) == 1
