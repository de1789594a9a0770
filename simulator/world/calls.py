"""One request under way at the simulated gateway, and each try of it on a Mac."""

from __future__ import annotations

from dataclasses import dataclass, field

from market.messages import Admitted, Part
from market.routing.messages import Grant
from market.types import MachineId, RequestId
from simulator.records import Arrival, Ended
from simulator.world.mac import Job
from simulator.world.stand import Stand


@dataclass(slots=True, eq=False)
class Try:
    """One attempt on one Mac. `before` were said before it began."""

    grant: Grant
    stand: Stand
    job: Job | None = None
    before: int = 0
    begun_s: float = 0.0
    first_s: float | None = None
    over: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """One request under way."""

    arrival: Arrival
    ended: Ended
    request_id: RequestId
    admitted: Admitted
    at_s: float  # when it came, on the run's clock
    tries: list[Try] = field(default_factory=list)
    lead: Try | None = None
    said: int = 0
    parts: list[Part] = field(default_factory=list)
    tried: tuple[MachineId, ...] = ()
    digest: str = ""
    waiting_since_s: float = 0.0
    over: bool = False
