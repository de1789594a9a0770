"""The lab for who writes Python: run a scenario, compare policies, sweep a setting.

    from market.policy.registry import custom
    from simulator.runs.experiment import compare, run

    result = run("demo", policy=custom("mine", score), seed=1, out="runs/mine")
    result.summary["ttft_s"]["p99"]
    compare("multi_model", ["coster", "least_weighted"], repeat=10, out="runs/both")

A policy is a name, or a function of one's own behind `custom`; only named ones travel to other
processes and can be repeated by others. Those processes start afresh and do not read the script
that asked for them, so it needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from market.errors import InvalidRequest
from market.policy.registry import Policy
from simulator.records import MacUsed
from simulator.report.comparison_page import comparison_page
from simulator.results import folders
from simulator.results.columns import Requests
from simulator.results.parquet import read_machines, read_requests
from simulator.runs import cells
from simulator.runs.cells import Plan, Told
from simulator.runs.executors import Executor, InProcess, LocalProcesses
from simulator.runs.numbers import whole
from simulator.runs.own_policies import checked
from simulator.runs.tasks import WORLD, Progress, Task, run_task
from simulator.setup.scenario import REPEAT_MAX, SEED_MAX, Scenario
from simulator.setup.scenario_files import load, of_config

SHOWN_PX: Final = 720
"""Height of a report in a notebook."""

Where = str | Path
What = str | Path | Scenario


@dataclass(frozen=True)
class Result:
    """A run that is in its folder. A notebook shows its report."""

    folder: Path
    summary: Mapping[str, Any] = field(repr=False)

    @property
    def requests(self) -> Requests:
        """Every request, as columns."""
        return read_requests(self.folder / folders.REQUESTS)

    @property
    def machines(self) -> list[MacUsed]:
        return read_machines(self.folder / folders.MACHINES)

    def _repr_html_(self) -> str:
        return _shown(self.folder)


@dataclass(frozen=True)
class Comparison:
    """Several runs that are in their folder. `summary["points"]` has one entry per point.

    `again` counts, by the reason, what was there already and could not stand beside the rest.
    """

    folder: Path
    summary: Mapping[str, Any] = field(repr=False)
    again: Mapping[str, int] = field(default_factory=dict, repr=False)

    def level(self, policy: str, metric: str, point: int = 0) -> Mapping[str, Any]:
        """A number of a policy: its `mean` and where it lies with 95 % confidence, from `low` to
        `high`. Raises InvalidRequest listing the names there are.
        """
        return self._found("policies", policy, metric, point)

    def difference(self, policy: str, metric: str, point: int = 0) -> Mapping[str, Any]:
        """How a policy differs from the first one, within pairs: `mean`, `low` and `high`, the
        same as shares under `relative`, and the `verdict`. Raises InvalidRequest likewise.
        """
        return self._found("differences", policy, metric, point)

    def runs(self, policy: str, point: int = 0) -> list[Result]:
        """The runs behind it, one per repetition."""
        self._found("policies", policy, None, point)
        points, repeat = len(self.summary["points"]), len(self.summary["seeds"])
        places = [self.folder / cells.place_of(policy, point, points, n) for n in range(repeat)]
        return [Result(place, folders.read_json(place / folders.SUMMARY)) for place in places]

    def _found(self, part: str, policy: str, metric: str | None, point: int) -> Mapping[str, Any]:
        points = self.summary["points"]
        if not 0 <= point < len(points):
            raise InvalidRequest(f"There is no point {point}; there are {len(points)}, from 0.")
        found: Any = points[point][part]
        for name in (policy, metric) if metric is not None else (policy,):
            if name not in found:
                raise InvalidRequest(
                    f"There is no {name[:60]!r} in the {part}; there are {', '.join(found)}."
                )
            found = found[name]
        known: Mapping[str, Any] = found
        return known

    def _repr_html_(self) -> str:
        return _shown(self.folder)


def _shown(folder: Path) -> str:
    """A report inside another page, such as a notebook's."""
    page = escape((folder / folders.REPORT).read_text("utf-8"), quote=True)
    return f'<iframe srcdoc="{page}" width="100%" height="{SHOWN_PX}" title="Report"></iframe>'


