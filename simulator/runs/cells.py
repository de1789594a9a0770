"""A folder of many runs: points of a sweep × policies × repetitions.

Each cell is a run of its own, in a folder of its own. The whole says that it is complete only
when every cell is there; what was interrupted goes on where it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.errors import Conflict, InvalidRequest
from market.policy.registry import Policy
from simulator.results import folders
from simulator.results.surroundings import surroundings
from simulator.runs.comparison import METRICS, Summaries, compared, settled
from simulator.runs.executors import Executor
from simulator.runs.numbers import share, whole
from simulator.runs.own_policies import checked
from simulator.runs.tasks import WORLD, Task, policy_of
from simulator.setup.scenario import REPEAT_MAX, SEED_MAX, Scenario
from simulator.setup.scenario_files import of_config, set_values

RUNS: Final = "runs"
POINTS_MAX: Final = 1_000
POLICIES_MAX: Final = 50
CELLS_MAX: Final = 100_000
ROUND: Final = 5
"""Repetitions that are done before it is first asked whether they are enough, and from then on
that many between two questions: stopping at each lucky moment would make intervals too narrow."""

WHY_AGAIN: Final[Mapping[str, str]] = {
    "scenario_hash": "its setting was another",
    "policy": "its policy was another",
    "policy_named": "its policy was a function",
    "seed": "its seed was another",
    "inputs": "a file that it reads has changed",
    "versions": "it was run with other versions of coster, Python or its libraries",
    "code": "it was run by other code of market/ or simulator/",
    folders.DAMAGED: "its files are not as they were written",
}
"""Why a run that is there is done once more."""

OWN: Final = "nobody knows whether a function is still the same"

Again = Counter[str]
"""How many runs were there and had to be done once more, by the reason."""

Told = Callable[[int, int], None]
"""Told how many cells are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be compared. `points` are settings laid over the scenario; one empty one is no
    sweep. The first policy is what the others are compared with. With `until`, repetitions end
    when `metric` is known to within that share of itself everywhere, at `repeat` at the latest.
    """

    scenario: Scenario
    policies: tuple[str | Policy, ...]
    repeat: int
    seed: int
    points: tuple[Mapping[str, str], ...] = ({},)
    until: float | None = None
    metric: str = "e2e_s.mean"
    world: str = WORLD

    def check(self) -> None:
        """Raise InvalidRequest for what cannot be compared."""
        names = self.names
        if not 0 < len(names) <= POLICIES_MAX or len(set(names)) < len(names):
            raise InvalidRequest(f"Give from 1 to {POLICIES_MAX} policies, each once.", "policies")
        for policy in self.policies:
            policy_of(policy)
        self.check_numbers()
        if len(names) > 1 and self.repeat < 2:
            raise InvalidRequest(
                "One run of each says nothing about which is better; give --repeat 10.", "repeat"
            )
        if self.metric not in METRICS:
            raise InvalidRequest(
                f"There is no metric {self.metric[:60]!r}; there are {', '.join(METRICS)}.",
                "metric",
            )

    def check_numbers(self) -> None:
        """Raise InvalidRequest for more runs than there can be, or seeds that are none."""
        whole("repeat", self.repeat, 1, REPEAT_MAX)
        whole("seed", self.seed, 0, SEED_MAX - self.repeat + 1)
        if self.until is not None:
            share("until", self.until)
        if not 0 < len(self.points) <= POINTS_MAX:
            raise InvalidRequest(f"A sweep has from 1 to {POINTS_MAX} points.", "set")
        if len(self.points) * len(self.policies) * self.repeat > CELLS_MAX:
            raise InvalidRequest(f"That is more than {CELLS_MAX} runs.", "repeat")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p if isinstance(p, str) else checked(p).name for p in self.policies)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per repetition, the same for every policy and every point."""
        return tuple(self.seed + number for number in range(self.repeat))

    def at(self, point: int) -> Scenario:
        """The scenario with a point's settings. Raises InvalidRequest naming what is wrong."""
        values = json.loads(self.scenario.config)
        set_values(values, self.points[point])
        words = ", ".join(f"{key}={text}" for key, text in self.points[point].items())
        return of_config(values, f"{self.scenario.name} with {words}" if words else "the scenario")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a plan."""

    point: int
    policy: int
    repetition: int


def folder_of(plan: Plan, cell: Cell) -> Path:
    """Where a cell is, below the folder of the whole."""
    return place_of(plan.names[cell.policy], cell.point, len(plan.points), cell.repetition)


def place_of(policy: str, point: int, points: int, repetition: int) -> Path:
    """The same by the policy's name, for one of so many points."""
    at = f"{point:03d}-{policy}" if points > 1 else policy
    return Path(RUNS) / at / f"{repetition:03d}"


