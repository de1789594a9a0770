"""Laws of going on: what stands beside each other was made of the same, by the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from market.errors import InvalidRequest
from simulator.results import folders, surroundings
from simulator.runs.executors import InProcess
from simulator.runs.experiment import Comparison, compare
from simulator.runs.tasks import Done, Task, run_task
from simulator.runs.verify import verify
from simulator.setup.replay import replayed
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

SKETCH = "tests.support.lab_world:sketch"
POLICIES = ("coster", "random")


def small() -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": "40"})


class Counted:
    """Does tasks here, at most so many, and counts them."""

    def __init__(self, most: int | None = None) -> None:
        self.count = 0
        self._most = most

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        for number, task in enumerate(tasks):
            if self.count == self._most:
                raise KeyboardInterrupt
            self.count += 1
            yield number, run_task(task)


def interrupted(scenario: Scenario, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(scenario, POLICIES, 2, out, executor=Counted(3), world=SKETCH)


def resumed(scenario: Scenario, out: Path) -> tuple[Comparison, int]:
    rest = Counted()
    whole = compare(scenario, POLICIES, 2, out, executor=rest, resume=True, world=SKETCH)
    return whole, rest.count


def test_what_the_same_code_did_is_kept(tmp_path: Path) -> None:
    """With nothing changed only what is missing is done, and nothing is said of the rest."""
    interrupted(small(), tmp_path / "cmp")

    whole, count = resumed(small(), tmp_path / "cmp")

    assert count == 1
    assert whole.again == {}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("code", "0" * 64, "by other code of market/ or simulator/"),
        ("versions", {"coster": "0.0.1"}, "with other versions"),
        ("inputs", {"day.jsonl": "0" * 64}, "a file that it reads has changed"),
    ],
    ids=["code", "versions", "inputs"],
)
def test_what_was_made_by_or_of_something_else_is_done_again(
    key: str, value: object, words: str, tmp_path: Path
) -> None:
    """Runs by other code, other versions or of another trace stand beside no run of today's:
    they are done once more, and how many and why is told.
    """
    out = tmp_path / "cmp"
    interrupted(small(), out)
    for place in sorted(out.glob("runs/*/*"))[:2]:
        manifest = folders.read_manifest(place)
        assert key in manifest, "what is not written down cannot be compared"
        folders.write_json(place / folders.MANIFEST, manifest | {key: value})

    whole, count = resumed(small(), out)

    assert count == 3  # one was missing, two cannot stand
    ((why, how_many),) = whole.again.items()
    assert how_many == 2
    assert words in why
    made = [folders.read_manifest(place)[key] for place in out.glob("runs/*/*")]
    assert all(each == made[0] for each in made)


def test_other_code_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed line and a new module, committed or not, are other code; equal code is the same
    wherever it is.
    """

    def digest(place: str, **modules: str) -> str:
        package = ModuleType("lab")
        package.__path__ = [str(tmp_path / place / "lab")]
        Path(package.__path__[0]).mkdir(parents=True)
        for name, text in modules.items():
            (tmp_path / place / "lab" / f"{name}.py").write_text(text)
        monkeypatch.setattr(surroundings, "PACKAGES", (package,))
        return surroundings.code_digest.__wrapped__()

    digests = [digest("0", a="x = 1"), digest("1", a="x = 2"), digest("2", a="x = 1", b="")]

    assert len(set(digests)) == 3
    assert digest("3", a="x = 1") == digests[0]


def rows(path: Path, prompt_tokens: int) -> Path:
    row = {"input_length": prompt_tokens, "output_length": 9, "model": "qwen3.5-7b"}
    path.write_text("".join(json.dumps({"timestamp": 500 * n, **row}) + "\n" for n in range(40)))
    return path


def test_a_trace_that_was_changed_is_played_anew(tmp_path: Path) -> None:
    """The trace that is there now is what every run is of; until then the change is named."""
    trace, out = rows(tmp_path / "day.jsonl", 100), tmp_path / "cmp"
    compare(replayed(small(), trace, 1.0, 40), POLICIES, 2, out, executor=InProcess())
    rows(trace, 900)

    with pytest.raises(InvalidRequest, match=r"day\.jsonl is not the file that was replayed"):
        verify(out / "runs" / "random" / "001", executor=InProcess())
    again = compare(
        replayed(small(), trace, 1.0, 40), POLICIES, 2, out, resume=True, executor=InProcess()
    )

    assert again.again == {"a file that it reads has changed": 4}
    assert {run.requests["prompt_tokens"].mean() for run in again.runs("random")} == {900.0}


def test_a_run_of_another_trace_is_found_among_the_others(tmp_path: Path) -> None:
    """A comparison is verified by each run's own inputs, not only by those of the whole."""
    trace, out = rows(tmp_path / "day.jsonl", 100), tmp_path / "cmp"
    compare(replayed(small(), trace, 1.0, 40), POLICIES, 2, out, executor=InProcess())
    place = out / "runs" / "coster" / "001"
    manifest = folders.read_manifest(place)
    folders.write_json(place / folders.MANIFEST, manifest | {"inputs": {str(trace): "0" * 64}})

    with pytest.raises(InvalidRequest, match=r"day\.jsonl is not the file"):
        verify(out, executor=InProcess())


@pytest.mark.parametrize(
    ("of", "key", "value", "words"),
    [
        ("run", "config", 5, "config is 5, which no run of ours has"),
        ("run", "seed", "one", "seed is 'one'"),
        ("run", "files", None, "files is None"),
        ("run", "kind", "ran", "kind is 'ran'"),
        ("both", "config", [], r"config is \[\]"),
        ("both", "points", {}, "points is {}"),
        ("both", "repeat", True, "repeat is True"),
    ],
)
def test_an_edited_manifest_is_named(
    of: str, key: str, value: object, words: str, tmp_path: Path
) -> None:
    """What no run of ours has in its manifest is told with file and key, not as a traceback."""
    compare(small(), POLICIES, 2, tmp_path / "both", executor=InProcess(), world=SKETCH)
    place = tmp_path / "both" / ("runs/coster/000" if of == "run" else "")
    manifest = folders.read_manifest(place)
    folders.write_json(place / folders.MANIFEST, manifest | {key: value})

    with pytest.raises(InvalidRequest, match=rf"manifest\.json: {words}"):
        verify(place, executor=InProcess(), world=SKETCH)
    del manifest[key]
    folders.write_json(place / folders.MANIFEST, manifest)
    with pytest.raises(InvalidRequest, match=f"{key} is missing"):
        verify(place, executor=InProcess(), world=SKETCH)
