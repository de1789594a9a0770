"""Laws of verifying: whatever of a folder was edited is named, also of the whole and its page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.errors import InvalidRequest
from market.policy.registry import custom
from simulator.results import folders
from simulator.results.summary import as_text
from simulator.runs.executors import InProcess
from simulator.runs.experiment import compare, run, sweep
from simulator.runs.verify import Verdict, verify
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

SKETCH = "tests.support.lab_world:sketch"
POLICIES = ("coster", "random")


def small() -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "60"})


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and two policies over two seeds."""
    place = tmp_path_factory.mktemp("untouched")
    run(small(), out=place / "one", world=SKETCH)
    compare(small(), POLICIES, 2, place / "both", executor=InProcess(), world=SKETCH)
    return place


@pytest.fixture
def both(untouched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untouched / "both", tmp_path / "both")


@pytest.fixture
def one(untouched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untouched / "one", tmp_path / "one")


def verified(folder: Path, cells: int | None = None) -> list[Verdict]:
    return verify(folder, cells=cells, executor=InProcess(), world=SKETCH)


def reasons(folder: Path, cells: int | None = None) -> dict[str, tuple[str, ...]]:
    """What differs, by the place below the folder; the whole is `.`."""
    return {
        str(verdict.folder.relative_to(folder)): verdict.differs
        for verdict in verified(folder, cells)
        if not verdict.same
    }


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest."""
    manifest = folders.read_manifest(folder)
    change(manifest)
    folders.write_json(folder / folders.MANIFEST, manifest)


def agree(folder: Path, name: str) -> None:
    """Make the manifest's digest that of the file."""
    edit(folder, lambda manifest: manifest["files"].update({name: digest(folder, name)}))


def digest(folder: Path, name: str) -> str:
    return folders.digest_of(folder / name)


def better_than_it_was(folder: Path) -> None:
    """Forge the summary of a comparison."""
    summary = folders.read_json(folder / folders.SUMMARY)
    found = summary["points"][0]["differences"]["random"]["e2e_s.mean"]
    found.update({"mean": -99.0, "verdict": "better"})
    folders.write_json(folder / folders.SUMMARY, summary)


def swapped(folder: Path) -> None:
    """Forge a page."""
    page = (folder / folders.REPORT).read_text("utf-8")
    (folder / folders.REPORT).write_text(page.replace("coster", "retsoc"), "utf-8")


def test_the_digests_of_all_but_the_times_are_in_the_manifest(both: Path, one: Path) -> None:
    """Of a run and of a comparison: whatever is written beside the manifest and `timing.json`."""
    for folder in (both, one, both / "runs" / "coster" / "000"):
        written = {path.name for path in folder.iterdir() if path.is_file()}
        told = folders.read_manifest(folder)["files"]
        assert told.keys() == written - {folders.MANIFEST, folders.TIMING}
        assert all(digest(folder, name) == told[name] for name in told)


def test_an_untouched_comparison_is_the_same_again_as_a_whole(both: Path) -> None:
    """Each of its runs, and what they come to."""
    found = verified(both)

    assert [verdict.same for verdict in found] == [True] * 5
    assert [verdict.folder for verdict in found if verdict.whole] == [both]
    assert not any(verdict.notes for verdict in found)


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize(
    ("name", "forge", "words"),
    [
        (folders.SUMMARY, better_than_it_was,
         ("summary.json differs in points.0.differences.random.e2e_s.mean.mean, "
          "points.0.differences.random.e2e_s.mean.verdict")),
        (folders.REPORT, swapped, "report.html differs"),
    ],
)  # fmt: skip
def test_an_edited_comparison_is_named(
    name: str, forge: Callable[[Path], None], words: str, forged: bool, both: Path
) -> None:
    """Its numbers and its page are made anew from its runs, whatever the manifest says."""
    forge(both)
    if forged:
        agree(both, name)

    not_written = f"{name} is not what was written: it was changed afterwards"
    assert reasons(both) == {".": (words if forged else not_written,)}


def test_a_plan_that_its_runs_are_not_of_is_named(both: Path) -> None:
    """Of another seed or setting, and of fewer repetitions than were compared."""
    edit(both, lambda manifest: manifest.update(seed=77))
    found = reasons(both)
    assert set(found) == {f"runs/{name}/00{n}" for name in POLICIES for n in (0, 1)}
    assert found["runs/random/001"] == (
        "the seed in its manifest is not the comparison's: this is no run of it",
    )

    edit(both, lambda manifest: manifest.update(seed=7, scenario_hash="0" * 64))
    assert reasons(both) == {".": ("the scenario_hash in its manifest is not its config's",)}
    edit(both, lambda manifest: manifest.update(scenario_hash=small().hash, repeated=1))
    found = reasons(both)
    assert set(found) == {"."}
    assert found["."][0].startswith("summary.json differs in points.0.")
    assert found["."][1] == "report.html differs"


