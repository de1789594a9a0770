"""Names, histograms and sums of what is counted: exact, and the same however it is divided."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from market.metrics import (
    HISTOGRAM_PARTS,
    Histogram,
    added_up,
    bound_text,
    family_of,
    histogram,
    labelled,
    parts_of,
)
from market.routing.gateways import GATEWAY_GONE_AFTER_S, GONE_REMEMBERED_MAX, Gateways
from market.types import GatewayId
from serve_app import counters as gateway_counters
from serve_app.counters import LEFT_OUT, Counters
from serve_app.exposition import FAMILIES
from tests.router_kit import gateway_beat

SIZES = histogram("thing_seconds", "Sizes.", (0.1, 1.0, 10.0), "model")
sizes = st.lists(st.floats(0.0, 100.0) | st.sampled_from(SIZES.bounds), max_size=30)


def filled(observed: list[float]) -> dict[str, float]:
    counted = Histogram(SIZES, model="m")
    for size in observed:
        counted.observe(size)
    return dict(counted.samples())


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(), max_size=4))
def test_a_key_gives_back_its_name_and_labels(labels: dict[str, str]) -> None:
    """Whatever a label says, quotes and line ends included, it is read back unchanged."""
    assert parts_of(labelled("coster_x_total", **labels)) == ("coster_x_total", labels)


@given(sizes)
def test_a_bucket_counts_all_that_is_not_larger(observed: list[float]) -> None:
    """Bounds are inclusive, buckets cumulative, and the last one counts everything."""
    samples = filled(observed)

    for bound in SIZES.bounds:
        key = labelled("thing_seconds_bucket", model="m", le=bound_text(bound))
        assert samples[key] == sum(size <= bound for size in observed)
    everything = labelled("thing_seconds_bucket", model="m", le="+Inf")
    assert samples[everything] == len(observed)
    assert samples[labelled("thing_seconds_count", model="m")] == len(observed)
    assert abs(samples[labelled("thing_seconds_sum", model="m")] - sum(observed)) < 1e-6


@given(sizes, sizes)
def test_two_processes_add_up_to_one_that_saw_it_all(here: list[float], there: list[float]) -> None:
    """Histograms of two processes, added key by key, are the histogram of both together."""
    together = added_up([filled(here), filled(there)])

    for key, value in filled([*here, *there]).items():
        assert abs(together[key] - value) < 1e-6


def test_no_two_families_can_be_taken_for_each_other() -> None:
    """Names are unique, and no name is another one's bucket, sum or count."""
    names = [name + part for name in FAMILIES for part in ("", *HISTOGRAM_PARTS)]

    assert len(set(names)) == len(names)
    for family in FAMILIES.values():
        assert family.text.endswith("."), family
        assert family_of(family.name, FAMILIES) is family
        assert (family.kind == "counter") == family.name.endswith("_total"), family
        assert bool(family.bounds) == (family.kind == "histogram"), family


acts = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["count", "silent", "beat"])), max_size=40
)


@given(acts)
def test_what_all_gateways_have_counted_never_shrinks(history: list[tuple[int, str]]) -> None:
    """Gateways that are lost and return, with or without news, never count down or twice."""
    known, counted, now_s, before = Gateways(), [0.0] * 4, 0.0, 0.0
    for number, act in history:
        now_s += 1.0
        gateway = GatewayId(f"gw_{number}")
        if act == "silent":
            now_s += GATEWAY_GONE_AFTER_S + 1.0
            for gone in known.overdue(now_s):
                known.forget(gone)
            continue
        if act == "count":
            counted[number] += 1.0
        told = (("things_total", counted[number]),) if act == "count" else None
        known.beat(replace(gateway_beat(gateway=gateway), counters=told), now_s)
        total = known.totals().get("things_total", 0.0)
        assert total >= before
        before = total

    assert known.totals().get("things_total", 0.0) == sum(counted)


def test_gone_gateways_are_folded_into_one_sum() -> None:
    """However many gateways come and go, their counts stay and their number is bounded."""
    known = Gateways()
    for number in range(3 * GONE_REMEMBERED_MAX):
        beat = gateway_beat(gateway=GatewayId(f"gw_{number}"))
        known.beat(replace(beat, counters=(("things_total", 1.0),)), float(number))
        known.forget(beat.gateway)

    assert known.totals() == {"things_total": 3.0 * GONE_REMEMBERED_MAX}
    assert len(known._gone) == GONE_REMEMBERED_MAX


def test_labels_without_end_are_left_out_and_counted() -> None:
    """A process counts under so many keys and no more; what it leaves out it says."""
    counters = Counters()
    for number in range(gateway_counters.SERIES_MAX + 7):
        counters.add(labelled("things_total", code=str(number)))
    counters.add(labelled("things_total", code="0"))
    counters.histogram(SIZES, model="m").observe(1.0)

    counted = counters.snapshot()
    assert len(counted) == gateway_counters.SERIES_MAX + 1
    assert counted[LEFT_OUT] == 8.0
    assert counted[labelled("things_total", code="0")] == 2.0
