"""What all requests of one gateway share, in one record."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.auth import Keys
from serve_app.background import Background
from serve_app.books import Books
from serve_app.counters import Counters
from serve_app.limits import Limits
from serve_app.ports import GatewayPorts


@dataclass(frozen=True, slots=True)
class Desk:
    """The ports, the bounds and the gateway's own few helpers."""

    ports: GatewayPorts
    limits: Limits
    keys: Keys
    books: Books
    background: Background
    counters: Counters

    @classmethod
    def of(cls, ports: GatewayPorts, limits: Limits) -> Desk:
        counters = Counters()
        background = Background(counters)
        return cls(
            ports=ports,
            limits=limits,
            keys=Keys(ports.accountant, ports.hash_key, ports.clock, limits),
            books=Books(ports.accountant, background, counters, limits),
            background=background,
            counters=counters,
        )
