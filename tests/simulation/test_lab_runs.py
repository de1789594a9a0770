"""Laws of a run's folder: equal seeds give equal bytes, and what is there is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from market.errors import Conflict, InvalidRequest
from simulator.records import Arrival, Ended
from simulator.results import folders
from simulator.results.columns import COLUMNS, Requests
from simulator.results.parquet import RequestWriter, read_requests
from simulator.runs.executors import InProcess, LocalProcesses
from simulator.runs.experiment import compare, run, sweep
from simulator.runs.tasks import Done, Task, run_away, run_task, unpack
from simulator.runs.verify import verify
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

REAL, SKETCH, BROKEN = (
    f"tests.support.lab_world:{name}" for name in ("simulate", "sketch", "broken")
)


def small(**settings: str) -> Scenario:
    values = {key.replace("__", "."): text for key, text in settings.items()}
    return parse(lab_world.SCENARIO, "small.toml", settings=values)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in folders.COMPARED}


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """Nothing is canned: the seed reaches the arrivals, and the manifest keeps it."""
    one = run(small(), seed=1, out=tmp_path / "1", world=SKETCH)
    two = run(small(), seed=2, out=tmp_path / "2", world=SKETCH)

    assert contents(one.folder) != contents(two.folder)
    assert folders.read_manifest(two.folder)["seed"] == 2


def test_every_field_of_every_request_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read back is what ended, row by row, over the borders of buffers and groups."""
    monkeypatch.setattr("simulator.results.parquet.BUFFER_ROWS", 64)
    monkeypatch.setattr("simulator.results.parquet.GROUP_ROWS", 256)
    rows = [
        Ended(
            Arrival(n, n / 7, f"c{n % 5}", small().models[n % 2], 10 + n % 90, 5, 9, "batch",
                    session=f"s{n % 3}", prefix=(1, 2), deadline_s=None if n % 2 else 9.0),
            ("ok", "refused")[n % 2], ("", "queue_full")[n % 2], 0.5, None if n % 2 else 1.0,
            2.0, None, 5, 3, 1, 0, n % 3 == 0, (n % 8,) if n % 4 else (), n, n - 1, 1, 0.25,
        )
        for n in range(1_000)
    ]  # fmt: skip
    path = tmp_path / "rows.parquet"
    with RequestWriter(path) as writer:
        for row in rows:
            writer.ended(row)

    found, direct = read_requests(path), Requests.of(rows)

    assert writer.written == len(found) == len(rows)
    for name, (kind, _) in COLUMNS.items():
        if kind == "string":
            assert found.text(name).names == direct.text(name).names
            assert (found.text(name).codes == direct.text(name).codes).all()
        else:
            assert np.array_equal(found[name], direct[name], equal_nan=kind.endswith("?"))


def test_a_folder_holds_all_it_promises(tmp_path: Path) -> None:
    """Manifest, tables, summary, page and timing; the manifest's digests are the files'."""
    result = run(small(), out=tmp_path / "run", world=REAL)

    manifest = folders.read_manifest(result.folder)
    assert {file.name for file in result.folder.iterdir()} == {
        *(folders.MANIFEST, folders.REQUESTS, folders.MACHINES, folders.SUMMARY, folders.REPORT),
        folders.TIMING,
    }
    assert manifest["complete"] is True
    assert manifest["scenario_hash"] == small().hash
    assert {"coster", "python", "numpy", "pyarrow"} <= manifest["versions"].keys()
    for name, digest in manifest["files"].items():
        assert folders.digest_of(result.folder / name) == digest
    assert len(result.requests) == 400
    assert len(result.machines) == 10
    assert not any("wall" in key for key in result.summary["world"])