Inputs = Sequence[Mapping[str, str]]
"""By point of a plan, the digest of each file that is read there."""


def inputs_of(plan: Plan) -> Inputs:
    """What the files are now that the runs of a plan read. Raises InvalidRequest for missing ones.

    A file that many points read is read once: traces are large.
    """
    known: dict[str, str] = {}
    found = []
    for point in range(len(plan.points)):
        files = folders.files_of(plan.at(point).config)
        known |= {file: folders.digest_of(Path(file)) for file in files if file not in known}
        found.append({file: known[file] for file in files})
    return found


def manifest_of(plan: Plan, inputs: Inputs, repeated: int = 0) -> dict[str, Any]:
    """What the whole is of; complete once it is said how many repetitions there are."""
    return {
        "schema": folders.SCHEMA,
        "kind": "comparison",
        "complete": repeated > 0,
        "name": plan.scenario.name,
        "policies": list(plan.names),
        "policies_named": [isinstance(policy, str) for policy in plan.policies],
        "repeat": plan.repeat,
        "repeated": repeated,
        "seed": plan.seed,
        "points": [dict(point) for point in plan.points],
        "until": plan.until,
        "metric": plan.metric,
        "scenario_hash": plan.scenario.hash,
        "config": json.loads(plan.scenario.config),
        "inputs": {file: digest for each in inputs for file, digest in each.items()},
        **surroundings(),
    }


def begin(plan: Plan, folder: Path, *, resume: bool, replace: bool) -> Inputs:
    """Claim the folder for this plan, and say what its files are. Raises Conflict when the folder
    is of another plan.
    """
    plan.check()
    inputs = inputs_of(plan)
    manifest = manifest_of(plan, inputs)
    if resume:
        folders.settle(folder)
    if not (resume and (folder / folders.MANIFEST).is_file()):
        with folders.whole(folder, replace=replace) as fresh:
            folders.write_json(fresh / folders.MANIFEST, manifest)
        return inputs
    found = folders.read_manifest(folder)
    for key in ("kind", "scenario_hash", "policies", "points", "seed"):
        if found.get(key) != manifest[key]:
            raise Conflict(
                f"{folder} is of another experiment: its {key} differs. Give another --out.", "out"
            )
    folders.write_json(folder / folders.MANIFEST, manifest)
    return inputs


def check_inputs(plan: Plan, folder: Path, repeat: int, began: Inputs) -> None:
    """Raise Conflict unless every run read what was there when the plan was begun, and it is
    still there: runs of different loads compare nothing.
    """
    for before, now in zip(began, inputs_of(plan), strict=True):
        folders.check_unchanged(before, now)
    for cell in _cells(plan, range(repeat)):
        read = folders.read_manifest(folder / folder_of(plan, cell))["inputs"]
        folders.check_unchanged(began[cell.point], read)


