"""Who asks, for which model, on which terms: shares, drift, wishes, limits, a fleet's share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.catalogue import Catalogue
from market.errors import InvalidRequest
from market.money import asked_nano
from market.policy.preferences import NO_PREFERENCES, Preferences
from simulator.records import Arrival
from simulator.streams import Streams
from simulator.workloads.demand import Demand
from simulator.workloads.rows import CUT, Fit, Notes
from simulator.workloads.source import arrivals, budgets
from tests.support.workload_kit import MODELS, PLAIN, drawn, workloads_of


def test_consumers_have_zipf_shares() -> None:
    """The n-th consumer sends 1/nᶻ of what the first one does."""
    for extra in ("", ', cv = 0.9, cv_90 = 1.2 }\narrivals = { kind = "gamma", cv = 1'):
        requests = drawn(PLAIN + f"consumers = {{ count = 5, zipf = 1.2 {extra} }}", 50_000)
        counts = Counter(a.consumer for a in requests)

        for n in range(1, 6):
            share = counts[f"workload-{n}"] / counts["workload-1"]
            assert share == pytest.approx(n**-1.2, rel=0.05)


def test_consumers_of_their_own_are_each_as_bursty() -> None:
    """With processes of their own, each consumer's gaps vary around the median that is given."""
    text = PLAIN + (
        'arrivals = { kind = "gamma", cv = 1 }\n'
        "consumers = { count = 150, zipf = 0, cv = 2.0, cv_90 = 4.0 }"
    )
    by_consumer: dict[str, list[float]] = {}
    for a in drawn(text, 75_000):
        by_consumer.setdefault(a.consumer, []).append(a.at_s)
    cvs = []
    for times in by_consumer.values():
        gaps = np.diff(times)
        cvs.append(float(gaps.std() / gaps.mean()))

    assert np.median(cvs) == pytest.approx(2.0, rel=0.2)
    assert np.quantile(cvs, 0.9) == pytest.approx(4.0, rel=0.25)
    assert min(cvs) < 1.0


def test_consumers_differ_in_length_and_keep_the_mean() -> None:
    """Some write longer prompts than others; all together write as they did."""
    alike = drawn(PLAIN + "consumers = { count = 20, zipf = 0 }", 40_000)
    unlike = drawn(PLAIN + "consumers = { count = 20, zipf = 0, length_sigma = 0.8 }", 40_000)

    def means(requests: list[Arrival]) -> list[float]:
        sums: dict[str, list[int]] = {}
        for a in requests:
            sums.setdefault(a.consumer, []).append(a.prompt_tokens)
        return [float(np.mean(each)) for each in sums.values()]

    assert np.mean([a.prompt_tokens for a in unlike]) == pytest.approx(600, rel=0.05)
    assert np.std(means(unlike)) > 8 * np.std(means(alike))


def test_popularity_drifts_and_comes_from_the_same_shares() -> None:
    """Each piece of time has the shares dealt anew; the first has them as they are given."""
    text = PLAIN + (
        'models = { "qwen3.5-7b" = 0.9, "gemma-4-12b" = 0.1 }\ndrift = { every_s = 100, share = 1 }'
    )
    shares = []
    requests = drawn(text, 40_000)
    for piece in range(20):
        here = [a.model for a in requests if piece * 100 <= a.at_s < (piece + 1) * 100]
        shares.append(here.count(MODELS[0]) / len(here))  # type: ignore[arg-type]

    assert shares[0] == pytest.approx(0.9, abs=0.03)
    assert {round(share, 1) for share in shares} == {0.1, 0.9}


def test_a_share_of_the_fleet_is_a_rate() -> None:
    """Rho times what the fleet can do, asked with the means that will be drawn."""
    asked: list[list[Demand]] = []

    def capacity(mix: object) -> float:
        asked.append(list(mix))  # type: ignore[call-overload]
        return 40.0

    text = PLAIN.replace("rate_per_s = 20", "rho = 0.5") + (
        'models = { "qwen3.5-7b" = 3, "gemma-4-12b" = 1 }'
    )
    found = list(arrivals(workloads_of(text), Streams(1), capacity=capacity, requests=20_000))

    assert 20_000 / found[-1].at_s == pytest.approx(20, rel=0.03)
    ((seven, twelve),) = asked
    assert (seven.model, seven.rate, twelve.rate) == (MODELS[0], 0.75, 0.25)
    assert seven.prompt_tokens == pytest.approx(600, rel=0.02)
    assert seven.output_tokens == pytest.approx(150, rel=0.02)
    assert seven.unread_tokens == seven.prompt_tokens


