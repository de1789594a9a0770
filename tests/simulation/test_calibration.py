"""Laws of calibration: a simulation beside what was measured, once or several times."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.errors import InvalidRequest
from market.types import ModelId
from simulator.records import Arrival, Ended
from simulator.results import folders
from simulator.results.calibrate import Pair, calibrate, compared
from simulator.results.columns import Requests
from simulator.results.parquet import RequestWriter
from simulator.runs import cells
from simulator.runs.cells import Plan
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

COUNT = 600


def row(number: int, at_s: float, ttft_s: float = 1.0, e2e_s: float = 3.0) -> Ended:
    arrival = Arrival(number, at_s, "c", ModelId("m"), 100, 10, 10)
    return Ended(arrival, "ok", ttft_s=ttft_s, e2e_s=e2e_s, said_tokens=10, macs=(0,))


SCENARIO = parse(lab_world.SCENARIO, "small.toml")


def side(
    folder: Path,
    rows: list[Ended],
    *,
    seed: int = 1,
    complete: bool = True,
    from_s: float = 0.0,
    live: bool = False,
    fleet_known: bool = True,
    scenario: Scenario = SCENARIO,
    inputs: tuple[str, ...] = (),
) -> Path:
    folder.mkdir(parents=True)
    with RequestWriter(folder / folders.REQUESTS) as writer:
        for ended in rows:
            writer.ended(ended)
    folders.write_json(folder / folders.SUMMARY, {"window": {"from_s": from_s}})
    told = {
        "schema": folders.SCHEMA,
        "kind": "run",
        "complete": complete,
        "seed": seed,
        "policy": "coster",
        "policy_named": True,
        "versions": {},
        "files": {},
        "config": json.loads(scenario.config),
        "inputs": {f"{folder}/{digest}.csv": digest for digest in inputs},
        **({"live": {"fleet_known": fleet_known}} if live else {}),
    }
    folders.write_json(folder / folders.MANIFEST, told)
    return folder


measured = partial(side, live=True)


def times(seed: int, factor: float = 1.0) -> list[Ended]:
    drawn = np.random.Generator(np.random.PCG64(seed)).exponential(1.0, size=COUNT) + 0.5
    return [
        row(n, n / 5, ttft_s=factor * float(t), e2e_s=3 * factor * float(t))
        for n, t in enumerate(drawn)
    ]


def test_calibration_tells_a_known_error(tmp_path: Path) -> None:
    """A simulation that is a fifth too slow is told so, in percentiles and one by one."""
    found = calibrate(measured(tmp_path / "real", times(3)), side(tmp_path / "sim", times(3, 1.2)))

    errors = {error["name"]: error for error in found["errors"]}
    assert found["calibrated"] is False
    assert (found["repetitions"], found["requests"]) == (1, [COUNT, COUNT])
    for name in ("ttft_s.p50", "ttft_s.p99", "e2e_s.mean", "tpot_ms.p90"):
        assert errors[name]["error"] == pytest.approx(0.2)
        assert errors[name]["low"] < 0.2 < errors[name]["high"]
    one_by_one = {each["name"]: each for each in found["matched"]}
    assert one_by_one["ttft_s"]["count"] == COUNT
    assert one_by_one["ttft_s"]["mape"] == pytest.approx(0.2)
    assert one_by_one["ttft_s"]["bias"] == pytest.approx(0.2)
    assert one_by_one["e2e_s"]["pearson"] == pytest.approx(1.0)


def test_several_repetitions_are_paired_by_their_seeds(tmp_path: Path) -> None:
    """Each run stands against the other side's of the same seed, whatever the folders are called:
    what differs between seeds cancels, so five pairs know an error of a fifth to within a tenth
    of it.
    """
    seeds = range(5)
    for n in seeds:
        measured(tmp_path / "real" / f"{n:03d}", times(n), seed=n)
        side(tmp_path / "sim" / f"{9 - n:03d}", times(n, 1.2), seed=n)

    found = calibrate(tmp_path / "real", tmp_path / "sim")

    errors = {error["name"]: error for error in found["errors"]}
    assert (found["repetitions"], found["requests"]) == (5, [5 * COUNT, 5 * COUNT])
    for name in ("ttft_s.p50", "ttft_s.p95", "e2e_s.mean"):
        assert errors[name]["error"] == pytest.approx(0.2)
        assert 0.18 < errors[name]["low"] < 0.2 < errors[name]["high"] < 0.22
    assert found["matched"][0]["count"] == 5 * COUNT
    assert found["matched"][0]["pearson"] == pytest.approx(1.0)


def test_the_runs_of_a_comparison_are_found(tmp_path: Path) -> None:
    """`sim run --repeat` leaves a comparison of one policy; of several, one must be named."""
    whole = tmp_path / "sim"
    for n in range(2):
        side(whole / "runs" / "coster" / f"{n:03d}", times(n), seed=n)
        measured(tmp_path / "real" / f"{n:03d}", times(n), seed=n)
    plan = Plan(SCENARIO, ("coster",), 2, 0)
    folders.write_json(whole / folders.MANIFEST, cells.manifest_of(plan, [{}], repeated=2))
    assert calibrate(tmp_path / "real", whole)["calibrated"]

    side(whole / "runs" / "random" / "000", times(0))
    with pytest.raises(InvalidRequest, match=r"several kinds.*coster"):
        calibrate(tmp_path / "real", whole)
    assert calibrate(tmp_path / "real", whole / "runs" / "coster")["calibrated"]


def test_the_warm_up_of_either_side_is_cut_off_both(tmp_path: Path) -> None:
    """Requests that came before either side had settled count on neither."""
    late = [*times(1)[:100], *times(1, 2.0)[100:]]
    real = measured(tmp_path / "real", times(1), from_s=5.0)
    slow = side(tmp_path / "sim", late, from_s=20.0)

    found = calibrate(real, slow)

    assert found["requests"] == [500, 500]
    assert found["matched"][0]["bias"] == pytest.approx(1.0)


def test_equal_sides_are_calibrated() -> None:
    """Nothing is off between a run and itself."""
    rows = Requests.of([row(n, n / 5, ttft_s=1 + n % 7, e2e_s=9.0) for n in range(200)])

    assert all(error.within and error.error == 0.0 for error in compared([Pair(rows, rows)]))


WRONG: dict[str, tuple[Callable[[Path, bool], object], str]] = {
    "too little": (
        lambda place, live: side(place, [row(n, float(n)) for n in range(10)], live=live),
        r"10 answered requests.*30 are needed",
    ),
    "a part": (
        lambda place, live: side(place, times(1), complete=False, live=live),
        "not complete",
    ),
    "no run": (lambda place, live: place.mkdir(), "is not a run"),
    "other seeds": (
        lambda place, live: [side(place / str(n), times(n), seed=n, live=live) for n in (1, 2)],
        "not the same seeds",
    ),
    "one seed twice": (
        lambda place, live: [side(place / str(n), times(n), seed=1, live=live) for n in (1, 2)],
        "the same seed",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_compared_is_refused(name: str, tmp_path: Path) -> None:
    """Whichever side it is on, the folder and the reason are told."""
    make, said = WRONG[name]
    good = {live: side(tmp_path / f"good-{live}", times(1), live=live) for live in (True, False)}
    bad = {live: tmp_path / f"bad-{live}" for live in (True, False)}
    for live, place in bad.items():
        make(place, live)
    for one, other in ((good[True], bad[False]), (bad[True], good[False])):
        with pytest.raises(InvalidRequest, match=said):
            calibrate(one, other)


def other(**settings: str) -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={
        key.replace("__", "."): text for key, text in settings.items()})  # fmt: skip


UNLIKE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "itself": ({}, {}, r"real was simulated; --real wants what `coster loadgen` measured"),
    "swapped": ({}, {"live": True}, "real was simulated"),
    "two measured": ({"live": True}, {"live": True}, "sim was measured, and is no simulation"),
    "other models": (
        {"live": True}, {"scenario": other(models='["qwen3.5-7b"]')}, "their models differ",
    ),
    "another workload": (
        {"live": True}, {"scenario": other(workload__0__rate_per_s="2.0")}, "their workload differ",
    ),
    "another trace": (
        {"live": True, "inputs": ("aa",)}, {"inputs": ("bb",)}, "are of different traces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_sides_that_do_not_belong_together_are_refused(name: str, tmp_path: Path) -> None:
    """A run beside itself, sides swapped, other models or another load: nothing is certified."""
    real, simulated, words = UNLIKE[name]
    side(tmp_path / "real", times(1), **real)
    side(tmp_path / "sim", times(1), **simulated)

    with pytest.raises(InvalidRequest, match=words):
        calibrate(tmp_path / "real", tmp_path / "sim")


@pytest.mark.parametrize(
    ("real", "simulated", "words"),
    [
        (
            {},
            {"scenario": other(fleet__macs__0__count="3")},
            "the fleets differ: only measured none, only simulated 1 × M4 Max",
        ),
        ({"fleet_known": False}, {}, "the fleet is not known"),
        ({}, {"seed": 9}, "the seeds are 1 and 9"),
        ({}, {"scenario": other(workload__0__max_tokens="usual")}, "max_tokens differs"),
    ],
    ids=["fleet", "unknown fleet", "seed", "lengths"],
)
def test_what_else_differs_is_named(
    real: dict[str, Any], simulated: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Another fleet, another seed, other limits may be why numbers differ: each is said, and
    nothing is where all is the same.
    """
    found = calibrate(
        measured(tmp_path / "real", times(1), **real), side(tmp_path / "sim", times(1), **simulated)
    )
    same = calibrate(measured(tmp_path / "a", times(1)), side(tmp_path / "b", times(1)))

    (note,) = found["notes"]
    assert words in note
    assert same["notes"] == []
