"""One run as a task: everything it needs in one value, everything it leaves in one folder.

A task can be done here, in another process or on another machine; whoever does it gets the same
files. What it needs of the world is one function, named by its path so that it travels.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from market.errors import InvalidRequest
from market.policy.registry import Policy
from simulator.records import Ended, MacUsed
from simulator.report.run_page import run_page
from simulator.results import folders
from simulator.results.columns import Requests
from simulator.results.parquet import RequestWriter, read_machines, read_requests, write_machines
from simulator.results.summary import as_text, summary_of
from simulator.runs.own_policies import checked, listened
from simulator.setup.policies import lab_policy
from simulator.setup.scenario import Scenario
from simulator.setup.scenario_files import of_config
from simulator.world.run import Sink, Totals

WORLD: Final = "simulator.world.run:simulate"
"""Where a scenario is simulated, as module and function."""

PROGRESS_EVERY: Final = 500
"""Requests between two words on how far a run has come."""

Progress = Callable[[int], None]
"""Told how many requests have ended."""


class Simulate(Protocol):
    """A world: plays a scenario and tells a sink what became of each request and each Mac."""

    def __call__(self, scenario: Scenario, policy: Policy, seed: int, sink: Sink) -> Totals: ...


@dataclass(frozen=True, slots=True)
class Task:
    """One run to be done. A policy is a name, or an object where no other process is asked.

    `report` is whether the folder gets a page of its own.
    """

    config: str
    policy: str | Policy
    seed: int
    folder: Path
    report: bool = True
    replace: bool = False
    world: str = WORLD

    @property
    def policy_name(self) -> str:
        return self.policy if isinstance(self.policy, str) else self.policy.name

    @property
    def scenario(self) -> Scenario:
        return of_config(json.loads(self.config), "the scenario")


@dataclass(frozen=True, slots=True)
class Done:
    """A run that is over: where it is, what it came to, and how long it took on the wall."""

    folder: Path
    summary: Mapping[str, Any]
    wall_s: float


class _Recorder:
    """Writes down what a world tells."""

    def __init__(self, writer: RequestWriter, progress: Progress | None) -> None:
        self._writer = writer
        self._progress = progress
        self._count = 0
        self.macs: list[MacUsed] = []

    def ended(self, ended: Ended) -> None:
        self._writer.ended(ended)
        self._count += 1
        if self._progress is not None and self._count % PROGRESS_EVERY == 0:
            self._progress(self._count)

    def used(self, used: MacUsed) -> None:
        self.macs.append(used)


def run_task(task: Task, progress: Progress | None = None) -> Done:
    """Simulate, write, sum up. The folder appears when all of it is there.

    Raises Conflict for a place that is taken and for a trace that changed meanwhile,
    InvalidRequest for what cannot be simulated.
    """
    inputs = folders.inputs_of(task.config)
    scenario = task.scenario
    simulate, policy = world_of(task.world), policy_of(task.policy)
    faults: Mapping[str, str] = {}
    if isinstance(task.policy, Policy):
        policy, faults = listened(policy)
    began = time.time()
    clock = time.perf_counter
    with folders.whole(task.folder, replace=task.replace) as folder:
        start = clock()
        with RequestWriter(folder / folders.REQUESTS) as writer:
            recorder = _Recorder(writer, progress)
            totals = simulate(scenario, policy, task.seed, recorder)
        simulated = clock()
        folders.check_unchanged(inputs, folders.inputs_of(task.config))
        write_machines(folder / folders.MACHINES, recorder.macs)
        requests = read_requests(folder / folders.REQUESTS)
        macs = read_machines(folder / folders.MACHINES)
        summary = summary_of(scenario, task.policy_name, task.seed, requests, macs, totals, faults)
        (folder / folders.SUMMARY).write_text(as_text(summary), "utf-8")
        summed = clock()
        manifest = folders.manifest_of(
            scenario,
            task.policy_name,
            task.seed,
            folder,
            named=isinstance(task.policy, str),
            inputs=inputs,
        )
        if task.report:
            page = run_page(scenario, summary, requests, macs, manifest)
            (folder / folders.REPORT).write_text(page, "utf-8")
            manifest["files"] = folders.digests_of(folder)
        done = clock()
        phases = {
            "simulate_s": simulated - start,
            "summary_s": summed - simulated,
            "report_s": done - summed,
        }
        folders.write_json(folder / folders.TIMING, _timing(began, phases, requests))
        folders.write_json(folder / folders.MANIFEST, manifest)
    return Done(task.folder, summary, clock() - start)


def _timing(began: float, phases: Mapping[str, float], requests: Requests) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "wall_s": sum(phases.values()),
        **phases,
        "requests_per_s": len(requests) / max(phases["simulate_s"], 1e-9),
        "memory_bytes_max": peak if sys.platform == "darwin" else peak * 1024,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def world_of(path: str) -> Simulate:
    """The function at this path."""
    module, _, name = path.partition(":")
    found: Simulate = getattr(importlib.import_module(module), name)
    return found


def policy_of(policy: str | Policy) -> Policy:
    """The policy itself; the oracle is told the lengths by the world it runs in.

    Raises InvalidRequest for a name that nobody has, and for one that is not the caller's to give.
    """
    return lab_policy(policy) if isinstance(policy, str) else checked(policy)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A run done elsewhere: its files, to be unpacked where the task wanted its folder."""

    files: Mapping[str, bytes]
    wall_s: float


def run_away(task: Task, scratch: Path) -> Parcel:
    """Do a task on a machine that shares no disk with who asked; `scratch` is a folder there."""
    done = run_task(replace(task, folder=scratch / "run", replace=True))
    files = {file.name: file.read_bytes() for file in sorted(done.folder.iterdir())}
    return Parcel(files, done.wall_s)


def unpack(task: Task, parcel: Parcel) -> Done:
    """Put what came back where the task wanted it; the folder appears whole."""
    for name in parcel.files:
        if Path(name).name != name:
            raise InvalidRequest(f"A run came back with a file called {name[:60]!r}.", "folder")
    with folders.whole(task.folder, replace=task.replace) as folder:
        for name, data in parcel.files.items():
            (folder / name).write_bytes(data)
    return Done(task.folder, folders.read_json(task.folder / folders.SUMMARY), parcel.wall_s)
