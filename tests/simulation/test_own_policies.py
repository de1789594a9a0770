"""Laws of a policy of one's own: one function, and what is wrong with it is said, not a crash."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.errors import InvalidRequest
from market.policy.registry import Policy, custom, policy_named
from market.policy.scorers import View
from simulator.results import folders
from simulator.runs.executors import InProcess
from simulator.runs.experiment import compare, run
from simulator.runs.tasks import WORLD, Done, Task
from simulator.runs.verify import verify
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import parse
from tests.support import lab_world

SKETCH = "tests.support.lab_world:sketch"


def small(requests: int = 60) -> Scenario:
    return parse(lab_world.SCENARIO, "small.toml", settings={"run.requests": str(requests)})


def emptiest(view: View) -> Any:
    return view.candidates["in_flight"]


def raises(view: View) -> Any:
    raise ZeroDivisionError("on purpose")


def raises_elsewhere(view: View) -> Any:
    return np.stack([])


def in_place(view: View) -> Any:
    scores = view.predicted.ttft_ms
    scores += 500.0 * view.candidates["in_flight"]
    return scores


def of_two(view: View, macs: int) -> Any:
    return np.zeros(macs)


class Held:
    """A policy that is an object with a method, as one with weights is."""

    def of_none(self) -> Any:
        return np.zeros(1)

    def __call__(self) -> Any:
        return np.zeros(1)


LINE_OF_TWO = of_two.__code__.co_firstlineno
LINE_OF_NONE = Held.of_none.__code__.co_firstlineno
LINE_OF_CALL = Held.__call__.__code__.co_firstlineno


def of_all(value: object) -> Callable[[View], Any]:
    return lambda view: np.full(len(view.candidates), value)


WRONG: Mapping[str, tuple[Policy, str]] = {
    policy.name: (policy, words)
    for policy, words in (
        (custom("raises", raises), r"raises raised ZeroDivisionError: on purpose \(test_own_pol"),
        (custom("deep", raises_elsewhere), r"deep raised ValueError: .* \(test_own_policies.py li"),
        (
            custom("writes", in_place),
            r"writes raised ValueError: .*read-only \(test_own_policies.p",
        ),
        (
            custom("arity", of_two),
            rf"arity raised TypeError: .* \(test_own_.*py line {LINE_OF_TWO}\)",
        ),  # type: ignore[arg-type]
        (custom("method", Held().of_none), rf"method raised .*policies.py line {LINE_OF_NONE}\)"),  # type: ignore[arg-type]
        (custom("object", Held()), rf"object raised .*policies.py line {LINE_OF_CALL}\)"),  # type: ignore[arg-type]
        (
            custom("builtin", len),
            r"builtin raised TypeError: object of type 'View' has no len\(\)$",
        ),  # type: ignore[arg-type]
        (custom("nan", of_all(np.nan)), "nan returned nan for a Mac that may be chosen"),
        (custom("infinite", of_all(-np.inf)), "infinite returned -inf for a Mac"),
        (custom("one", lambda view: np.zeros(1)), r"one returned an array of shape \(1,\); it mu"),
        (custom("nothing", lambda view: None), r"nothing returned an array of shape \(\);"),  # type: ignore[arg-type, return-value]
        (custom("text", of_all("low")), "text returned values of type <U3; scores must be numb"),
        (custom("objects", of_all(None)), "objects returned values of type object"),
        (custom("ragged", lambda view: [[1.0], [1.0, 2.0]]), "ragged returned rows of unequal"),  # type: ignore[arg-type, return-value]
        (replace(custom("nobody", emptiest), pick=lambda view, total: -1), "was left out$"),
        (replace(custom("neither", emptiest), pick=lambda view, total: None), "was left out$"),  # type: ignore[arg-type, return-value]
        (Policy("empty", "no terms", {}, lambda view, total: int(1e9)), "was left out$"),
    )
}
"""Of each kind of nonsense one, and what is said of it."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_it_is_counted_alarmed_and_said(name: str, tmp_path: Path) -> None:
    """The broken term is left out of each decision; the run goes on, is summed up, and names
    what was wrong and where.
    """
    policy, words = WRONG[name]

    result = run(small(), policy, out=tmp_path / "run")

    (alarm,) = [alarm for alarm in result.summary["alarms"] if alarm["name"] == "policy_faults"]
    assert alarm["value"] > 20
    assert result.summary["requests"]["ok"] > 40
    assert re.search(words, alarm["words"]), alarm["words"]


def test_it_decides_and_only_its_author_can_repeat_it(tmp_path: Path) -> None:
    """What it prefers is done; its name is in the folder, and others are told why they cannot
    repeat it.
    """
    last_first = custom("last-first", lambda view: -np.arange(len(view.candidates), dtype=float))

    result = run(small(), last_first, out=tmp_path / "run")
    ours = run(small(), out=tmp_path / "ours")

    liked, quick = (each.requests["mac"].mean() for each in (result, ours))
    assert liked > quick + 2.0, "the slow ones at the end of the list"
    assert (result.summary["policy"], result.summary["policy_faults"]) == ("last-first", {})
    with pytest.raises(InvalidRequest, match="a function of its author"):
        verify(result.folder, executor=InProcess())


def test_listening_to_it_changes_nothing(tmp_path: Path) -> None:
    """Given as a function, one of ours leaves the same tables as by its name."""
    name = "least_weighted"
    by_name, by_hand = (
        run(small(), policy, out=tmp_path / str(number), world=WORLD)
        for number, policy in enumerate((name, policy_named(name)))
    )

    for file in folders.COMPARED:
        assert (by_name.folder / file).read_bytes() == (by_hand.folder / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "folders are named after it"),
        ("a b", "folders are named after it"),
        ("../up", "folders are named after it"),
        (".hidden", "folders are named after it"),
        ("coster", "has a policy 'coster' of its own"),
        ("oracle", "has a policy 'oracle' of its own"),
        ("coster-price", "has a policy 'coster-price' of its own"),
    ],
)
def test_a_name_that_is_none_or_not_free_is_refused(name: str, words: str, tmp_path: Path) -> None:
    """Before anything is run, in a comparison as well, and nothing is left behind."""
    mine = custom(name, emptiest)

    with pytest.raises(InvalidRequest, match=words):
        run(small(), mine, out=tmp_path / "run", world=SKETCH)
    with pytest.raises(InvalidRequest, match=words):
        compare(small(), ["random", mine], 2, tmp_path / "both", world=SKETCH)
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_attempt_made_of_it_is_not_believed(tmp_path: Path) -> None:
    """A function may have changed since: going on does its runs again, and keeps the others'."""
    out, done = tmp_path / "both", []

    class Telling(InProcess):
        def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
            done.append([task.policy_name for task in tasks])
            return super().run(tasks)

    for resume in (False, True):
        compare(
            small(), ["random", custom("mine", emptiest)], 2, out, resume=resume,
            executor=Telling(), world=SKETCH,
        )  # fmt: skip

    assert done == [["random", "mine"] * 2, ["mine"] * 2]


def test_what_is_no_policy_is_refused_at_once(tmp_path: Path) -> None:
    """A bare function is told how it becomes one, and what is no function never becomes one."""
    for call in (
        lambda: run(small(), emptiest, out=tmp_path / "run", world=SKETCH),  # type: ignore[arg-type]
        lambda: compare(small(), ["random", emptiest], 2, tmp_path / "cmp", world=SKETCH),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidRequest, match=r"custom\('mine', function\), not a function"):
            call()
    with pytest.raises(InvalidRequest, match="needs a function from a View"):
        custom("x", 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
