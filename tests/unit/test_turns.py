"""Laws of the wait that is told: near what it turns out to be, also after the work has changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.routing.messages import RouteRequest
from market.routing.state import RouterState
from market.types import AccountId
from tests.router_kit import MODEL, granted, outcome, provider_beat, request, settled_router

SLOTS = 2
SHORT, LONG = 20, 200
WAITING = 6
LONG_TALKER = AccountId("acct_long")


def learned(*, knows_long: bool) -> tuple[RouterState, float]:
    """A Mac on which only short answers were given, and the seconds it takes for a token.

    With `knows_long` one consumer is known to get answers ten times longer.
    """
    state = settled_router(provider_beat("a", slots=SLOTS))
    if knows_long:
        for _ in range(60):
            state._desk.asker.lengths.learn(MODEL, LONG_TALKER, LONG)
    token_s = 0.0
    for number in range(100):
        grant = granted(state, request(f"s{number}", max_tokens=4_000))
        (held,) = state._desk.reservations
        token_s = held.predicted_step_ms / 1e3
        ended = replace(outcome(grant), completion_tokens=SHORT, total_ms=SHORT * token_s * 1e3)
        state.report([ended], 10.0)
    return state, token_s


def filled(state: RouterState) -> None:
    """Every slot is taken by a long answer, and more of them wait."""
    for number in range(SLOTS):
        granted(state, long_one(f"running{number}"))
    for number in range(WAITING):
        state.route([long_one(f"waiting{number}", queue=True)], 10.0)


def long_one(name: str, *, queue: bool = False) -> RouteRequest:
    asked = request(name, queue=queue, max_tokens=4_000, deadline_s=900.0)
    return replace(asked, consumer=LONG_TALKER, prompt_tokens=10)


def told(state: RouterState, now_s: float) -> list[float]:
    (queue,) = state.queue_story(now_s)
    return [entry["predicted_wait_s"] for entry in queue["requests"]]


def true(elapsed_s: float, long_s: float) -> list[float]:
    """When each has its slot in a world where all take as long."""
    return [long_s * (1 + number // SLOTS) - elapsed_s for number in range(WAITING)]


def test_the_wait_is_in_proportion_to_what_those_ahead_ask() -> None:
    """Ten times as long as what was learned, and known to be: told within a factor of two."""
    state, token_s = learned(knows_long=True)
    filled(state)
    for said, was in zip(told(state, 10.0), true(0.0, LONG * token_s), strict=True):
        assert was / 2 <= said <= was * 2


@pytest.mark.parametrize("share", [0.55, 0.65, 0.75])
def test_what_takes_longer_than_expected_makes_the_wait_longer(share: float) -> None:
    """Ten times as long as anybody could know: seen once they have run for half of it."""
    state, token_s = learned(knows_long=False)
    filled(state)
    elapsed_s = share * LONG * token_s
    state.beat_provider(provider_beat("a", slots=SLOTS), 10.0 + elapsed_s)
    true_s = true(elapsed_s, LONG * token_s)
    for said, was in zip(told(state, 10.0 + elapsed_s), true_s, strict=True):
        assert was / 2 <= said <= was * 2


def test_an_overdue_slot_is_not_free_at_once() -> None:
    """Whoever is first in line behind an answer that is late still waits some time."""
    state, token_s = learned(knows_long=False)
    filled(state)
    assert told(state, 10.0 + 3 * SHORT * token_s)[0] > SHORT * token_s
