"""`coster sim`: simulate a market, compare policies, sweep settings, repeat, calibrate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coster.options import Json, Seed, count_of, reported
from coster.output import DEGRADED, ERROR, print_json
from coster.stopping import ONE, SEVERAL, interruptible
from market.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.runs.executors import Executor
    from simulator.setup.scenario import Scenario

sim = typer.Typer(help="The lab: the market's own rules over simulated Macs.", no_args_is_help=True)

ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A shipped one (`coster sim list`) or a file.")
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="What run, compare or sweep wrote.")]
Policies = Annotated[
    str, typer.Option("--policies", help="Names, separated by commas; the first is the yardstick.")
]
Requests = Annotated[
    str | None,
    typer.Option(help="How many each, such as 10000 or 1e6 [default: the scenario's]."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Replace one value: workload.0.rho=0.7.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The folder [default: in runs/].")]
Replace = Annotated[bool, typer.Option("--replace", help="Write over an earlier run.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Of several runs: go on where it was interrupted.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Of several runs: processes [default: all cores]."),
]

Ray = Annotated[
    str | None,
    typer.Option("--ray", help="Do the runs on the Ray cluster at this address, or `auto`."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(sim, name="sim")


@sim.command()
def run(
    scenario: ScenarioName = "demo",
    policy: Annotated[str | None, typer.Option(help="A policy [default: the scenario's].")] = None,
    requests: Requests = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Repetitions [default: the scenario's].")
    ] = None,
    seed: Seed = None,
    settings: Set = None,
    out: Out = None,
    replace: Replace = False,
    resume: Resume = False,
    jobs: Jobs = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Simulate a scenario, and report."""
    from coster import sim_show
    from coster.sim_progress import requests_told, runs_told
    from simulator.runs import experiment

    with reported(as_json=json):
        what = _load(scenario, settings, requests)
        chosen, times = policy or what.policy, repeat or what.repeat
        if times == 1:
            _only_for_several(resume=resume, jobs=jobs, ray=ray)
    with reported(as_json=json), interruptible(SEVERAL if times > 1 else ONE):
        if times > 1:
            with runs_told(quiet=json) as told:
                compared = experiment.compare(
                    what, [chosen], times, out, seed=seed, resume=resume, replace=replace,
                    executor=_executor(jobs, ray), told=told,
                )  # fmt: skip
            _show_comparison(compared, as_json=json)
            return
        with requests_told(what.requests, quiet=json) as progress:
            result = experiment.run(what, chosen, seed, out, replace=replace, progress=progress)
    if json:
        print_json({"folder": str(result.folder), "summary": result.summary})
    else:
        sim_show.print_run(result)
    if any(alarm["name"] == "books" for alarm in result.summary["alarms"]):
        raise SystemExit(ERROR)


@sim.command()
def compare(
    scenario: ScenarioName,
    policies: Policies = "least_weighted,coster",
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions, paired by seed.")] = 10,
    until: Annotated[
        float | None,
        typer.Option(help="Stop early once --metric is known to within this share, such as 0.05."),
    ] = None,
    metric: Annotated[str, typer.Option(help="What --until looks at.")] = "e2e_s.mean",
    requests: Requests = None,
    seed: Seed = None,
    settings: Set = None,
    out: Out = None,
    replace: Replace = False,
    resume: Resume = False,
    jobs: Jobs = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Compare policies over the same seeds."""
    from coster.sim_progress import runs_told
    from simulator.runs import experiment

    with reported(as_json=json), interruptible(SEVERAL), runs_told(quiet=json) as told:
        compared = experiment.compare(
            _load(scenario, settings, requests), _names(policies), repeat, out, seed=seed,
            until=until, metric=metric, resume=resume, replace=replace,
            executor=_executor(jobs, ray), told=told,
        )  # fmt: skip
    _show_comparison(compared, as_json=json)


@sim.command()
def sweep(
    scenario: ScenarioName,
    settings: Annotated[
        list[str], typer.Option("--set", help="What varies: workload.0.rho=0.5,0.7,0.9.")
    ],
    policies: Policies = "coster",
    repeat: Annotated[int, typer.Option(min=2, help="Repetitions at each point.")] = 5,
    requests: Requests = None,
    seed: Seed = None,
    out: Out = None,
    replace: Replace = False,
    resume: Resume = False,
    jobs: Jobs = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Simulate over the values of some settings."""
    from coster.sim_progress import runs_told
    from simulator.runs import experiment
    from simulator.setup.settings import swept_of

    with reported(as_json=json), interruptible(SEVERAL):
        fixed, over = swept_of(settings)
        with runs_told(quiet=json) as told:
            swept = experiment.sweep(
                _load_with(scenario, fixed, requests), over, _names(policies), repeat, out,
                seed=seed, resume=resume, replace=replace, executor=_executor(jobs, ray), told=told,
            )  # fmt: skip
    _show_comparison(swept, as_json=json)


@sim.command()
def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A trace: JSONL or CSV, or .gz.")],
    scenario: Annotated[
        str, typer.Option(help="Whose fleet, models and limits it meets.")
    ] = "demo",
    speed: Annotated[float, typer.Option(min=1e-6, help="How many times as fast.")] = 1.0,
    requests: Annotated[
        str | None, typer.Option(help="At most so many [default: all of the trace].")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="A policy [default: the scenario's].")] = None,
    seed: Seed = None,
    settings: Set = None,
    out: Out = None,
    replace: Replace = False,
    json: Json = False,
) -> None:
    """Simulate a recorded trace."""
    from coster import sim_show
    from coster.sim_progress import requests_told
    from simulator.runs import experiment
    from simulator.setup.replay import replayed

    with reported(as_json=json), interruptible():
        what = replayed(_load(scenario, settings), trace, speed, count_of(requests))
        with requests_told(what.requests, quiet=json) as progress:
            result = experiment.run(what, policy, seed, out, replace=replace, progress=progress)
    if json:
        print_json({"folder": str(result.folder), "summary": result.summary})
    else:
        sim_show.print_run(result)


