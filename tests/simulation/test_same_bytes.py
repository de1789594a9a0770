"""Equal seeds give equal bytes, whatever runs them; and whatever is changed later is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simulator.results import folders
from simulator.results.parquet import read_machines, read_requests
from simulator.runs.executors import InProcess
from simulator.runs.experiment import compare, run
from simulator.runs.verify import verify
from simulator.setup.scenario_files import parse
from tests.support import everything, lab_world

SKETCH = "tests.support.lab_world:sketch"
ROOT = Path(__file__).parents[2]

MACHINES = {
    "one": {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "another": {
        "PYTHONHASHSEED": "4", "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4",
        "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_PERTURB_": "85", "TZ": "Asia/Tokyo",
        "LC_ALL": "C.UTF-8",
    },
}  # fmt: skip
"""What two machines may differ in that the same code and versions run on. Under these two hash
seeds a set of the models comes in opposite orders."""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Everything under every policy: in one process here, and in two processes there."""
    places = []
    for processes, (name, settings) in enumerate(MACHINES.items(), start=1):
        place = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "tests.support.everything", str(place), str(processes)]
        subprocess.run(command, env=os.environ | settings, cwd=ROOT, check=True)
        places.append(place)
    return places


@pytest.mark.parametrize("policy", everything.ALL)
def test_equal_seeds_give_equal_bytes_whatever_runs_them(twice: list[Path], policy: str) -> None:
    """Tables, summary and page are the same to the byte under another hash seed, with other numbers
    of threads and of processes, another memory, clock and language.
    """
    one, another = (place / policy for place in twice)

    names = folders.read_manifest(one)["files"]
    assert (*names,) == (folders.DIGESTED if policy == "coster" else folders.COMPARED)
    for name in names:
        assert (one / name).read_bytes() == (another / name).read_bytes(), name
    assert (one / folders.MANIFEST).read_bytes() == (another / folders.MANIFEST).read_bytes()


def test_everything_came_to_pass_in_what_was_compared(twice: list[Path]) -> None:
    """Macs were lost and answers went on, models were loaded, budgets came to their end, prompts
    were known, second tries were made, wishes were refused.
    """
    rows = read_requests(twice[0] / "coster" / folders.REQUESTS)
    macs = read_machines(twice[0] / "coster" / folders.MACHINES)

    assert sum(mac.losses for mac in macs) > 0
    assert sum(mac.loads for mac in macs) > 0
    assert rows["continuations"].sum() > 0
    assert rows["hedged"].sum() > 0
    assert rows["cached_tokens"].sum() > 0
    assert {"insufficient_balance"} <= set(rows.text("code").names)


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize("name", folders.COMPARED)
def test_one_flipped_byte_is_found_and_named(name: str, forged: bool, tmp_path: Path) -> None:
    """Wherever it is; and if the manifest has been made to agree with it, the repetition tells."""
    scenario = parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "60"})
    folder = run(scenario, out=tmp_path / "run", world=SKETCH).folder
    whole = (folder / name).read_bytes()
    random = np.random.Generator(np.random.PCG64(1))

    for at in [0, len(whole) - 1, *random.integers(0, len(whole), 6).tolist()]:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(random.integers(0, 8))
        (folder / name).write_bytes(changed)
        if forged:
            manifest = folders.read_manifest(folder)
            manifest["files"][name] = folders.digest_of(folder / name)
            (folder / folders.MANIFEST).write_text(json.dumps(manifest), "utf-8")
        (verdict,) = verify(folder, executor=InProcess(), world=SKETCH)
        assert len(verdict.differs) == 1, at
        assert verdict.differs[0].startswith(f"{name} differs" if forged else f"{name} is not what")


def test_a_changed_run_is_found_among_many(tmp_path: Path) -> None:
    """Of a comparison the one run that was changed is named, and no other."""
    scenario = parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "60"})
    both = compare(
        scenario, ["coster", "random"], 3, tmp_path / "both", executor=InProcess(), world=SKETCH
    )
    changed = both.folder / "runs" / "random" / "001" / folders.REQUESTS
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")

    bad = [v.folder for v in verify(both.folder, executor=InProcess(), world=SKETCH) if not v.same]

    assert bad == [changed.parent]
