"""Free ports for everything a market opens, so that two markets never collide."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from actors.ray_env import RayPorts
from market.errors import InvalidRequest

DEFAULT_PORT = 8000
PORT_TRIES = 20
BLOCK_TRIES = 200
BLOCK_FIRST = 20_000
BLOCK_LAST = 29_000
"""Below Serve's 30000 and Linux's ephemeral 32768, above Ray's workers at 10002–19999."""
REPLICA_PORTS = 40
"""Gateway replicas take new ports when they restart; old ones rest for a while."""
SINGLE_PORTS = 7

_CLAIMS: list[int] = []
"""Locks of the ports this process has chosen; the kernel frees them when it ends."""


@dataclass(frozen=True, slots=True)
class MarketPorts:
    """The public port, the operator's, the test payments', and those of the machinery."""

    http: int
    admin: int
    stripe: int
    ray: RayPorts


def is_free(host: str, port: int) -> bool:
    """Whether this port can be bound now on `host` and on every interface.

    Raises InvalidRequest when `host` is not an IPv4 address of this machine.
    """
    for address in {host, "0.0.0.0"}:  # noqa: S104 - HAProxy and Ray bind widely
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    raise InvalidRequest(
                        f"--host {host[:60]!r} is not an IPv4 address of this machine; use "
                        "127.0.0.1, 0.0.0.0 for every interface, or one that `ip address` shows.",
                        "host",
                    ) from error
                return False
    return True


def _claim(port: int) -> bool:
    """Reserve a port between choosing it and binding it seconds later; False when taken.

    Two markets started together would otherwise choose the same one.
    """
    folder = Path(tempfile.gettempdir()) / f"coster-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    _CLAIMS.append(fd)
    return True


def choose_ports(host: str, asked: int | None, seed: str) -> MarketPorts:
    """Ports for one market.

    An explicit port that is taken is an error; the default moves to the next free one.
    `seed` makes the machinery's block start at the same place for the same market.
    """
    if asked is not None:
        if not 1 <= asked <= 65_535:
            raise InvalidRequest(f"--port is {asked}; it must be from 1 to 65535.", "port")
        if not is_free(host, asked) or not _claim(asked):
            raise InvalidRequest(
                f"Port {asked} on {host} is in use; choose another with --port, or leave it out "
                "to take the next free one.",
                "port",
                "port_in_use",
            )
        http = asked
    else:
        http = _first_free(host, DEFAULT_PORT)
    first = _free_block(random.Random(seed))
    return MarketPorts(
        http=http,
        admin=first,
        stripe=first + 6,
        ray=RayPorts(
            haproxy_metrics=first + 1,
            haproxy_stats=first + 2,
            fallback_proxy=first + 3,
            autoscaler_metrics=first + 4,
            dashboard_metrics=first + 5,
            replica_first=first + SINGLE_PORTS,
            replica_last=first + SINGLE_PORTS + REPLICA_PORTS,
        ),
    )


def _first_free(host: str, start: int) -> int:
    for port in range(start, start + PORT_TRIES):
        if is_free(host, port) and _claim(port):
            return port
    raise InvalidRequest(
        f"Ports {start} to {start + PORT_TRIES - 1} are all in use; choose one with --port.",
        "port",
        "port_in_use",
    )


def _free_block(rng: random.Random) -> int:
    size = SINGLE_PORTS + REPLICA_PORTS
    for _ in range(BLOCK_TRIES):
        first = rng.randrange(BLOCK_FIRST, BLOCK_LAST, size)
        ports = range(first, first + size)
        if all(is_free("127.0.0.1", port) for port in ports) and _claim(first):
            return first
    raise InvalidRequest(
        f"No {size} free ports in a row between {BLOCK_FIRST} and {BLOCK_LAST}.", "port"
    )
