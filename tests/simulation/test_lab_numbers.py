"""Laws of a summary: its numbers are those of rows that can be counted by hand; alarms ring."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.limits.bounds import NoQueue, middle_ttft_s, no_queue
from simulator.records import Arrival, Ended, MacUsed
from simulator.report.charts import crowd
from simulator.results import metrics
from simulator.results.checks import IDLE_TIME_MAX, idle_while_waiting, little_error
from simulator.results.columns import COLUMNS, Requests
from simulator.results.fairness import worst_gap
from simulator.results.summary import flat, rounded, summary_of
from simulator.results.timeline import Spans, inside, overdue, rate, running, waiting
from simulator.results.window import Window, window_of
from simulator.runs.experiment import run
from simulator.setup.scenario import Scenario, Slo
from simulator.setup.scenario_files import parse
from simulator.world.run import Totals
from tests.support import lab_world

REAL = "tests.support.lab_world:simulate"
SLO = {"interactive": Slo(1.0, 115.0), "batch": Slo(60.0, 1_000.0)}


def small(**settings: str) -> Scenario:
    values = {key.replace("__", "."): text for key, text in settings.items()}
    return parse(lab_world.SCENARIO, "small.toml", settings=values)


def row(number: int, at_s: float, **values: object) -> Ended:
    """An answered request of ten tokens, a second to the first and two to the last."""
    arrival = {"consumer": "a", "prompt_tokens": 100, "output_tokens": 10} | {
        key: values.pop(key)
        for key in list(values)
        if key in ("consumer", "prompt_tokens", "output_tokens", "request_class")
    }
    request = Arrival(number, at_s, model=small().models[0], max_tokens=100, **arrival)  # type: ignore[arg-type]
    ended = {"status": "ok", "ttft_s": 1.0, "e2e_s": 2.0, "said_tokens": 10, "attempts": 1}
    return Ended(request, **(ended | values))  # type: ignore[arg-type]


def test_quantiles_of_numbers_that_are_known() -> None:
    """Of 0 to 1000 each quantile is where it must be; what is unknown does not count."""
    found = metrics.spread(np.append(np.arange(1001.0), np.nan))

    assert found == {
        "count": 1001, "mean": 500.0, "p50": 500.0, "p90": 900.0, "p95": 950.0, "p99": 990.0,
        "p999": 999.0, "max": 1000.0,
    }  # fmt: skip


def test_what_nobody_knows_is_none_and_not_zero() -> None:
    """A run without a request has no latency, no attainment and no price."""
    nothing = Requests.of([])

    assert metrics.spread(np.array([]))["p99"] is None
    assert metrics.goodput(nothing, SLO, 10.0)["attainment"] is None
    assert metrics.money(nothing)["usd_per_million_tokens"] is None
    assert metrics.attempts(nothing)["cache_hit_share"] is None
    summary = summary_of(
        small(), "coster", 1, nothing, [MacUsed("m", "M1", 16, 100)] * 10, Totals()
    )
    assert summary["ttft_s"]["p50"] is None


def test_what_there_is_to_look_at_is_said() -> None:
    """A run's requests name their columns, say how many they are, and tell what is no column from
    what is a column of text.
    """
    rows = Requests.of([row(0, 0.0), row(1, 5.0)])

    assert rows.columns == tuple(COLUMNS)
    assert {len(rows[name]) for name in rows.columns if name not in rows.texts} == {2}
    assert {len(rows.text(name).codes) for name in rows.texts} == {2}
    assert repr(rows).startswith("<2 requests: number, at_s, consumer, model, ")
    assert repr(Requests.of([row(0, 0.0)])).startswith("<1 request: number, ")
    with pytest.raises(KeyError, match=r"'status' is a column of text; use text\('status'\)"):
        rows["status"]
    with pytest.raises(KeyError, match=r"no column 'ttft'; there are number, at_s, "):
        rows["ttft"]
    with pytest.raises(KeyError, match=r"no column of text 'ttft_s'; there are consumer, model, "):
        rows.text("ttft_s")


def test_a_promise_is_kept_by_the_first_token_and_by_the_pace() -> None:
    """Too late, too slow, broken off and refused are each no goodput; their class decides."""
    rows = Requests.of([
        row(0, 0.0),
        row(1, 0.0, ttft_s=1.1),
        row(2, 0.0, e2e_s=1.0 + 0.116 * 9),
        row(3, 0.0, status="failed"),
        row(4, 0.0, status="refused", ttft_s=None),
        row(5, 0.0, ttft_s=50.0, e2e_s=51.0, request_class="batch"),
        row(6, 0.0, output_tokens=1, said_tokens=1, e2e_s=1.0),
    ])  # fmt: skip

    assert metrics.met(rows, SLO).tolist() == [True, False, False, False, False, True, True]
    part = metrics.goodput(rows, SLO, 10.0)
    assert part["requests_per_s"] == pytest.approx(0.3)
    assert part["interactive"] == pytest.approx(2 / 6)
    assert part["batch"] == 1.0


def test_throughput_counts_what_ended_within_the_window() -> None:
    """Not what came before it or ended after it."""
    rows = Requests.of([row(0, 0.0), row(1, 5.0), row(2, 8.5)])

    part = metrics.throughput(rows, 4.0, 10.0)

    assert part["requests_per_s"] == pytest.approx(1 / 6)
    assert part["offered_per_s"] == pytest.approx(2 / 6)
    assert part["completion_tokens_per_s"] == pytest.approx(10 / 6)


def test_money_is_added_up_and_put_per_million_tokens() -> None:
    """Two answers of 110 tokens for 22,000 nano-USD: 100 nano a token, $0.10 a million."""
    rows = Requests.of([row(n, 0.0, cost_nano=11_000, provider_nano=10_450, fee_nano=550)
                        for n in range(2)])  # fmt: skip

    part = metrics.money(rows)

    assert (part["revenue_nano"], part["providers_nano"], part["fees_nano"]) == (
        22_000, 20_900, 1_100,
    )  # fmt: skip
    assert part["usd_per_million_tokens"] == pytest.approx(0.1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=30))
def test_counts_over_time_are_those_of_counting(spans: list[tuple[int, int]]) -> None:
    """At each moment and on average, as many are open as a loop over all finds."""
    starts = np.array([float(a) for a, _ in spans])
    found = Spans(starts, starts + np.array([float(b) for _, b in spans]))

    moments = np.arange(0.5, 80.0)
    assert found.at(moments).tolist() == [
        sum(a <= t < a + b for a, b in spans) for t in moments.tolist()
    ]
    overlap = sum(max(min(a + b, 40) - max(a, 10), 0) for a, b in spans)
    assert found.mean(10.0, 40.0) == pytest.approx(overlap / 30)


def test_littles_law_holds_where_nothing_is_cut_off() -> None:
    """Regular arrivals that stay for two seconds: rate times stay is how many are inside."""
    steady = Requests.of([row(n, n / 10) for n in range(1_000)])
    growing = Requests.of([row(n, n / 10, e2e_s=2.0 + n / 10) for n in range(1_000)])

    assert little_error(steady, Window(20.0, 90.0, "set")) == pytest.approx(0.0, abs=0.02)
    assert abs(little_error(growing, Window(20.0, 99.0, "set")) or 0.0) > 0.1
    assert inside(steady).mean(20.0, 90.0) == pytest.approx(20.0, abs=0.1)


def test_the_window_begins_where_it_is_set_or_found() -> None:
    """By seconds, by share, and without either by MSER-5 after a slow beginning."""
    slow = [row(n, n / 10, e2e_s=90.0 - n if n < 80 else 2.0 + n % 3) for n in range(1_000)]
    requests = Requests.of(slow)
    text = lab_world.SCENARIO.replace("warmup_share = 0.1", "")

    assert window_of(small(run__warmup_share="0.25"), requests).from_s == pytest.approx(24.975)
    assert window_of(parse(text, "x", settings={"run.warmup_s": "7"}), requests).from_s == 7.0
    found = window_of(parse(text, "x"), requests)
    assert (found.by, found.until_s) == ("mser5", 99.9)
    assert 7.0 <= found.from_s <= 10.0


def test_a_first_token_is_overdue_until_it_comes() -> None:
    """From the end of the patience to the token, or to the end of who never got one."""
    rows = Requests.of([row(0, 0.0, ttft_s=5.0), row(1, 0.0, ttft_s=0.5),
                        row(2, 10.0, ttft_s=None, e2e_s=4.0, status="failed")])  # fmt: skip

    late = overdue(rows, np.full(3, 1.0))

    assert late.at(np.array([0.5, 1.5, 4.5, 5.5, 10.5, 11.5, 14.5])).tolist() == [
        0, 1, 1, 0, 0, 1, 0,
    ]  # fmt: skip
    assert rate(rows["at_s"], np.array([0.0, 5.0, 15.0])).tolist() == [0.4, 0.1]


@pytest.mark.parametrize(("times", "is_wrong"), [(0.9, False), (3.0, True)])
def test_a_first_token_that_no_free_mac_had_sooner_is_no_wait(times: float, is_wrong: bool) -> None:
    """Nine of ten Macs do nothing while one reads a prompt that some cache might have had: that
    is wrong only once a Mac in the middle of the fleet would have read all of it.
    """
    scenario = small()
    macs = [MacUsed("m", "M1", 16, 100, here_s=100.0)] * 10
    one = Requests.of([row(0, 0.0, prompt_tokens=4_000)])
    middle_s = middle_ttft_s(scenario.macs, one)
    least = no_queue(scenario.macs, one, 0)
    warm = NoQueue(least.ttft_s / 100, least.e2e_s / 100)
    took_s = float(times * middle_s[0])
    rows = Requests.of([row(0, 0.0, prompt_tokens=4_000, ttft_s=took_s, e2e_s=took_s, macs=(0,))])

    found = idle_while_waiting(
        rows, scenario.macs, macs, Window(0.0, took_s, "set"), warm, middle_s
    )

    assert least.ttft_s[0] < middle_s[0], "the fastest of unequal Macs is before the middle one"
    assert found == pytest.approx(max(1.0 - 1.0 / times, 0.0), abs=0.01)
    assert (found > IDLE_TIME_MAX) == is_wrong


def test_a_wait_that_nobody_saw_is_no_queue_and_no_idle_mac() -> None:
    """Measured by a client: a request is its Mac's from its arrival on, and no queue is told."""
    unseen = Requests.of([row(0, 1.0, wait_s=math.nan, e2e_s=2.0, macs=(0,))])
    seen = Requests.of([row(0, 1.0, wait_s=0.5, e2e_s=2.0, macs=(0,))])
    times = np.array([0.5, 1.25, 2.0, 3.5])

    assert running(unseen, 0).at(times).tolist() == [0, 1, 1, 0]
    assert waiting(unseen).at(times).tolist() == [0, 0, 0, 0]
    assert "queue" not in crowd(unseen, 4.0)
    assert running(seen, 0).at(times).tolist() == [0, 0, 1, 0]
    assert "0.125 queued" in crowd(seen, 4.0)


