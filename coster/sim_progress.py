"""How far a simulation has come: a bar on a terminal, nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def _bar() -> Progress:
    from rich.console import Console

    return Progress(
        TextColumn(" {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )


@contextmanager
def requests_told(total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Of one run: how many requests have ended. None where there is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task("requests", total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def runs_told(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Of several runs: how many are done."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task("runs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