def test_a_share_of_the_fleet_follows_the_drift() -> None:
    """Where the mix becomes heavier the rate falls, so that rho stays what it says."""
    text = PLAIN.replace("rate_per_s = 20", "rho = 0.5") + (
        'models = { "qwen3.5-7b" = 9, "gemma-4-12b" = 1 }\ndrift = { every_s = 200, share = 1 }'
    )

    def capacity(mix: object) -> float:
        return 4.0 / sum(d.rate * (0.1 if d.model == MODELS[0] else 1.0) for d in mix)  # type: ignore[attr-defined]

    requests = list(arrivals(workloads_of(text), Streams(3), capacity=capacity, duration_s=4_000))
    work, counts = [0.0] * 20, [0] * 20
    for a in requests:
        work[int(a.at_s // 200)] += 0.1 if a.model == MODELS[0] else 1.0
        counts[int(a.at_s // 200)] += 1

    assert np.mean(work) / 200 == pytest.approx(2.0, rel=0.05)
    assert np.std(work) / np.mean(work) < 0.15
    assert max(counts) > 3 * min(counts)


@pytest.mark.parametrize("most", [0.0, float("inf"), None])
def test_a_share_of_nothing_is_refused(most: float | None) -> None:
    """Rho without a fleet, or of one that can do none of it, says so."""
    workloads = workloads_of(PLAIN.replace("rate_per_s = 20", "rho = 0.5"))
    capacity = None if most is None else lambda _mix: most

    with pytest.raises(InvalidRequest, match="rate_per_s"):
        next(arrivals(workloads, Streams(1), capacity=capacity))


def test_wishes_are_those_of_a_share_and_of_each_consumer() -> None:
    """Half of the requests wish, each consumer under a ceiling of its own, at what that is of
    the model's price.
    """
    text = PLAIN + 'preferences = { sort = "price", max_price_pct = [50, 90], share = 0.5 }'
    requests = drawn(text, 5_000)
    wishing = [a for a in requests if a.preferences != NO_PREFERENCES]
    ceilings: dict[tuple[str, str], set[int | None]] = {}
    for a in wishing:
        ceilings.setdefault((a.consumer, a.model), set()).add(a.preferences.max_price_out_nano)
    card = Catalogue().get(MODELS[0])
    possible = {asked_nano(card.price_out_nano, pct) for pct in range(50, 91)}

    assert len(wishing) / 5_000 == pytest.approx(0.5, abs=0.03)
    assert all(a.preferences.sort == "price" for a in wishing)
    assert all(len(each) == 1 for each in ceilings.values())
    assert len({frozenset(c) for (_, m), c in ceilings.items() if m == MODELS[0]}) > 3
    assert {next(iter(c)) for (_, m), c in ceilings.items() if m == MODELS[0]} <= possible


def test_who_names_no_ceiling_has_none() -> None:
    """A wish for speed alone leaves the price open."""
    requests = drawn(PLAIN + 'preferences = { sort = "latency" }', 50)

    assert {a.preferences for a in requests} == {Preferences(sort="latency")}


def test_budgets_are_those_of_the_consumers_that_come() -> None:
    """Every consumer of a workload with a budget has it, in nano-USD; others have none."""
    text = (
        PLAIN
        + "consumers = { count = 7, budget_usd = 2.5 }\n"
        + PLAIN.replace("[[workload]]", '[[workload]]\nname = "rich"')
    )
    found = budgets(workloads_of(text))
    requests = drawn(text, 2_000)

    assert set(found.values()) == {2_500_000_000}
    assert found.keys() == {a.consumer for a in requests if a.kind == "workload"}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ('"exact"', lambda a: a.output_tokens),
        ("700", lambda a: 700),
        ('"model"', lambda a: 32_768),
        ('"usual"', lambda a: 4_096 if a.output_tokens <= 4_096 else 32_768),
    ],
)
def test_a_client_allows_for_what_it_is_said_to(limit: str, expected: object) -> None:
    """max_tokens is the number, the model's most, the usual, or what only an oracle knows."""
    text = PLAIN.replace("mean = 150", "mean = 2_000") + f"max_tokens = {limit}"
    requests = drawn(text, 2_000)

    assert all(a.max_tokens == expected(a) for a in requests)  # type: ignore[operator]


def test_what_does_not_fit_is_cut_and_counted() -> None:
    """A small model's requests fit it, and how many were longer is noted."""
    notes: Notes = Notes()
    requests = drawn(PLAIN, 1_000, models=["coster/demo"], notes=notes)

    assert all(a.prompt_tokens + a.max_tokens <= 1_024 for a in requests)
    assert notes[CUT] > 200


@given(
    st.floats(0.0, 300_000.0),
    st.floats(0.0, 60_000.0),
    st.sampled_from(["exact", "usual", "model", 1, 500, 100_000]),
    st.integers(0, 1),
)
def test_one_request_is_cut_as_many_are(
    prompt: float, output: float, limit: object, model: int
) -> None:
    """The quick way for one and that for a chunk agree."""
    cards = [Catalogue().get("coster/demo"), Catalogue().get("qwen3.5-7b")]
    ones, alls = Notes(), Notes()
    one = Fit(cards, limit, ones).one(prompt, output, model)  # type: ignore[arg-type]
    many = Fit(cards, limit, alls).all(  # type: ignore[arg-type]
        np.array([prompt]), np.array([output]), np.array([model])
    )

    assert ([one[0]], [one[1]], [one[2]]) == many
    assert ones == alls