def test_a_fair_order_is_within_its_bound_and_a_flood_is_not() -> None:
    """In turns two who wait stay within the bound; all of one before the other breaks it."""

    def waits(order: str) -> Requests:
        return Requests.of(
            row(n, 0.0, consumer=who, wait_s=float(n + 1), e2e_s=n + 3.0)
            for n, who in enumerate(order)
        )

    fair, unfair = worst_gap(waits("ab" * 20)), worst_gap(waits("a" * 20 + "b" * 20))

    assert fair is not None
    assert fair <= 1.0
    assert unfair is not None
    assert unfair > 5.0
    made_up = worst_gap(waits("ab" * 3 + "a" * 10 + "b" * 10 + "ab"))
    assert made_up is not None
    assert made_up > 4.0, "what is made up for later was unfair all the same"
    assert worst_gap(waits("a" * 10)) is None


def test_numbers_are_rounded_where_processors_may_differ() -> None:
    """Nine digits; no NaN and no infinity reach a file; names are dotted when flat."""
    value = {"a": [1 / 3, float("nan")], "b": {"c": np.float64(2.0), "d": np.int32(3), "e": "x"}}

    assert rounded(value) == {"a": [0.333333333, None], "b": {"c": 2.0, "d": 3, "e": "x"}}
    assert flat(rounded(value)) == {"b.c": 2.0, "b.d": 3.0}


