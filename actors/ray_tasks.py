"""The second doorway to Ray: plain functions done by whichever node is free, nothing kept.

`actors.cluster` is for actors that live; this is for work that ends, such as the runs of a
sweep on somebody's cluster.
"""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from market.errors import Internal, MarketError, Unavailable

NAMESPACE: Final = "coster-lab"
AHEAD: Final = 2
"""Calls handed in for each core of the cluster: one is done, one waits beside it."""

KNOCK_S_MAX: Final = 5.0
RETRIES: Final = 2
"""A call whose node is lost is made again, elsewhere."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], address: str
) -> Iterator[tuple[int, Result]]:
    """Call it once for each item on the cluster at `address`; yields positions and results as
    they come. One core each.

    The first call that fails ends all: what runs is ended, and its error rises. Raises Unavailable
    when there is no such cluster.
    """
    _join(address)
    try:
        yield from _spread(function, items)
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        _knock(address)
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        said = " ".join(str(error).split())[:200]
        raise Unavailable(
            f"No Ray cluster answers at {address[:80]!r} ({said}); give the address that "
            "`ray start` has told, or leave --ray out to use this machine's own cores.",
            "ray",
            "no_cluster",
        ) from error


def _knock(address: str) -> None:
    """Whether anybody listens there at all: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S_MAX).close()


def _spread(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[int, Result]]:
    call = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
    at_once = AHEAD * max(int(ray.cluster_resources().get("CPU", 1)), 1)
    waiting = iter(enumerate(items))
    running: dict[Any, int] = {}
    try:
        while True:
            for number, item in itertools.islice(waiting, at_once - len(running)):
                running[call.remote(item)] = number
            if not running:
                return
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(ready)
            yield number, _result(ready)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(ready: Any) -> Any:
    try:
        return ray.get(ready)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, MarketError):
            raise cause from None
        raise Internal(f"A task failed on the cluster: {cause!r}"[:500]) from error
    except RayError as error:
        raise Internal(
            f"A task was lost with its node, {RETRIES + 1} times over ({type(error).__name__}). "
            "What is done stays; --resume goes on from there."
        ) from error
