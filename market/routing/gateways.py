"""What the router knows of each gateway: its lease, its mail, its counters.

A gateway's lease is renewed by everything it sends. Silent for 3 s it is suspect, for 10 s
gone. Mail is what the next poll will deliver: grants and refusals of queued requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.metrics import added_up
from market.routing.messages import GatewayBeat, Grant, Refused
from market.types import GatewayId, RequestId

GATEWAY_SUSPECT_AFTER_S = 3.0
GATEWAY_GONE_AFTER_S = 10.0
GONE_REMEMBERED_MAX = 64
"""Gone gateways whose counts are kept apart, for one that returns counts on where it was."""


@dataclass(slots=True)
class Gateway:
    """One gateway process."""

    gateway: GatewayId
    last_heard_s: float
    pid: int = 0
    node: str = ""
    declared: int = 0
    counters: dict[str, float] = field(default_factory=dict)
    mail: list[Grant | Refused] = field(default_factory=list)


class Gateways:
    """All gateways that hold a lease."""

    def __init__(self) -> None:
        self._gateways: dict[GatewayId, Gateway] = {}
        self._gone: dict[GatewayId, dict[str, float]] = {}
        self._retired: dict[str, float] = {}
        self._woken: set[GatewayId] = set()

    def __len__(self) -> int:
        return len(self._gateways)

    def all(self) -> list[Gateway]:
        return list(self._gateways.values())

    def heard(self, gateway: GatewayId, now_s: float) -> Gateway:
        """Renew a lease, or give one."""
        known = self._gateways.get(gateway)
        if known is None:
            known = self._gateways[gateway] = Gateway(gateway, now_s)
            known.counters = self._gone.pop(gateway, {})
        known.last_heard_s = now_s
        return known

    def beat(self, beat: GatewayBeat, now_s: float) -> Gateway:
        """Take a declaration in; `counters` are cumulative and, if any, replace the last ones."""
        gateway = self.heard(beat.gateway, now_s)
        gateway.pid, gateway.node, gateway.declared = beat.pid, beat.node, len(beat.running)
        if beat.counters is not None:
            gateway.counters = dict(beat.counters)
        return gateway

    def send(self, gateway: GatewayId, letter: Grant | Refused) -> bool:
        """Put a letter in a gateway's mail; False when there is no such gateway."""
        known = self._gateways.get(gateway)
        if known is None:
            return False
        known.mail.append(letter)
        self._woken.add(gateway)
        return True

    def take(self, gateway: GatewayId) -> list[Grant | Refused]:
        """Empty a gateway's mail into a poll's answer."""
        known = self._gateways.get(gateway)
        if known is None:
            return []
        mail, known.mail = known.mail, []
        return mail

    def mail_for(self, gateway: GatewayId) -> set[RequestId]:
        """Requests whose answer waits for the gateway's next poll."""
        known = self._gateways.get(gateway)
        return {letter.request_id for letter in known.mail} if known is not None else set()

    def discard(self, gateway: GatewayId, request_id: RequestId) -> None:
        """Take back what was not delivered yet."""
        known = self._gateways.get(gateway)
        if known is not None:
            known.mail = [letter for letter in known.mail if letter.request_id != request_id]

    def woken(self) -> set[GatewayId]:
        """Gateways that got mail since the last call."""
        woken, self._woken = self._woken, set()
        return woken

    def overdue(self, now_s: float) -> list[GatewayId]:
        return [
            g.gateway
            for g in self._gateways.values()
            if now_s - g.last_heard_s > GATEWAY_GONE_AFTER_S
        ]

    def forget(self, gateway: GatewayId) -> None:
        """End a lease; what the gateway had counted stays in the totals."""
        gone = self._gateways.pop(gateway, None)
        if gone is None:
            return
        self._gone[gateway] = gone.counters
        while len(self._gone) > GONE_REMEMBERED_MAX:
            oldest = next(iter(self._gone))
            self._retired = added_up([self._retired, self._gone.pop(oldest)])

    def totals(self) -> dict[str, float]:
        """All gateways' counters added up, those of gone gateways included."""
        here = [gateway.counters for gateway in self._gateways.values()]
        return added_up([self._retired, *self._gone.values(), *here])
