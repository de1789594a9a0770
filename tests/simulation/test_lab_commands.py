"""Laws of `coster sim`: what is printed, what is written, how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import simulator.world.run
from coster import sim_show
from coster.main import app
from simulator.results import folders
from simulator.runs.comparison import METRICS
from simulator.runs.experiment import Comparison
from tests.support import lab_world

COSTER = (sys.executable, "-m", "coster")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a scenario in it, and the sketch for a world."""
    (tmp_path / "small.toml").write_text(lab_world.SCENARIO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulator.world.run, "simulate", lab_world.sketch, raising=False)
    return tmp_path


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["sim", *words])
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout if code == 0 else result.stdout + result.stderr


def answer(*words: str, code: int = 0) -> Any:
    """The one line of JSON, and nothing but it."""
    text = CliRunner().invoke(app, ["sim", *words, "--json"])
    assert text.exit_code == code, text.output
    (line,) = text.stdout.splitlines()
    return json.loads(line)


def test_a_run_prints_its_first_page_and_where_the_rest_is(place: Path) -> None:
    """Percentiles, the promise, the load, money, alarms, the report."""
    text = call("run", "small.toml", "--requests", "2e2", "--seed", "3", "--set", "policy=random")

    assert "small under random, seed 3: 200 requests, 10 Macs" in text
    for words in ("first token", "kept the promise", "a million tokens", "report  runs/"):
        assert words in text
    assert (place / "runs" / "small-random-3" / folders.REPORT).is_file()


