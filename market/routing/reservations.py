"""Who holds which slots: every grant is entered once and released exactly once.

A grant may be released by its outcome, by its gateway's lease running out, by its Mac's
death, or because its gateway turns out not to hold it; whichever comes first counts and
the others find nothing. An attempt that ended is remembered for a while, so that a
gateway's declaration that was on its way cannot bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from market.policy.fleet import Load
from market.routing.messages import Grant
from market.types import AccountId, GatewayId, MachineId, ModelId, RequestId

GrantKey = tuple[RequestId, int]  # (request, attempt)

REMEMBER_RELEASED_S = 30.0
"""Longer than any call is under way: gateways poll every 2 s and lapse after 10 s."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Slots held on one Mac for one attempt.

    `model`, `consumer`, `cost` and `grant` are None or 0 for a reservation that was
    adopted from a gateway's declaration after a restart. What was predicted is kept to be
    compared with what comes; `ends_s` is when its slots are expected to be free, `work` what it
    is expected to take in cost tokens, whether or not its consumer is charged for it in a queue.
    """

    request_id: RequestId
    attempt: int
    gateway: GatewayId
    machine: MachineId
    slots: int
    granted_s: float
    model: ModelId | None = None
    consumer: AccountId | None = None
    cost: float = 0.0
    expected_tokens: float = 0.0
    grant: Grant | None = None
    load: Load | None = None
    prefix: tuple[int, ...] = ()
    said_tokens: int = 0
    predicted_ttft_ms: float = 0.0
    high_ttft_ms: float = 0.0
    predicted_step_ms: float = 0.0
    ends_s: float = 0.0
    high_total_ms: float = 0.0
    work: float = 0.0

    @property
    def key(self) -> GrantKey:
        return (self.request_id, self.attempt)

    def load_now(self) -> Load:
        """What it adds to its Mac; of one that was adopted only the slots are known."""
        return self.load or Load(self.slots, 0.0, 0.0, 0.0)


class Reservations:
    """The table of live reservations. Counting slots on the fleet is the caller's."""

    def __init__(self) -> None:
        self._live: dict[GrantKey, Reservation] = {}
        self._released: dict[GrantKey, float] = {}
        self._closed: dict[RequestId, float] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Reservation]:
        return iter(self._live.values())

    def get(self, key: GrantKey) -> Reservation | None:
        return self._live.get(key)

    def enter(self, reservation: Reservation) -> None:
        """Enter a fresh grant; its key must not be live."""
        assert reservation.key not in self._live, "one attempt, one reservation"
        self._released.pop(reservation.key, None)
        self._live[reservation.key] = reservation

    def adopt(self, reservation: Reservation) -> bool:
        """Take over a declared grant; False when it is known, or known to have ended."""
        key = reservation.key
        if key in self._live or key in self._released:
            return False
        self._live[key] = reservation
        return True

    def release(self, key: GrantKey, now_s: float, *, ended: bool) -> Reservation | None:
        """Release; the reservation the first time, None ever after.

        `ended`: the attempt is known to be over, so a later declaration of it is stale.
        """
        if ended:
            self._released.pop(key, None)  # keep the memory in order of time
            self._released[key] = now_s
        return self._live.pop(key, None)

    def ended(self, key: GrantKey) -> bool:
        """Whether this attempt ended lately."""
        return key in self._released

    def close(self, request_id: RequestId, now_s: float) -> None:
        """The client left before it had a Mac: an asking still under way comes too late."""
        self._closed.pop(request_id, None)
        self._closed[request_id] = now_s

    def closed(self, request_id: RequestId) -> bool:
        """Whether the request was given up lately."""
        return request_id in self._closed

    def of_gateway(self, gateway: GatewayId) -> list[Reservation]:
        return [held for held in self._live.values() if held.gateway == gateway]

    def of_machine(self, machine: MachineId) -> list[Reservation]:
        return [held for held in self._live.values() if held.machine == machine]

    def of_request(self, request_id: RequestId) -> list[Reservation]:
        return [held for held in self._live.values() if held.request_id == request_id]

    def slots_on(self, machine: MachineId) -> int:
        return sum(held.slots for held in self._live.values() if held.machine == machine)

    def forget_old(self, now_s: float) -> None:
        """Drop the memory of ended attempts that nothing can refer to any more."""
        _forget(self._released, now_s)
        _forget(self._closed, now_s)


def _forget(times: dict[Any, float], now_s: float) -> None:
    while times:
        oldest = next(iter(times))
        if now_s - times[oldest] < REMEMBER_RELEASED_S:
            return
        del times[oldest]
