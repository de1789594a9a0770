"""Requests as a run meets them: in order, reproducible, each of its own stream, one at a time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.catalogue import Catalogue
from simulator.records import Arrival
from simulator.streams import Streams
from simulator.workloads.source import Source, arrivals
from tests.support.workload_kit import PLAIN, drawn, workloads_of

EVERYTHING = """
[[workload]]
name = "chat"
rate_per_s = 3
arrivals = { kind = "mmpp", on_s = 20, off_s = 60, ratio = 8, cv = 1.2 }
day = { period_s = 3_600 }
spikes = { factor = 5, last_s = 60, per_hour = 2 }
prompt = { table = "azure_2023_conv" }
output = { table = "azure_2023_conv" }
models = { "qwen3.5-7b" = 3, "gemma-4-12b" = 1 }
drift = { every_s = 100, share = 0.5 }
consumers = { count = 12, zipf = 1.2, length_sigma = 0.5 }
sessions = { turns = 3, think_s = 10 }
prefixes = { count = 2, tokens = 1_000 }
preferences = { sort = "price", max_price_pct = [50, 100], share = 0.5 }

[[workload]]
name = "batch"
rate_per_s = 2
arrivals = { kind = "weibull", cv = 1 }
prompt = { lognormal = { median = 900, sigma = 1 } }
output = { exponential = { mean = 200 } }
consumers = { count = 8, cv = 1.1, cv_90 = 4.5 }
class = "batch"
deadline_s = 600
"""


def digest(requests: list[Arrival]) -> str:
    return hashlib.sha256(repr(requests).encode()).hexdigest()


def test_equal_seeds_draw_equal_requests() -> None:
    """The same seed gives the same requests to the last digit, another one others."""
    first = digest(drawn(EVERYTHING, 3_000, seed=5))

    assert digest(drawn(EVERYTHING, 3_000, seed=5)) == first
    assert digest(drawn(EVERYTHING, 3_000, seed=6)) != first


def test_requests_do_not_depend_on_the_process() -> None:
    """Another process with another hash seed draws the same."""
    code = (
        "from tests.simulation.test_workload_arrivals import *\n"
        "print(digest(drawn(EVERYTHING, 500, seed=5)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == digest(drawn(EVERYTHING, 500, seed=5))


def test_a_workload_that_is_added_changes_no_other() -> None:
    """Each workload's requests are its own, whatever else there is."""
    alone, _, _ = EVERYTHING.partition('[[workload]]\nname = "batch"')
    together = [a for a in drawn(EVERYTHING, 4_000) if a.kind == "chat"]
    by_itself = drawn(alone, len(together))

    def key(a: Arrival) -> tuple[object, ...]:
        return (a.at_s, a.consumer, a.model, a.prompt_tokens, a.output_tokens, a.leaves)

    assert [key(a) for a in by_itself] == [key(a) for a in together]


def test_workloads_that_are_alike_meet_different_requests() -> None:
    """Two tables that differ in their names alone draw from streams of their own."""
    two = PLAIN + PLAIN.replace("[[workload]]", '[[workload]]\nname = "other"')
    requests = drawn(two, 2_000)
    times = [{a.at_s for a in requests if a.kind == kind} for kind in ("workload", "other")]
    sizes = [
        [a.prompt_tokens for a in requests if a.kind == k][:800] for k in ("workload", "other")
    ]

    assert not times[0] & times[1]
    assert abs(np.corrcoef(*sizes)[0, 1]) < 0.1


def test_what_is_drawn_changes_only_what_it_is_of() -> None:
    """Other lengths or models leave the times and the consumers as they were, and each other."""
    one = drawn(PLAIN, 1_000)
    longer = drawn(PLAIN.replace("mean = 600", "mean = 900"), 1_000)
    others = drawn(PLAIN + 'models = { "qwen3.5-7b" = 9, "gemma-4-12b" = 1 }\n', 1_000)

    assert [(a.at_s, a.consumer, a.model) for a in longer] == [
        (a.at_s, a.consumer, a.model) for a in one
    ]
    assert [(a.at_s, a.prompt_tokens) for a in others] == [(a.at_s, a.prompt_tokens) for a in one]
    assert [a.model for a in others] != [a.model for a in one]


def test_streams_are_told_apart_by_name_alone() -> None:
    """A stream is the same whoever asked before, and no two names share one."""
    streams = Streams(1)
    streams.stream("a").random(100)
    first = streams.stream("b").random(5).tolist()

    assert Streams(1).stream("b").random(5).tolist() == first
    names = [("", "a"), ("", "b"), ("a", "b"), ("ab", ""), ("a", "")]
    numbers = {Streams(1).within(scope).number(name) for scope, name in names}
    assert len(numbers | {Streams(2).number("a"), Streams(1).number("a")}) == len(names) + 2


@settings(max_examples=8)
@given(st.integers(0, 2**63 - 1))
def test_requests_come_in_order_and_could_be_sent(seed: int) -> None:
    """Times never decrease, numbers count from 0, and no request asks for more than its model
    has: prompt and limit fit the context, the answer fits the limit.
    """
    requests = drawn(EVERYTHING, 400, seed=seed)

    assert [a.number for a in requests] == list(range(400))
    assert all(before.at_s <= after.at_s for before, after in pairwise(requests))
    catalogue = Catalogue()
    for a in requests:
        card = catalogue.get(a.model)
        assert a.prompt_tokens >= 1
        assert 1 <= a.output_tokens <= a.max_tokens <= card.max_output_tokens
        assert a.prompt_tokens + a.max_tokens <= card.context_tokens


def test_a_run_ends_at_its_number_or_its_time() -> None:
    """No request too many, none at or after the end, and nothing missing before it."""
    everything = drawn(EVERYTHING, 2_000)
    workloads = workloads_of(EVERYTHING)
    end_s = everything[999].at_s

    assert list(arrivals(workloads, Streams(1), requests=300)) == everything[:300]
    assert list(arrivals(workloads, Streams(1), duration_s=end_s)) == everything[:999]
    assert list(arrivals(workloads, Streams(1), requests=0)) == []


def test_requests_are_drawn_as_they_are_asked_for() -> None:
    """A billion requests need no more memory than a few chunks of them."""
    endless = arrivals(workloads_of(EVERYTHING), Streams(1), requests=10**9)
    tracemalloc.start()
    try:
        for _ in islice(endless, 6_000):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 25e6


def test_a_rate_is_kept() -> None:
    """Requests come at the rate that was asked for, conversations or not, sleepy clients or not."""
    for extra in (
        "",
        "sessions = { turns = 4, think_s = 5 }",
        'arrivals = { kind = "gamma", cv = 1 }\nconsumers = { count = 40, cv = 1.1, cv_90 = 3 }',
        "day = { period_s = 200, swing = 0.9 }",
    ):
        requests = drawn(PLAIN + extra, 30_000)

        assert 30_000 / requests[-1].at_s == pytest.approx(20, rel=0.04), extra


def test_a_source_gives_what_the_iterator_gives() -> None:
    """Asked one by one, open workloads are the same requests, and end where they end."""
    workloads = workloads_of(EVERYTHING)
    source = Source(workloads, Streams(1), requests=500, duration_s=1e6)
    taken = []
    while not source.over:
        due_s = source.next_s()
        arrival = source.take()
        assert due_s == arrival.at_s
        taken.append(arrival)

    assert taken == drawn(EVERYTHING, 500)
    assert source.next_s() is None
    short = Source(workloads, Streams(1), duration_s=taken[100].at_s)
    while not short.over:
        short.take()
    assert short.next_s() is None