@sim.command()
def plot(
    folder: Folder,
    x: Annotated[str, typer.Option(help="A swept setting, or a metric.")],
    y: Annotated[str, typer.Option(help="A metric, such as ttft_s.p99.")],
    by: Annotated[str, typer.Option(help="One curve per policy, or per swept setting.")] = "policy",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .html file [default: in FOLDER].")
    ] = None,
    json: Json = False,
) -> None:
    """Draw one number of a sweep over another."""
    from simulator.runs.plotting import write_plot

    with reported(as_json=json):
        written = write_plot(folder, x, y, by, out)
    if json:
        print_json({"file": str(written)})
    else:
        sys.stdout.write(f"{written}\n")


@sim.command()
def verify(
    folder: Folder,
    cells: Annotated[
        int | None, typer.Option(min=1, help="Of a comparison only so many runs [default: all].")
    ] = None,
    jobs: Jobs = None,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Run it again and compare every byte, of the report and of a comparison as well."""
    from coster import sim_show
    from simulator.runs.verify import verify as verify_folder

    with reported(as_json=json), interruptible(""):
        verdicts = verify_folder(folder, cells=cells, executor=_executor(jobs, ray))
    same = all(verdict.same for verdict in verdicts)
    if json:
        runs = [verdict.as_json() for verdict in verdicts if not verdict.whole]
        told = [verdict.as_json() for verdict in verdicts if verdict.whole]
        print_json({"same": same, "runs": runs, "whole": told[0] if told else None})
    else:
        sim_show.print_verdicts(verdicts)
    if not same:
        raise SystemExit(ERROR)


@sim.command()
def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="SIM_FOLDER", help="A simulated run.")],
    real: Annotated[Path, typer.Option("--real", help="The measured run of the same load.")],
    json: Json = False,
) -> None:
    """Compare a simulation with measurements.

    Exit code 6 when a number is more than 10 % off.
    """
    from coster import sim_show
    from simulator.results.calibrate import calibrate as calibrate_folders

    with reported(as_json=json):
        result = calibrate_folders(real, folder)
    if json:
        print_json(result)
    else:
        sim_show.print_calibration(result)
    if not result["calibrated"]:
        raise SystemExit(DEGRADED)


@sim.command("list")
def list_all(json: Json = False) -> None:
    """The scenarios and the policies that there are."""
    from coster import sim_show
    from simulator.setup.policies import lab_policies
    from simulator.setup.scenario_files import load, shipped

    with reported(as_json=json):
        scenarios = {name: load(name).about for name in shipped()}
    policies = lab_policies()
    if json:
        print_json({"scenarios": scenarios, "policies": dict(policies)})
    else:
        sim_show.print_list(scenarios, policies)


def _show_comparison(compared: object, *, as_json: bool) -> None:
    from coster import sim_show
    from simulator.runs.experiment import Comparison

    assert isinstance(compared, Comparison)
    if as_json:
        told = {"folder": str(compared.folder), "summary": compared.summary}
        print_json({**told, "again": dict(compared.again)})
    else:
        sim_show.print_comparison(compared)


def _load(scenario: str, settings: list[str] | None, requests: str | None = None) -> Scenario:
    from simulator.setup.settings import settings_of

    return _load_with(scenario, settings_of(settings or []), requests)


def _load_with(scenario: str, values: Mapping[str, str], requests: str | None) -> Scenario:
    from simulator.setup.scenario_files import load

    count = count_of(requests)
    more = {} if count is None else {"run.requests": str(count)}
    return load(scenario, {**values, **more})


def _only_for_several(*, resume: bool, jobs: int | None, ray: str | None) -> None:
    """Refuse what would do nothing for one run."""
    for given, option in ((resume, "resume"), ((jobs or 1) > 1, "jobs"), (ray, "ray")):
        if given:
            raise InvalidRequest(
                f"One run is done here, by one process, and whole or not at all; --{option} is for "
                "several: add --repeat.",
                option,
            )


def _names(policies: str) -> list[str]:
    return [name.strip() for name in policies.split(",") if name.strip()]


def _executor(jobs: int | None, ray: str | None) -> Executor:
    from simulator.runs.executors import InProcess, LocalProcesses

    if ray is None:
        return InProcess() if jobs == 1 else LocalProcesses(jobs)
    if jobs is not None:
        raise InvalidRequest(
            "Give --jobs for this machine or --ray for a cluster, not both.", "jobs"
        )
    from coster.sim_cluster import RayCluster

    return RayCluster(ray)
