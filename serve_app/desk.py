"""What all requests of one gateway share, in one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.errors import Unauthenticated
from market.messages import KeyRecord
from serve_app.asgi import Scope
from serve_app.auth import Keys
from serve_app.background import Background
from serve_app.books import Books
from serve_app.counters import Counters
from serve_app.gate import Doorkeeper
from serve_app.limits import Limits
from serve_app.measures import Measures
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
    measures: Measures
    door: Doorkeeper

    async def identify(
        self, scope: Scope, wanted: Sequence[str], *, fresh: bool = True
    ) -> tuple[bytes, KeyRecord]:
        """As `Keys.identify`; a key that is not valid counts against its sender's address."""
        authorization = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
        try:
            return await self.keys.identify(authorization, wanted, fresh=fresh)
        except Unauthenticated:
            if authorization is not None:  # without one it was counted at the door
                self.door.stranger(scope)
            raise

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
            measures=Measures(counters),
            door=Doorkeeper(limits, ports.clock, ports.front),
        )