def test_the_real_world_agrees_with_itself(tmp_path: Path) -> None:
    """Money and tokens of the requests are those of the Macs, to the nano; Little's law holds."""
    result = run(small(run__requests="1500"), out=tmp_path / "run", world=REAL)

    checks = result.summary["checks"]
    assert checks["money_nano_off"] == checks["earned_nano_off"] == checks["tokens_off"] == 0
    assert abs(checks["little_error"]) < 0.1
    assert result.summary["world"]["problems"] == []
    assert result.summary["money"]["revenue_nano"] > 0
    assert result.summary["bounds"]["ttft_over_no_queue"] > 1
    assert result.summary["bounds"]["e2e_over_srpt"] > 1
    assert (
        1
        < result.summary["bounds"]["e2e_over_bound"]
        <= min(result.summary["bounds"][name] for name in ("e2e_over_no_queue", "e2e_over_srpt"))
    )


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """Neither a folder that looks like a run, nor a hidden one."""
    with pytest.raises(KeyboardInterrupt):
        run(small(), out=tmp_path / "run", world=BROKEN)

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """A partial folder of a process that is gone goes; one of a process that lives stays."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, used = (tmp_path / f".run{folders.PARTIAL}{pid}" for pid in (gone.pid, os.getppid()))
    left.mkdir()
    used.mkdir()

    run(small(), out=tmp_path / "run", world=SKETCH)

    assert not left.exists()
    assert used.exists()


def test_a_run_is_never_written_over_by_accident(tmp_path: Path) -> None:
    """Only with `replace`, and only what is a run of ours."""
    run(small(), out=tmp_path / "run", world=SKETCH)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")

    with pytest.raises(Conflict, match="--replace"):
        run(small(), out=tmp_path / "run", world=SKETCH)
    run(small(), seed=9, out=tmp_path / "run", world=SKETCH, replace=True)
    with pytest.raises(Conflict, match="it is no run"):
        run(small(), out=other, world=SKETCH, replace=True)

    assert folders.read_manifest(tmp_path / "run")["seed"] == 9
    assert (other / "chapter.txt").read_text() == "years of work"


def test_verifying_finds_what_was_changed(tmp_path: Path) -> None:
    """An untouched run is the same again; a changed file and a changed manifest are named."""
    result = run(small(), out=tmp_path / "run", world=SKETCH)
    assert [v.same for v in verify(result.folder, executor=InProcess(), world=SKETCH)] == [True]

    summary = json.loads((result.folder / folders.SUMMARY).read_text())
    summary["ttft_s"]["p99"] /= 2
    (result.folder / folders.SUMMARY).write_text(json.dumps(summary))
    (verdict,) = verify(result.folder, executor=InProcess(), world=SKETCH)
    assert verdict.differs == ("summary.json is not what was written: it was changed afterwards",)

    manifest = folders.read_manifest(result.folder)
    manifest["files"][folders.SUMMARY] = folders.digest_of(result.folder / folders.SUMMARY)
    (result.folder / folders.MANIFEST).write_text(json.dumps(manifest))
    (verdict,) = verify(result.folder, executor=InProcess(), world=SKETCH)
    assert verdict.differs == ("summary.json differs in ttft_s.p99",)


def test_verifying_says_when_there_is_nothing_to_verify(tmp_path: Path) -> None:
    """A folder that is no run is named, with what it lacks."""
    with pytest.raises(InvalidRequest, match="is not a run: it has no manifest"):
        verify(tmp_path, world=SKETCH)


class Counting:
    """Does tasks here and counts them; stops after so many, like an interrupt."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[Task] = []
        self._stop_after = stop_after

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        for number, task in enumerate(tasks):
            if len(self.done) == self._stop_after:
                raise KeyboardInterrupt
            self.done.append(task)
            yield number, run_task(task)


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    """It is never said to be complete, only what is missing is done, and the end is the same."""
    policies, out = ["coster", "random"], tmp_path / "cmp"
    with pytest.raises(KeyboardInterrupt):
        compare(small(), policies, 3, out, executor=Counting(stop_after=4), world=SKETCH)
    assert folders.read_manifest(out)["complete"] is False
    assert not (out / folders.SUMMARY).exists()

    damaged = out / "runs" / "coster" / "000" / folders.REQUESTS
    damaged.write_bytes(damaged.read_bytes()[:-100])
    rest = Counting()
    resumed = compare(small(), policies, 3, out, executor=rest, resume=True, world=SKETCH)
    whole = compare(small(), policies, 3, tmp_path / "whole", executor=InProcess(), world=SKETCH)

    assert len(rest.done) == 3  # two were missing, one was damaged
    assert folders.read_manifest(out)["complete"] is True
    assert resumed.summary == whole.summary


def test_a_comparison_goes_on_only_as_what_it_was(tmp_path: Path) -> None:
    """Another setting, policy or seed under the same name is refused by name."""
    out = tmp_path / "cmp"
    compare(small(), ["coster", "random"], 2, out, executor=InProcess(), world=SKETCH)

    for changes, key in (
        ({"scenario": small(run__requests="401")}, "scenario_hash"),
        ({"policies": ["coster"]}, "policies"),
        ({"seed": 99}, "seed"),
    ):
        args = {"scenario": small(), "policies": ["coster", "random"], "seed": None} | changes
        with pytest.raises(Conflict, match=f"its {key} differs"):
            compare(
                args["scenario"], args["policies"], 2, out, seed=args["seed"], resume=True,
                executor=InProcess(), world=SKETCH,
            )  # type: ignore[arg-type]  # fmt: skip


def test_policies_meet_the_same_requests(tmp_path: Path) -> None:
    """Common random numbers: under every policy a repetition has the same arrivals."""
    result = compare(
        small(run__requests="80"), ["coster", "always_busiest"], 2, tmp_path / "cmp",
        executor=InProcess(), world=REAL,
    )  # fmt: skip

    for repetition in ("000", "001"):
        seen = []
        for policy in ("coster", "always_busiest"):
            rows = read_requests(result.folder / "runs" / policy / repetition / folders.REQUESTS)
            order = np.argsort(rows["number"])
            seen.append([rows[name][order].tolist() for name in ("at_s", "output_tokens")])
        assert seen[0] == seen[1]


def test_one_run_of_each_is_no_comparison(tmp_path: Path) -> None:
    """Two policies need repetitions, and that is said before anything is run."""
    with pytest.raises(InvalidRequest, match="says nothing about which is better"):
        compare(small(), ["coster", "random"], 1, tmp_path / "cmp", world=SKETCH)
    assert list(tmp_path.iterdir()) == []