def run(
    scenario: What = "demo",
    policy: str | Policy | None = None,
    seed: int | None = None,
    out: Where | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    world: str = WORLD,
) -> Result:
    """Simulate once. Raises Conflict when `out` is taken, InvalidRequest for bad settings."""
    what = _scenario(scenario, settings)
    first = _seed(what, seed)
    chosen = policy if policy is not None else what.policy
    name = chosen if isinstance(chosen, str) else checked(chosen).name
    folder = Path(out) if out is not None else Path("runs") / f"{what.name}-{name}-{first}"
    task = Task(what.config, chosen, first, folder, replace=replace, world=world)
    done = run_task(task, progress)
    return Result(done.folder, done.summary)


def compare(
    scenario: What,
    policies: Sequence[str | Policy],
    repeat: int = 10,
    out: Where | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    seed: int | None = None,
    until: float | None = None,
    metric: str = "e2e_s.mean",
    resume: bool = False,
    replace: bool = False,
    executor: Executor | None = None,
    told: Told | None = None,
    world: str = WORLD,
) -> Comparison:
    """Simulate each policy `repeat` times with the same seeds, and compare with the first."""
    what = _scenario(scenario, settings)
    first, times = _seed(what, seed), whole("repeat", repeat, 1, REPEAT_MAX)
    plan = Plan(what, tuple(policies), times, first, ({},), until, metric, world)
    folder = Path(out) if out is not None else Path("runs") / f"{what.name}-compared-{first}"
    return carry_out(plan, folder, resume=resume, replace=replace, executor=executor, told=told)


def sweep(
    scenario: What,
    over: Mapping[str, Sequence[str]],
    policies: Sequence[str | Policy] = ("coster",),
    repeat: int = 5,
    out: Where | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    seed: int | None = None,
    resume: bool = False,
    replace: bool = False,
    executor: Executor | None = None,
    told: Told | None = None,
    world: str = WORLD,
) -> Comparison:
    """The same at every combination of the values of `over`: `{"workload.0.rho": ["0.5"]}`."""
    what = _scenario(scenario, settings)
    first, times = _seed(what, seed), whole("repeat", repeat, 1, REPEAT_MAX)
    plan = Plan(what, tuple(policies), times, first, points_of(over), world=world)
    folder = Path(out) if out is not None else Path("runs") / f"{what.name}-swept-{first}"
    return carry_out(plan, folder, resume=resume, replace=replace, executor=executor, told=told)


def points_of(over: Mapping[str, Sequence[str]]) -> tuple[Mapping[str, str], ...]:
    """Every combination, the last key varying fastest."""
    return tuple(
        dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())
    )


def carry_out(
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    replace: bool = False,
    executor: Executor | None = None,
    told: Told | None = None,
) -> Comparison:
    """Do what is missing of a plan, and sum it up. Complete is said last, with the digests of what
    was written. Raises Conflict when a trace changed meanwhile.
    """
    inputs = cells.begin(plan, folder, resume=resume, replace=replace)
    own = any(isinstance(policy, Policy) for policy in plan.policies)
    chosen = executor or (InProcess() if own else LocalProcesses())
    repeat, again = cells.do_all(plan, folder, chosen, told)
    cells.check_inputs(plan, folder, repeat, inputs)
    summary = cells.comparison_of(plan, folder, repeat)
    folders.write_json(folder / folders.SUMMARY, summary)
    manifest = cells.manifest_of(plan, inputs, repeat)
    page = comparison_page(plan, folder, summary, manifest)
    (folder / folders.REPORT).write_text(page, "utf-8")
    manifest["files"] = folders.digests_of(folder)
    folders.write_json(folder / folders.MANIFEST, manifest)
    return Comparison(folder, summary, again)


def plan_of(manifest: Mapping[str, Any], source: str) -> Plan:
    """The plan that a folder of many runs tells of."""
    return Plan(
        scenario=of_config(manifest["config"], source),
        policies=tuple(manifest["policies"]),
        repeat=manifest["repeated"] or manifest["repeat"],
        seed=manifest["seed"],
        points=tuple(manifest["points"]),
        until=manifest["until"],
        metric=manifest["metric"],
    )


def _seed(what: Scenario, seed: int | None) -> int:
    """The first seed: the scenario's own where none is given. Raises InvalidRequest."""
    return what.seed if seed is None else whole("seed", seed, 0, SEED_MAX)


def _scenario(what: What, settings: Mapping[str, str] | None) -> Scenario:
    if isinstance(what, Scenario):
        if not settings:
            return what
        return Plan(what, (), 1, 0, (settings,)).at(0)
    return load(str(what), settings)