def test_no_schedule_is_better_than_the_best_one(tmp_path: Path) -> None:
    """Ten requests on three Macs that do one at a time: the real world is never below the best
    schedule in hindsight, nor below the other bounds, but for the jitter of its steps.
    """
    text = lab_world.SCENARIO.replace("count = 3", "count = 1")
    text = text.replace("count = 2", "count = 1").replace("[[fleet.macs]]", "[fleet]\nslots = 1\n"
                                                          "[[fleet.macs]]", 1)  # fmt: skip
    text = text.replace('\n[[fleet.macs]]\ncount = 1\nchip = "M1"\n', "")
    for seed in range(5):
        scenario = parse(
            text, "tiny.toml", settings={"run.requests": "10", "run.warmup_share": "0"}
        )
        result = run(scenario, seed=seed, out=tmp_path / str(seed), world=REAL)

        bounds = result.summary["bounds"]
        assert result.summary["e2e_s"]["count"] >= 8, "hardly anybody gave up"
        assert bounds["e2e_over_hindsight"] > 0.97
        assert bounds["hindsight_e2e_s"] >= bounds["no_queue_e2e_s"] * 0.999
        assert bounds["hindsight_e2e_s"] >= bounds["srpt_e2e_s"]


def test_every_alarm_can_ring() -> None:
    """A summary in which everything is wrong rings each alarm once, with its limit."""
    from simulator.results.checks import alarms

    rows = Requests.of([row(n, float(n)) for n in range(100)])
    macs = [MacUsed("m", "M1", 16, 100)] * 10
    summary = summary_of(small(), "coster", 1, rows, macs, Totals())
    summary["checks"] |= {
        "idle_while_waiting_share": 0.5, "inside_first_quarter": 1.0, "inside_last_quarter": 99.0,
        "little_error": -0.5, "money_nano_off": 1,
    }  # fmt: skip
    summary["ttft_s"] |= {"p50": 0.1, "p99": 60.0}
    summary["requests"] |= {"open_share": 0.1, "refused_share": 0.2, "failed_share": 0.3}
    summary["consumers"]["gap_over_bound"] = 9.0
    summary["world"]["metrics"]["coster_router_policy_faults_total"] = 3.0
    summary["bounds"] |= {"load": 0.3, "e2e_over_no_queue": 50.0}

    rung = alarms(summary, small())

    assert [alarm.name for alarm in rung] == [
        "idle_while_waiting", "long_tail", "not_stable", "out_of_balance", "unfinished",
        "refusals", "failures", "unfair", "policy_faults", "books", "far_from_bound",
    ]  # fmt: skip
    assert all(alarm.value > alarm.limit and alarm.words for alarm in rung)
