"""How tokens are drawn: penalties to the digit, filters by what they rule out, chances by count."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from actors.engines.mlx.runtime import import_mlx
from actors.engines.mlx.sampling import processors_for, sampler_for
from market.types import Sampling

SCORES = (2.0, 1.0, 0.5, -1.0, -3.0)
PROMPT = (0, 1)
SAID = (3, 3, 2)


@pytest.fixture(scope="module")
def mx() -> Any:
    import_mlx()
    import mlx.core

    return mlx.core


def processed(mx: Any, sampling: Sampling) -> list[float]:
    logits = mx.array([SCORES])
    for process in processors_for(sampling, len(PROMPT)):
        logits = process(mx.array(PROMPT + SAID), logits)
    return [round(value, 5) for value in logits.tolist()[0]]


def test_nothing_asked_changes_nothing() -> None:
    """The default sampling has no processors at all, so the batch is not slowed."""
    assert processors_for(Sampling(), 3) == []


def test_frequency_counts_each_use_in_the_answer_only(mx: Any) -> None:
    """A token said twice loses twice the penalty; prompt tokens lose nothing."""
    changed = processed(mx, Sampling(frequency_penalty=0.5))
    assert changed == [2.0, 1.0, 0.0, -2.0, -3.0]


def test_presence_counts_once(mx: Any) -> None:
    """A token said at all loses the penalty once."""
    assert processed(mx, Sampling(presence_penalty=0.5)) == [2.0, 1.0, 0.0, -1.5, -3.0]


def test_repetition_pushes_every_seen_token_towards_less_likely(mx: Any) -> None:
    """Positive scores are divided, negative ones multiplied, prompt tokens included."""
    assert processed(mx, Sampling(repetition_penalty=2.0)) == [1.0, 0.5, 0.25, -2.0, -3.0]


def test_bias_adds_to_its_token(mx: Any) -> None:
    """Only the named tokens move, by exactly the given amounts."""
    biased = Sampling(logit_bias=((4, 5.0), (0, -2.0)))
    assert processed(mx, biased) == [0.0, 1.0, 0.5, -1.0, 2.0]


def drawn(mx: Any, sampling: Sampling, count: int = 4000) -> Counter[int]:
    logprobs = mx.broadcast_to(mx.array([SCORES]), (count, len(SCORES)))
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    return Counter(sampler_for(sampling, 0, 0)(logprobs).tolist())


def chances(temperature: float) -> list[float]:
    weights = [math.exp(score / temperature) for score in SCORES]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(mx: Any, temperature: float) -> None:
    """Chi-square of 4,000 seeded draws against the softmax stays below its 0.1 % point."""
    seen = drawn(mx, Sampling(temperature=temperature, seed=17))
    total = seen.total()
    expected = [total * chance for chance in chances(temperature)]
    distance = sum((seen[i] - e) ** 2 / e for i, e in enumerate(expected) if e >= 1)
    assert distance < 18.5  # four degrees of freedom


def test_filters_rule_out_exactly_what_they_say(mx: Any) -> None:
    """top_k keeps k, top_p the smallest likeliest set reaching p, min_p a share of the best."""
    one = chances(1.0)
    assert set(drawn(mx, Sampling(top_k=2, seed=1))) == {0, 1}
    assert set(drawn(mx, Sampling(top_p=one[0] + one[1] - 0.01, seed=1))) == {0, 1}
    assert set(drawn(mx, Sampling(top_p=one[0] + one[1] + 0.01, seed=1))) == {0, 1, 2}
    assert set(drawn(mx, Sampling(min_p=one[2] / one[0] - 0.01, seed=1))) == {0, 1, 2}
    assert set(drawn(mx, Sampling(top_p=0.01, seed=1))) == {0}


def test_unseeded_rows_of_equal_parameters_share_one_sampler() -> None:
    """Rows with the same object are drawn in one call; seeds and other parameters are apart."""
    first = sampler_for(Sampling(temperature=0.7, top_p=0.9), 0, 0)
    assert sampler_for(Sampling(temperature=0.7, top_p=0.9), 3, 9) is first
    assert sampler_for(Sampling(temperature=0.8, top_p=0.9), 0, 0) is not first
    assert sampler_for(Sampling(temperature=0.7, top_p=0.9, seed=1), 0, 0) is not first
    greedy = Sampling(temperature=0.0, seed=4)
    assert sampler_for(greedy, 0, 0) is sampler_for(Sampling(temperature=0.0), 1, 1)


EXTREMES = {
    "temperature of a denormal": Sampling(temperature=5e-324, seed=1),
    "temperature of 1e-40": Sampling(temperature=1e-40),
    "temperature just drawn": Sampling(temperature=1.1e-5),
    "top_p beyond 32-bit floats": Sampling(top_p=1e-300),
    "smallest top_p": Sampling(top_p=5e-324, seed=1),
    "min_p of 1": Sampling(min_p=1.0),
    "min_p that rounds to 1": Sampling(min_p=1 - 2**-53, seed=1),
    "top_k of 1": Sampling(top_k=1),
    "all at once": Sampling(temperature=2.0, top_p=1e-300, min_p=1.0, top_k=1, seed=2),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_values_leave_the_likeliest_token(mx: Any, name: str) -> None:
    """However little a filter or temperature leaves to chance, the likeliest token stays."""
    likeliest_in_the_middle = mx.array([[-3.0, 1.0, 2.0, 0.5, -1.0]] * 200)
    scores = likeliest_in_the_middle - mx.logsumexp(likeliest_in_the_middle, -1, keepdims=True)
    assert set(sampler_for(EXTREMES[name], 0, 0)(scores).tolist()) == {2}


@pytest.mark.parametrize("min_p", [5e-324, 1e-300])
def test_a_vanishing_min_p_rules_nothing_out(mx: Any, min_p: float) -> None:
    """It is as good as off: scores stay as they were."""
    seen = drawn(mx, Sampling(temperature=2.0, min_p=min_p, seed=3))
    assert set(seen) == set(range(len(SCORES)))


def test_equally_likely_tokens_do_not_make_top_k_of_1_a_lottery(mx: Any) -> None:
    """One token means one token, always the same."""
    tied = mx.log(mx.array([[0.4, 0.4, 0.2]] * 200))
    assert set(sampler_for(Sampling(top_k=1, seed=1), 0, 0)(tied).tolist()) == {0}


@pytest.mark.parametrize("repetition", [0.01, 10.0])
@pytest.mark.parametrize("penalty", [-2.0, 2.0])
@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_extreme_penalties_and_biases_stay_numbers(
    mx: Any, repetition: float, penalty: float, bias: float
) -> None:
    """Even with tokens a model rules out itself, nothing turns into not-a-number."""
    sampling = Sampling(
        repetition_penalty=repetition,
        frequency_penalty=penalty,
        presence_penalty=penalty,
        logit_bias=tuple((token, bias) for token in range(5)),
    )
    logits = mx.array([[900.0, 1.0, 0.0, -900.0, -float("inf")]])
    for process in processors_for(sampling, 1):
        logits = process(mx.array([0] + [0, 3, 4, 4] * 50), logits)
    values = logits.tolist()[0]
    assert not any(math.isnan(value) for value in values)
    assert all(math.isfinite(value) for value in values[:4])
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    token = sampler_for(Sampling(top_p=0.9, min_p=0.1, seed=1), 0, 0)(scores).item()
    assert math.isfinite(values[token])