def test_json_is_one_document_and_errors_are_too(place: Path) -> None:
    """With --json a machine reads everything, also what went wrong."""
    found = answer("run", "small.toml", "--out", "one")
    assert found["folder"] == "one"
    assert found["summary"] == json.loads((place / "one" / folders.SUMMARY).read_text())

    error = answer("run", "small.toml", "--out", "one", code=1)["error"]
    assert error["type"] == "conflict"
    assert "--replace" in error["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "nowhere"), "there are bursts"),
        (("run", "nowhere.toml"), "cannot be read"),
        (("run", "small.toml", "--set", "run.sed=1"), "unknown key"),
        (("run", "small.toml", "--policy", "best"), "There is no policy 'best'"),
        (("run", "small.toml", "--requests", "many"), "whole number"),
        (("compare", "small.toml", "--policies", "coster,best"), "There is no policy 'best'"),
        (("compare", "small.toml", "--policies", "coster,coster"), "each once"),
        (("compare", "small.toml", "--until", "0.1", "--metric", "luck"), "There is no metric"),
        (("sweep", "small.toml", "--set", "run.seed=1"), "several values"),
        (("replay", "no.jsonl"), "no.jsonl is not there"),
        (("verify", "."), "is not a run"),
        (("plot", ".", "--x", "a", "--y", "b"), "is not a run"),
        (("calibrate", ".", "--real", "."), "is not a run"),
        (
            ("run", "small.toml", "--set", "run.name=a b"),
            "1 to 60 letters, digits",
        ),
        (("compare", "small.toml", "--requests", "many"), "whole number"),
        (("sweep", "small.toml", "--set", "run.seed=1,2", "--requests", "0"), "whole number"),
        (("run", "small.toml", "--resume"), "--resume is for several: add --repeat"),
        (("run", "small.toml", "-j", "2"), "--jobs is for several: add --repeat"),
        (("run", "small.toml", "--ray", "auto"), "--ray is for several: add --repeat"),
        (("run", "small.toml", "--out", "small.toml/one"), "small.toml/one cannot be written: "),
        (("run", "small.toml", "--out", "x" * 300), "cannot be written: File name too long"),
        (("compare", "small.toml", "--out", "small.toml/a/b"), "small.toml/a/b cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_fix(
    words: tuple[str, ...], told: str, place: Path
) -> None:
    """One line on standard error, exit code 1, and no folder."""
    text = call(*words, code=1)

    assert text.startswith("error: ")
    assert told in text
    assert "Traceback" not in text
    assert not (place / "runs").exists()


def test_a_comparison_tells_apart_what_differs(place: Path) -> None:
    """The sketch's random policy takes three times as long, and that is established."""
    text = call("compare", "small.toml", "--policies", "coster,random", "--repeat", "4", "-j", "1")

    assert "4 repetitions, paired by seed" in text
    assert "random against coster: better: nothing; worse: TTFT p50" in text
    assert "E2E mean" in text
    assert (place / "runs" / "small-compared-7" / folders.REPORT).is_file()


def test_what_is_not_in_the_table_is_in_the_sentence(place: Path) -> None:
    """The sentence under a table is of all numbers that are compared, as the report's is."""
    call("compare", "small.toml", "--policies", "coster,random", "--repeat", "4", "-j", "1")
    ((_, summary),) = ((path, json.loads(path.read_text())) for path in place.glob(
        f"runs/*/{folders.SUMMARY}"))  # fmt: skip
    point = summary["points"][0]
    hidden = [name for name in METRICS if name not in sim_show.SHOWN]
    for name, said in zip(hidden, ["better", "worse", "differs"], strict=False):
        point["differences"]["random"].setdefault(name, {})["verdict"] = said
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        sim_show.print_comparison(Comparison(place, summary))

    (line,) = [line for line in out.getvalue().splitlines() if "random against" in line]
    parts = line.partition(": ")[2].split("; ")
    for name, part in zip(hidden, parts, strict=False):
        assert METRICS[name].label in part
    assert [part.partition(":")[0] for part in parts] == ["better", "worse", "different"]


def test_a_sweep_is_drawn_as_it_is_asked(place: Path) -> None:
    """A page by name, an image where the file is to be one, a list of names for a wrong one."""
    call("sweep", "small.toml", "--set", "workload.0.rate_per_s=0.5,1,2", "--set",
         "run.requests=60", "--repeat", "2", "-j", "1", "--out", "swept")  # fmt: skip

    page = answer("plot", "swept", "--x", "workload.0.rate_per_s", "--y", "ttft_s.p99")["file"]
    call("plot", "swept", "--x", "workload.0.rate_per_s", "--y", "ttft_s.p99", "--out", "a.svg")

    assert "<figure>" in (place / page).read_text()
    assert (place / "a.svg").read_text().startswith("<svg ")
    assert "there are" in call("plot", "swept", "--x", "nope", "--y", "ttft_s.p99", code=1)
    words = (
        "plot",
        "swept",
        "--x",
        "workload.0.rate_per_s",
        "--y",
        "ttft_s.p99",
        "--out",
        "a/b.svg",
    )
    assert "a/b.svg cannot be written: No such file" in call(*words, code=1)


def test_a_run_is_verified_and_a_changed_one_is_not(place: Path) -> None:
    """The same again, byte for byte; otherwise the file is named and the exit code is 1."""
    call("run", "small.toml", "--out", "one")
    assert "the same again, byte for byte" in call("verify", "one", "-j", "1")

    requests = place / "one" / folders.REQUESTS
    requests.write_bytes(requests.read_bytes() + b"x")

    assert "requests.parquet is not what was written" in call("verify", "one", "-j", "1", code=1)


def test_a_comparison_is_verified_run_by_run_and_as_a_whole(place: Path) -> None:
    """All of its runs, or as many as asked, and what they come to."""
    call("compare", "small.toml", "--repeat", "2", "--out", "both", "-j", "1")

    told = answer("verify", "both", "-j", "1")
    assert len(told["runs"]) == 4
    assert told["whole"] == {"folder": "both", "same": True, "differs": [], "notes": []}
    assert len(answer("verify", "both", "-j", "1", "--cells", "2")["runs"]) == 2
    text = call("verify", "both", "-j", "1")
    assert "all 4 runs are the same again, byte for byte, and so is what they come to" in text

    (place / "both" / folders.REPORT).unlink()
    assert "✗ both: report.html is missing" in call("verify", "both", "-j", "1", code=1)


def test_calibration_ends_with_what_it_found(place: Path) -> None:
    """The same times are calibrated; against a slower world the exit code says degraded."""
    for name, policy in (("one", "coster"), ("real", "coster"), ("slow", "random")):
        call("run", "small.toml", "--out", name, "--policy", policy)
    told = folders.read_manifest(place / "real") | {"live": {"fleet_known": False}}
    folders.write_json(place / "real" / folders.MANIFEST, told)

    text = call("calibrate", "one", "--real", "real")
    assert "everything within 10 %" in text
    assert "! the fleet is not known" in text
    assert "not everything is within 10 %" in call("calibrate", "slow", "--real", "real", code=6)
    assert "was simulated; --real wants" in call("calibrate", "one", "--real", "one", code=1)


def test_repeats_are_a_folder_of_runs(place: Path) -> None:
    """With --repeat each number has an interval."""
    text = call("run", "small.toml", "--repeat", "3", "--out", "three", "-j", "1")

    assert "3 repetitions" in text
    assert " ± " in text
    assert len(list((place / "three" / "runs" / "coster").iterdir())) == 3


def test_the_list_names_everything(place: Path) -> None:
    """Scenarios and policies, each with what it is about."""
    found = answer("list")

    assert "demo" in found["scenarios"]
    assert found["policies"]["least_weighted"] == "fewest for its capacity"
    assert found["policies"]["oracle"] == "ours with the true lengths, lab only"
    assert "oracle, and coster-TERM" in call("run", "small.toml", "--policy", "best", code=1)
    call("run", "small.toml", "--requests", "60", "--set", "policy=oracle")


def test_help_imports_nothing_heavy() -> None:
    """Showing help loads neither numpy nor pyarrow nor Ray."""
    code = (
        "import sys; sys.argv = ['coster', 'sim', '--help']\n"
        "from coster.main import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'pyarrow', 'ray', 'scipy', 'rich'} & set(sys.modules)))"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert text.splitlines()[-1] == "[]"


SLOW = """
import time
import simulator.world.run
from coster import sim_show
from tests.support import lab_world

def simulate(scenario, policy, seed, sink):
    print("begun", flush=True)
    time.sleep(60)

simulator.world.run.simulate = simulate
from coster.main import run
run()
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_nothing_half_done(stop: signal.Signals, place: Path) -> None:
    """Ctrl-C or SIGTERM in the middle: exit code 130, a word on what stays, no folder of any
    kind.
    """
    (place / "slow.py").write_text(SLOW)
    root = Path(__file__).parents[2]
    command = [sys.executable, "slow.py", "sim", "run", "small.toml", "--out", "one"]
    env = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=place, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"

    process.send_signal(stop)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "nothing of this run was kept" in said
    assert "--resume" not in said
    assert "Traceback" not in said
    assert {path.name for path in place.iterdir()} == {"small.toml", "slow.py"}


SEVERAL = """
import sys, time
from tests.support import lab_world

def simulate(scenario, policy, seed, sink):
    with open("begun", "a") as file:
        file.write(".")
    time.sleep(60)

if __name__ == "__main__":
    from coster.stopping import terminable
    from simulator.runs.experiment import compare
    with terminable():
        compare("small.toml", ["coster", "random"], 2, "both", world="slow:simulate")
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_other_processes_too(stop: signal.Signals, place: Path) -> None:
    """The workers of a comparison stop at once, and take their unfinished folders with them."""
    (place / "slow.py").write_text(SEVERAL)
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{place}"}
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=place, env=env, stderr=subprocess.PIPE, text=True
    )
    while not (place / "begun").exists() and process.poll() is None:
        time.sleep(0.05)

    process.send_signal(stop)
    _, said = process.communicate(timeout=30)

    assert process.returncode != 0
    assert said.count("Traceback") == 1, "the script's own, and none of a worker's"
    assert folders.read_manifest(place / "both")["complete"] is False
    assert not [path for path in place.rglob("*") if folders.PARTIAL in path.name], said
