"""Laws of the numbers that a caller gives the lab: refused before anything is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coster import options
from coster.main import app
from market.errors import InvalidRequest
from simulator.results import folders
from simulator.runs.cells import Plan
from simulator.runs.executors import InProcess
from simulator.runs.experiment import carry_out, compare, run, sweep
from simulator.setup.scenario import SEED_MAX, Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

SKETCH = "tests.support.lab_world:sketch"
BOTH = ("coster", "random")


def small() -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "40"})


def run_with(out: Path, **numbers: Any) -> Any:
    return run(small(), out=out, world=SKETCH, **numbers)


def compare_with(out: Path, **numbers: Any) -> Any:
    return compare(
        small(), BOTH, out=out, world=SKETCH, executor=InProcess(), **({"repeat": 2} | numbers)
    )


def sweep_with(out: Path, **numbers: Any) -> Any:
    return sweep(
        small(), {"run.requests": ["40"]}, out=out, world=SKETCH, executor=InProcess(), **numbers
    )


def plan_with(out: Path, **numbers: Any) -> Any:
    plan = Plan(small(), BOTH, **({"repeat": 2, "seed": 1} | numbers), world=SKETCH)
    return carry_out(plan, out, executor=InProcess())


SEEDS = ("x", 1.5, True, -1, SEED_MAX + 1, math.nan, [1])
WRONG = [
    *((call, {"seed": seed}, "seed is ") for seed in SEEDS
      for call in (run_with, compare_with, sweep_with, plan_with)),
    *((call, {"repeat": repeat}, "repeat is ") for repeat in (2.5, 0, -3, True, "2", 10**6)
      for call in (compare_with, sweep_with, plan_with)),
    *((call, {"until": until}, "until is ") for call in (compare_with, plan_with)
      for until in (-1, 0, math.nan, math.inf, 1.5, "5 %", True)),
    (compare_with, {"seed": SEED_MAX}, "seed is "),
]  # fmt: skip


@pytest.mark.parametrize(("call", "numbers", "words"), WRONG)
def test_a_number_that_is_none_is_refused_and_leaves_nothing(
    call: Callable[..., Any], numbers: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """By name and with what it must be, in every function alike, before a folder is claimed."""
    with pytest.raises(InvalidRequest, match=words) as told:
        call(tmp_path / "out", **numbers)

    assert "it must be" in told.value.message
    assert told.value.param in numbers
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_can_be_read_back(tmp_path: Path) -> None:
    """Of the largest seed, and of numpy's whole numbers, which loops in notebooks give."""
    for place, seed in (("largest", SEED_MAX), ("numpy", np.int64(3))):
        folder = run_with(tmp_path / place, seed=seed).folder
        assert folders.read_manifest(folder)["seed"] == int(seed)
    both = compare_with(tmp_path / "both", seed=np.int64(3), repeat=np.int64(2), until=1)
    assert folders.read_manifest(both.folder)["complete"] is True
    assert folders.read_manifest(both.folder / "runs" / "random" / "001")["seed"] == 4


@pytest.mark.parametrize(
    "words", [("sim", "run", "demo"), ("sim", "compare", "demo"), ("loadgen", "demo")]
)
def test_the_commands_take_the_seeds_that_a_file_may_have(words: tuple[str, ...]) -> None:
    """No larger ones, and the bound that is said is the scenario's."""
    assert options.SEED_MAX == SEED_MAX

    told = CliRunner().invoke(app, [*words, "--seed", str(SEED_MAX + 1)])

    assert told.exit_code == 2
    assert str(SEED_MAX) in told.stderr.replace("\n", "")