def test_repetitions_end_when_enough_is_known(tmp_path: Path) -> None:
    """With a wide aim the first round is enough; with an impossible one all are done."""
    wide, narrow = (
        compare(
            small(run__requests="100"), ["coster"], 7, tmp_path / name, until=until,
            executor=InProcess(), world=SKETCH,
        )
        for name, until in (("wide", 0.5), ("narrow", 1e-9))
    )  # fmt: skip

    assert len(wide.summary["seeds"]) == 5
    assert len(narrow.summary["seeds"]) == 7


def test_other_processes_and_other_machines_give_the_same(tmp_path: Path) -> None:
    """Fresh interpreters, and a machine without a shared disk, write what is written here."""
    task = Task(small().config, "coster", 3, tmp_path / "here", report=False, world=SKETCH)
    here = run_task(task)
    there = Task(small().config, "coster", 3, tmp_path / "there", report=False, world=SKETCH)
    away = Task(small().config, "coster", 3, tmp_path / "away", report=False, world=SKETCH)

    ((number, done),) = LocalProcesses(2).run([there])
    back = unpack(away, run_away(away, tmp_path / "scratch"))

    assert number == 0
    assert contents(here.folder) == contents(done.folder) == contents(back.folder)
    assert back.summary == here.summary


def test_a_sweep_has_a_cell_for_every_combination(tmp_path: Path) -> None:
    """Points are all combinations, each with its settings, and each cell is a run."""
    result = sweep(
        small(run__requests="60"),
        {"workload.0.rate_per_s": ["0.5", "2.0"], "workload.0.consumers.count": ["1", "3"]},
        ["coster", "random"], 2, tmp_path / "swept", executor=InProcess(), world=SKETCH,
    )  # fmt: skip

    assert [list(point["settings"].values()) for point in result.summary["points"]] == [
        ["0.5", "1"], ["0.5", "3"], ["2.0", "1"], ["2.0", "3"],
    ]  # fmt: skip
    cells = sorted(path.parent for path in result.folder.glob("runs/*/*/manifest.json"))
    assert len(cells) == 16
    one = folders.read_manifest(result.folder / "runs" / "003-random" / "001")
    assert one["config"]["workload"][0]["consumers"]["count"] == 3


def test_a_sweep_over_what_is_no_number_is_drawn_too(tmp_path: Path) -> None:
    """Fleets, kinds of arrivals, words: all runs are done, so their page must come, whatever can
    be drawn of them; too many curves are said to be too many.
    """
    fleets = ["[{ chip = 'M4 Max', count = 2 }]", "[{ chip = 'M2 Pro', count = 4 }]"]
    result = sweep(
        small(run__requests="60"), {"fleet.macs": fleets}, ["coster"], 2, tmp_path / "fleets",
        executor=InProcess(), world=SKETCH,
    )  # fmt: skip
    many = sweep(
        small(run__requests="60"),
        {"workload.0.rate_per_s": ["1.0", "1.1"], "run.name": [f"n{n}" for n in range(26)]},
        ["coster"], 1, tmp_path / "many", executor=InProcess(), world=SKETCH,
    )  # fmt: skip

    assert folders.read_manifest(result.folder)["complete"] is True
    assert "no. 2 is [{ chip" in (result.folder / folders.REPORT).read_text()
    assert folders.read_manifest(many.folder)["complete"] is True
    assert "is not drawn. That is 26 curves" in (many.folder / folders.REPORT).read_text()


def test_numbers_and_runs_are_found_by_their_names(tmp_path: Path) -> None:
    """Levels, differences from the first policy and the runs behind them; a wrong name is told
    with those that there are.
    """
    both = compare(
        small(run__requests="60"), ["coster", "random"], 2, tmp_path / "both",
        executor=InProcess(), world=SKETCH,
    )  # fmt: skip

    runs = both.runs("random")
    means = [each.summary["e2e_s"]["mean"] for each in runs]
    assert both.level("random", "e2e_s.mean")["mean"] == pytest.approx(np.mean(means))
    assert both.difference("random", "e2e_s.mean")["verdict"] == "worse"
    assert [len(each.requests) for each in runs] == [60, 60]
    assert "<iframe srcdoc=" in both._repr_html_()
    for call, words in (
        (lambda: both.level("best", "e2e_s.mean"), "there are coster, random"),
        (lambda: both.difference("coster", "e2e_s.mean"), "there are random"),
        (lambda: both.level("random", "luck"), "no 'luck' in the policies; there are ttft_s.p50"),
        (lambda: both.runs("random", 1), "There is no point 1; there are 1, from 0"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            call()


def test_a_sweep_over_what_is_not_there_is_refused_before_it_runs(tmp_path: Path) -> None:
    """A wrong key is told with the point that it makes impossible."""
    with pytest.raises(InvalidRequest, match=r"run\.sed.*unknown key"):
        sweep(small(), {"run.sed": ["1", "2"]}, out=tmp_path / "swept", world=SKETCH)
    assert list(tmp_path.iterdir()) == []
