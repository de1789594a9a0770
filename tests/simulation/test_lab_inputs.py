"""Laws of the traces that runs read: what is certified is what was played, and one for all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from market.errors import Conflict
from market.policy.registry import Policy
from simulator.results import folders
from simulator.runs.executors import InProcess
from simulator.runs.experiment import compare, run, sweep
from simulator.runs.tasks import Done, Task
from simulator.setup.replay import replayed
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from simulator.world.run import Sink, Totals, simulate
from tests.support import lab_world

POLICIES = ("coster", "random")
GROWING = "tests.simulation.test_lab_inputs:growing"


def rows(path: Path, count: int) -> Path:
    row = {"input_length": 100, "output_length": 9, "model": "qwen3.5-7b"}
    with path.open("a") as file:
        file.writelines(json.dumps({"timestamp": 500 * n, **row}) + "\n" for n in range(count))
    return path


def growing(scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals:
    """The real world, in which somebody still writes the trace that is played."""
    totals = simulate(scenario, policy, seed, sink)
    rows(Path(json.loads(scenario.config)["workload"][0]["file"]), 1)
    return totals


def day(trace: Path) -> Scenario:
    small = parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "20"})
    return replayed(small, trace, 1.0, 20)


class Meanwhile(InProcess):
    """Does tasks here; somebody adds to a trace when so many are done."""

    def __init__(self, trace: Path, after: int) -> None:
        self._trace = trace
        self._after = after
        self.count = 0

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        for number, done in super().run(tasks):
            self.count += 1
            if self.count == self._after:
                rows(self._trace, 5)
            yield number, done


def test_a_trace_that_grows_while_it_is_played_leaves_no_run(tmp_path: Path) -> None:
    """Nobody knows which of its bytes were read, so none are certified."""
    trace = rows(tmp_path / "day.jsonl", 20)

    with pytest.raises(Conflict, match=r"day\.jsonl changed while it was read.*Run it again"):
        run(day(trace), out=tmp_path / "run", world=GROWING)

    assert list(tmp_path.iterdir()) == [trace]


@pytest.mark.parametrize("after", [1, 3, 4], ids=["at first", "before the last", "at last"])
def test_a_trace_that_grows_between_runs_leaves_no_complete_comparison(
    after: int, tmp_path: Path
) -> None:
    """It is refused with the file's name, and goes on with --resume as one of the new file."""
    trace, out = rows(tmp_path / "day.jsonl", 20), tmp_path / "both"
    with pytest.raises(Conflict, match=r"day\.jsonl changed while it was read.*--resume"):
        compare(day(trace), POLICIES, 2, out, executor=Meanwhile(trace, after))
    assert folders.read_manifest(out)["complete"] is False
    assert not (out / folders.SUMMARY).exists()

    again = compare(day(trace), POLICIES, 2, out, resume=True, executor=InProcess())

    read = [folders.read_manifest(place)["inputs"] for place in out.glob("runs/*/*")]
    assert read == [{str(trace): folders.digest_of(trace)}] * 4
    assert folders.read_manifest(out)["inputs"] == read[0]
    assert again.again == {"a file that it reads has changed": after}


def test_runs_that_read_something_else_elsewhere_are_found(tmp_path: Path) -> None:
    """Another machine may have another file at the same path: its run's own digest tells."""
    trace = rows(tmp_path / "day.jsonl", 20)

    class Elsewhere(InProcess):
        def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
            for number, done in super().run(tasks):
                told = folders.read_manifest(done.folder)
                if number == 2:
                    other = told | {"inputs": {str(trace): "0" * 64}}
                    folders.write_json(done.folder / folders.MANIFEST, other)
                yield number, done

    with pytest.raises(Conflict, match=r"day\.jsonl changed"):
        compare(day(trace), POLICIES, 2, tmp_path / "both", executor=Elsewhere())


def test_a_sweep_over_traces_names_each_that_was_read(tmp_path: Path) -> None:
    """And not the one of the scenario that no point has."""
    traces = [rows(tmp_path / f"{name}.jsonl", 20) for name in ("none", "one", "two")]
    over = {"workload.0.file": [f"'{trace}'" for trace in traces[1:]]}

    swept = sweep(day(traces[0]), over, ["coster"], 1, tmp_path / "sw", executor=InProcess())

    assert folders.read_manifest(swept.folder)["inputs"] == {
        str(trace): folders.digest_of(trace) for trace in traces[1:]
    }
