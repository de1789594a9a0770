"""Who does the runs of a sweep: this process, or as many as there are cores.

A cluster is one more executor, given from outside: the lab itself knows no Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Final, NoReturn, Protocol

from market.errors import Internal, InvalidRequest
from market.policy.registry import Policy
from simulator.runs.tasks import Done, Task, run_task

PROCESSES_MAX: Final = 256
INTERRUPTED: Final = 130
STOPS: Final = (signal.SIGINT, signal.SIGTERM)


class Executor(Protocol):
    """Does tasks. `run` yields the position of each as it is done, in any order.

    The first task that fails ends it: what is under way is stopped, nothing new is begun, and the
    error rises. A task's folder is there when it is told of. For a machine that shares no disk
    there are `simulator.runs.tasks.run_away` and `unpack`.
    """

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]: ...


class InProcess:
    """One after the other, here: for policies that are functions of the caller's own."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        for number, task in enumerate(tasks):
            yield number, run_task(task)


class LocalProcesses:
    """Processes of this machine, each a fresh interpreter: nothing is inherited by accident, and
    the caller's script is not run again in them, guarded or not.

    Raises InvalidRequest for a policy whose function only the caller's script has.
    """

    def __init__(self, processes: int | None = None) -> None:
        self._processes = min(processes or _cores(), PROCESSES_MAX)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Done]]:
        for task in tasks:
            _check_travels(task.policy)
        strangers = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(
            max_workers=min(self._processes, len(tasks)) or 1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
        )
        known: dict[Future[Done], int] = {}
        try:
            with _interrupts_later(), _script_hidden():
                known = {pool.submit(_run, task): number for number, task in enumerate(tasks)}
            left = set(known)
            while left:
                over, left = wait(left, return_when=FIRST_COMPLETED)
                for future in sorted(over, key=lambda each: known[each]):
                    yield known[future], future.result()
        except BrokenProcessPool as error:
            raise Internal(
                "A process that ran a task ended without a word; on Linux it was most likely out "
                "of memory. Use fewer at a time with --jobs."
            ) from error
        except BaseException:
            for child in set(multiprocessing.active_children()) - strangers:
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGINT)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """The cores that this process may use, which in a container are not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold a stop back until the block is over; processes begun in it hold it back, too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Processes begun in it do not run the script that began them.

    A fresh process imports the main script of its parent, for what was pickled may be defined
    there. Nothing of ours is, and a script that is not guarded would compare all over again in
    each worker.
    """
    main = sys.modules["__main__"].__dict__
    file, spec = main.pop("__file__", None), main.get("__spec__")
    main["__spec__"] = None
    try:
        yield
    finally:
        main["__spec__"] = spec
        if file is not None:
            main["__file__"] = file


def _check_travels(policy: str | Policy) -> None:
    scorers = () if isinstance(policy, str) else policy.scorers.values()
    if any(getattr(scorer, "__module__", None) == "__main__" for scorer in scorers):
        assert isinstance(policy, Policy)
        raise InvalidRequest(
            f"The policy {policy.name} is a function of your script, which other processes do not "
            "read: leave out the executor, or put the function into a module of its own.",
            "policy",
        )


def _begin() -> None:
    """In a worker: being stopped ends the task quietly, its folder with it; the end of the
    parent ends the worker.
    """
    if signal.sigpending() & set(STOPS):
        os._exit(INTERRUPTED)
    for name in STOPS:
        signal.signal(name, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(INTERRUPTED)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run(task: Task) -> Done:
    """In a worker: a task, after whose interruption no other one is begun."""
    try:
        return run_task(task)
    except SystemExit:
        os._exit(INTERRUPTED)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(INTERRUPTED)
