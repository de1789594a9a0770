"""A Ray cluster as one more executor of the lab: runs are done there and come back as files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coster.compose import code_version
from market.errors import Conflict
from simulator.runs.executors import Executor
from simulator.runs.tasks import Done, Parcel, Task, run_away, unpack


@dataclass(frozen=True, slots=True)
class Errand:
    """A task, and the version of the code that is to do it."""

    task: Task
    version: str


class RayCluster(Executor):
    """Every run on whichever node is free, one core each; nothing of it stays there.

    Nodes need the same version of coster installed, and whatever trace a workload reads at the
    same path.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        from actors.ray_tasks import spread

        errands = [Errand(task, code_version()) for task in tasks]
        for number, parcel in spread(do, errands, self._address):
            yield number, unpack(tasks[number], parcel)


def do(errand: Errand) -> Parcel:
    """On a node: the run's files. Raises Conflict when the node has another version."""
    here = code_version()
    if here != errand.version:
        raise Conflict(
            f"A node of the cluster has coster {here}, and this is {errand.version}: runs would "
            "not be the same. Install the same version on every node.",
            "ray",
        )
    with tempfile.TemporaryDirectory(prefix="coster-run-") as scratch:
        return run_away(errand.task, Path(scratch))