@pytest.mark.parametrize(
    ("key", "value"),
    [("scenario_hash", "0" * 64), ("policy", "random"), ("inputs", {})],
)
def test_a_run_of_something_else_is_named_even_if_it_is_not_repeated(
    key: str, value: object, both: Path
) -> None:
    """With `cells` only so many are run again, and all are held against the plan."""
    place = both / "runs" / "coster" / "001"
    told = folders.read_manifest(place)
    if key == "inputs":
        value = {str(place / folders.SUMMARY): digest(place, folders.SUMMARY)}
    folders.write_json(place / folders.MANIFEST, told | {key: value})

    found = reasons(both, cells=1)

    assert list(found) == ["runs/coster/001"]
    assert found["runs/coster/001"][0].startswith(f"the {key} in its manifest is not the")


def test_a_damaged_run_is_named_even_if_it_is_not_repeated(both: Path) -> None:
    """What the whole comes to is then not made anew, and that is said."""
    (both / "runs" / "random" / "001" / folders.SUMMARY).write_text("{}")

    whole, bad = (
        next(v for v in verified(both, cells=1) if v.whole),
        reasons(both, cells=1),
    )

    assert bad == {
        "runs/random/001": ("summary.json is not what was written: it was changed afterwards",)
    }
    assert "not made anew" in whole.notes[0]


def test_what_is_gone_is_named(both: Path, one: Path) -> None:
    """Of a run the page, of a comparison the page and the numbers."""
    for folder in (both, one):
        (folder / folders.REPORT).unlink()
    (both / folders.SUMMARY).unlink()

    assert reasons(one) == {".": ("report.html is missing",)}
    assert reasons(both) == {".": ("summary.json is missing", "report.html is missing")}


@pytest.mark.parametrize("forged", [False, True])
def test_one_flipped_byte_of_a_page_is_found(forged: bool, one: Path) -> None:
    """The page of a run is drawn anew of what the repetition gave."""
    page = bytearray((one / folders.REPORT).read_bytes())
    page[len(page) // 2] ^= 1
    (one / folders.REPORT).write_bytes(page)
    if forged:
        agree(one, folders.REPORT)

    ((reason,),) = reasons(one).values()

    assert reason.startswith("report.html differs" if forged else "report.html is not what was")


def test_what_an_older_coster_left_is_said_to_be_without_digests(both: Path, one: Path) -> None:
    """No crash: what has none is made anew all the same, and that it has none is told."""
    edit(both, lambda manifest: manifest.pop("files"))
    edit(one, lambda manifest: manifest["files"].pop(folders.REPORT))

    assert reasons(both) == reasons(one) == {}
    (whole,) = (verdict for verdict in verified(both) if verdict.whole)
    (alone,) = verified(one)
    assert whole.notes == tuple(
        f"{name} has no digest in the manifest: an older coster wrote it"
        for name in (folders.SUMMARY, folders.REPORT)
    )
    assert alone.notes == whole.notes[1:]
    better_than_it_was(both)
    assert list(reasons(both)) == ["."]


def test_a_sweep_is_verified_as_a_whole(tmp_path: Path) -> None:
    """Point by point, with the curves on its page; a point that is named otherwise is found."""
    over = {"workload.0.rate_per_s": ["0.5", "1.0"]}
    place = sweep(
        small(), over, ["coster"], 2, tmp_path / "swept", executor=InProcess(), world=SKETCH
    ).folder
    assert reasons(place) == {}

    edit(place, lambda manifest: manifest["points"].reverse())
    assert set(reasons(place)) == {
        f"runs/{point}-coster/{n}" for point in ("000", "001") for n in ("000", "001")
    }


def test_only_its_author_can_verify_a_comparison_with_a_function(tmp_path: Path) -> None:
    """What nobody else can run again is refused with the reason."""
    mine = custom("mine", lambda view: np.zeros(len(view.candidates)))
    place = tmp_path / "both"
    compare(small(), ["coster", mine], 2, place, executor=InProcess(), world=SKETCH)

    with pytest.raises(InvalidRequest, match="a function of its author"):
        verified(place)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("policies", [5], r"policies is \[5\]"),
        ("points", ["x"], r"points is \['x'\]"),
        ("repeated", 10**9, "repeat is 1000000000"),
        ("files", [], r"files is \[\]"),
    ],
)
def test_a_plan_that_can_be_none_is_refused(
    key: str, value: object, words: str, both: Path
) -> None:
    """An edited manifest is told with its key, not by a traceback or by a day of reading."""
    edit(both, lambda manifest: manifest.update({key: value}))

    with pytest.raises(InvalidRequest, match=words):
        verified(both)


def test_the_text_of_numbers_counts_too(both: Path) -> None:
    """Byte for byte: an equal summary in another spelling is not what was written."""
    summary = folders.read_json(both / folders.SUMMARY)
    (both / folders.SUMMARY).write_text(json.dumps(summary), "utf-8")
    assert (both / folders.SUMMARY).read_text("utf-8") != as_text(summary)
    agree(both, folders.SUMMARY)

    assert reasons(both) == {".": ("summary.json differs in nothing but its spelling",)}
