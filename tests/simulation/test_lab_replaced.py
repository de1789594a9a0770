"""Laws of a kill while a run is written over: the old one is there, or the new one, and whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from market.errors import Conflict
from simulator.results import folders
from simulator.runs.executors import InProcess
from simulator.runs.experiment import compare, run
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

SKETCH = "tests.support.lab_world:sketch"
ROOT = Path(__file__).parents[2]

KILLED = """
import os, shutil, sys
from pathlib import Path
from simulator.results import folders

place, kind, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = 0

def die(event, args):
    global seen
    if event in ("os.rename", "os.rmdir", "os.remove", "shutil.rmtree") and armed:
        seen += 1
        if seen == nth:
            os._exit(9)

armed = False
sys.addaudithook(die)
with folders.whole(place, replace=True) as fresh:
    (fresh / folders.MANIFEST).write_text("new")
    (fresh / folders.SUMMARY).write_text("new")
    armed = True
armed = False
print("done")
"""
"""Replaces a folder; ends at the nth thing that it does to the disk once the new one is written."""


def small() -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "40"})


def old(place: Path) -> Path:
    """A folder with a manifest and more, some of it in a folder of its own."""
    (place / "runs").mkdir(parents=True)
    for name in (folders.MANIFEST, folders.SUMMARY, "runs/one", "runs/two"):
        (place / name).write_text("old")
    return place


def test_a_kill_at_any_moment_leaves_one_of_them_whole(tmp_path: Path) -> None:
    """What is there then is the old or the new one, and the next attempt takes the place, with
    --replace, and clears the rest.
    """
    ends = []
    for nth in (1, 2, 3, 4, 6, 99):
        place = old(tmp_path / str(nth) / "run")
        command = [sys.executable, "-c", KILLED, str(place), "run", str(nth)]
        told = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if told.stdout == "done\n":
            break
        assert told.returncode == 9, told.stderr

        with pytest.raises(Conflict, match="give --replace"), folders.whole(place):
            pass
        found = {path.read_text() for path in place.rglob("*") if path.is_file()}
        assert len(found) == 1, "never a mixture"
        files = sum(path.is_file() for path in place.rglob("*"))
        assert files == (4 if found == {"old"} else 2), "never a part"
        ends += found
        with folders.whole(place, replace=True) as fresh:
            (fresh / folders.MANIFEST).write_text("newer")
        assert [path.name for path in place.parent.iterdir()] == ["run"]
        assert [path.name for path in place.iterdir()] == [folders.MANIFEST]

    assert told.stdout == "done\n"
    assert ends == ["old", "old", "new", "new", "new"], "it is the new one once it is in its place"


def test_a_comparison_goes_on_from_what_a_kill_put_aside(tmp_path: Path) -> None:
    """With --resume it is found again, though it was under another name."""
    out = tmp_path / "both"
    compare(small(), ["coster", "random"], 2, out, executor=InProcess(), world=SKETCH)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    out.rename(tmp_path / f".both{folders.PARTIAL}{folders.ASIDE}{gone.pid}")

    again = compare(
        small(), ["coster", "random"], 2, out, resume=True, executor=InProcess(), world=SKETCH
    )

    assert again.again == {}
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


def test_what_a_living_process_put_aside_is_left_to_it(tmp_path: Path) -> None:
    """It is about to put the new one into its place."""
    aside = old(tmp_path / f".run{folders.PARTIAL}{folders.ASIDE}{os.getppid()}")

    run(small(), out=tmp_path / "run", world=SKETCH)

    assert aside.exists()


def test_an_interrupt_in_between_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the old one was put aside: it is as it was."""
    place = old(tmp_path / "run")
    rename = Path.rename

    def interrupted(self: Path, target: Any) -> Path:
        if Path(target) == place and folders.ASIDE not in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), folders.whole(place, replace=True) as fresh:
        (fresh / folders.MANIFEST).write_text("new")

    assert (place / "runs" / "two").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_of_a_link_only_the_link_is_replaced(tmp_path: Path) -> None:
    """What it leads to may be kept elsewhere for a reason."""
    kept, place = old(tmp_path / "kept"), tmp_path / "run"
    place.symlink_to(kept)

    with folders.whole(place, replace=True) as fresh:
        (fresh / folders.MANIFEST).write_text("new")

    assert (kept / "runs" / "two").read_text() == "old"
    assert (place / folders.MANIFEST).read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "run"]


def test_what_was_put_aside_is_no_run(tmp_path: Path) -> None:
    """Neither for who reads all runs of a folder, nor under a name with brackets."""
    run(small(), out=tmp_path / "a[1]", world=SKETCH)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".a[1]{folders.PARTIAL}{folders.ASIDE}{gone.pid}"
    shutil.copytree(tmp_path / "a[1]", left)

    assert folders.runs_in(tmp_path) == [tmp_path / "a[1]"]
    run(small(), out=tmp_path / "a[1]", world=SKETCH, replace=True)
    assert not left.exists()