def do_all(
    plan: Plan, folder: Path, executor: Executor, told: Told | None = None
) -> tuple[int, Again]:
    """Do the cells that are missing, in rounds if the plan may end early. Returns how many
    repetitions there are in the end, and which cells were there and could not stand.
    """
    again = Again()
    if plan.until is None:
        _do(plan, folder, executor, range(plan.repeat), told, again)
        return plan.repeat, again
    repeat = 0
    while repeat < plan.repeat:
        more = range(repeat, min(repeat + ROUND, plan.repeat))
        _do(plan, folder, executor, more, told, again)
        repeat = more.stop
        points = summaries_of(plan, folder, repeat)
        if settled(points, plan.metric, plan.until):
            break
    return repeat, again


def _do(
    plan: Plan,
    folder: Path,
    executor: Executor,
    repetitions: range,
    told: Told | None,
    again: Again,
) -> None:
    cells = list(_cells(plan, repetitions))
    missing = _missing(plan, folder, cells, again)
    before = len(_cells_until(plan, repetitions.start))
    total = len(_cells_until(plan, plan.repeat))
    done = before + len(cells) - len(missing)
    if told is not None:
        told(done, total)
    for _ in executor.run(missing) if missing else ():
        done += 1
        if told is not None:
            told(done, total)


def _missing(plan: Plan, folder: Path, cells: Sequence[Cell], again: Again) -> list[Task]:
    """What is to be done of these cells; `again` counts those that are there and cannot stand."""
    scenarios = [plan.at(point) for point in range(len(plan.points))]
    here = surroundings()
    made_by = {key: here[key] for key in ("versions", "code")}
    inputs = inputs_of(plan)
    missing: list[Task] = []
    for cell in cells:
        place, scenario = folder / folder_of(plan, cell), scenarios[cell.point]
        policy, seed = plan.policies[cell.policy], plan.seeds[cell.repetition]
        if (place / folders.MANIFEST).is_file():
            expected = {
                "scenario_hash": scenario.hash,
                "policy": plan.names[cell.policy],
                "policy_named": isinstance(policy, str),
                "seed": seed,
                "inputs": inputs[cell.point],
                **made_by,
            }
            unlike = folders.unlike(place, expected)
            if unlike is None and isinstance(policy, str):
                continue
            again[OWN if unlike is None else WHY_AGAIN[unlike]] += 1
        missing.append(
            Task(
                config=scenario.config,
                policy=policy,
                seed=seed,
                folder=place,
                report=False,
                replace=True,
                world=plan.world,
            )
        )
    return missing


def _cells(plan: Plan, repetitions: range) -> Iterator[Cell]:
    """Repetition by repetition, so that what is interrupted is comparable as far as it came."""
    for repetition in repetitions:
        for point in range(len(plan.points)):
            for policy in range(len(plan.policies)):
                yield Cell(point, policy, repetition)


def _cells_until(plan: Plan, repeat: int) -> range:
    return range(repeat * len(plan.points) * len(plan.policies))


def summaries_of(plan: Plan, folder: Path, repeat: int) -> list[Summaries]:
    """By point and policy, the summaries of all repetitions."""
    return [
        {
            name: [
                folders.read_json(
                    folder / folder_of(plan, Cell(point, at, number)) / folders.SUMMARY
                )
                for number in range(repeat)
            ]
            for at, name in enumerate(plan.names)
        }
        for point in range(len(plan.points))
    ]


def comparison_of(plan: Plan, folder: Path, repeat: int) -> dict[str, Any]:
    """What the whole comes to."""
    points: Sequence[Summaries] = summaries_of(plan, folder, repeat)
    return {
        "schema": folders.SCHEMA,
        "kind": "comparison",
        "name": plan.scenario.name,
        "scenario_hash": plan.scenario.hash,
        "reference": plan.names[0],
        "policies": list(plan.names),
        "seeds": list(plan.seeds[:repeat]),
        "points": [
            {"settings": dict(settings), **compared(summaries, plan.names[0])}
            for settings, summaries in zip(plan.points, points, strict=True)
        ],
    }
