"""Laws of what is learned from answers that were cut: a lower bound, and never a length."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from market.routing.lengths import FIRST_TOKENS, Lengths
from market.routing.state import RouterState
from market.types import AccountId
from tests.router_kit import MODEL, granted, outcome, provider_beat, request, settled_router

NOW_S = 10.0
ANN, BOB = AccountId("ann"), AccountId("bob")
MOST = 8_000


@pytest.mark.parametrize("consumer", [None, ANN, BOB])
@pytest.mark.parametrize("answers", [0, 1, 40, 400])
@pytest.mark.parametrize("cut", [1, 50, 3_000])
def test_cut_answers_never_lower_what_is_expected(
    consumer: AccountId | None, answers: int, cut: int
) -> None:
    """However many there are, whoever asks, and whatever was known before."""
    lengths, random = Lengths(), Random(answers)
    for _ in range(answers):
        lengths.learn(MODEL, BOB, random.lognormvariate(5.0, 0.9))
    before, _ = lengths.expected(MODEL, consumer, MOST)
    for _ in range(300):
        lengths.learn(MODEL, ANN, cut, cut=True)
        now, _ = lengths.expected(MODEL, consumer, MOST)
        assert now >= before * (1 - 1e-9)


def test_with_half_of_the_answers_cut_the_mean_is_still_known() -> None:
    """Limits drawn from the same law as the lengths hide half of them; the mean is near."""
    random = Random(7)
    means = []
    for _ in range(20):
        lengths = Lengths()
        for _ in range(1_000):
            length, limit = (random.lognormvariate(5.0, 0.7) for _ in range(2))
            lengths.learn(MODEL, None, min(length, limit), cut=limit < length)
        means.append(lengths.expected(MODEL, None, MOST)[0])
    true = 2.718281828 ** (5.0 + 0.7**2 / 2)
    assert sum(means) / len(means) == pytest.approx(true, rel=0.15)


def test_nothing_is_learned_of_a_first_answer_that_was_cut_early() -> None:
    """It says less than what is guessed without it; one that was cut late says more."""
    lengths = Lengths()
    lengths.learn(MODEL, ANN, 1, cut=True)
    assert lengths.expected(MODEL, ANN, MOST)[0] == FIRST_TOKENS
    lengths.learn(MODEL, ANN, 1_000, cut=True)
    assert lengths.expected(MODEL, ANN, MOST)[0] > 5 * FIRST_TOKENS


def test_pings_for_one_token_spoil_nobody_elses_expectation() -> None:
    """What the router expects of others after fifteen of them is what it expected before."""
    state = settled_router(provider_beat("a"))
    for number in range(30):
        ended(state, f"r{number}", 100, 400)
    before = expected(state)
    for number in range(15):
        ended(state, f"ping{number}", 1, 1)
    assert expected(state) >= before * (1 - 1e-9)


def ended(state: RouterState, name: str, tokens: int, limit: int) -> None:
    """A request that said so many tokens and was cut where that was its limit."""
    grant = granted(state, request(name, max_tokens=limit), NOW_S)
    cut = tokens >= limit
    state.report([replace(outcome(grant), completion_tokens=tokens, truncated=cut)], NOW_S)


def expected(state: RouterState) -> float:
    (quote,) = state.quote([request("asked", consumer="acct_other", max_tokens=MOST)], NOW_S)
    return quote.tokens
