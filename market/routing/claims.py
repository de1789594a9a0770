"""What a gateway declares against what the router has: who holds a slot, and who waits.

Either may have lost something: an answer on its way, or everything in a restart. After each
declaration both agree again.
"""

from __future__ import annotations

from market.errors import Unavailable
from market.routing.dispatcher import Dispatcher
from market.routing.messages import GatewayBeat, Refused
from market.routing.reservations import Reservation
from market.types import GatewayId, RequestId

CLAIM_GRACE_S = 5.0
"""Age at which a grant or a queued request that its gateway does not declare is dropped;
longer than any answer of ours can be under way to a gateway that lives."""

UNKNOWN_REQUEST_CODE = "unknown_request"
"""Code of the refusal that makes a gateway ask again for a request we have forgotten."""

RETRY_S = 1.0


def match_claims(desk: Dispatcher, beat: GatewayBeat, now_s: float) -> None:
    """Take over what we have forgotten, send again what got lost, drop what nobody claims.

    A gateway polls again only after it has taken the last answer in, so what it declares is
    newer than everything delivered before.
    """
    desk.gateways.beat(beat, now_s)
    for request_id, attempt, machine, slots in beat.running:
        desk.adopt(Reservation(request_id, attempt, beat.gateway, machine, slots, now_s))
    undelivered = desk.gateways.mail_for(beat.gateway)
    declared = {(request_id, attempt) for request_id, attempt, _, _ in beat.running}
    waiting = set(beat.queued)
    unclaimed = []
    for held in desk.reservations.of_gateway(beat.gateway):
        if held.key in declared or held.request_id in undelivered:
            continue
        if held.request_id in waiting and held.grant is not None:
            desk.gateways.send(beat.gateway, held.grant)
            desk.count("redelivered")
        elif now_s - held.granted_s > CLAIM_GRACE_S:
            unclaimed.append(held)
            desk.count("unclaimed")
    desk.release_all(unclaimed, now_s, ended=False)
    _match_queued(desk, beat.gateway, waiting, now_s)


def _match_queued(
    desk: Dispatcher, gateway: GatewayId, waiting: set[RequestId], now_s: float
) -> None:
    known = desk.gateways.mail_for(gateway)
    for queue in desk.queues.values():
        for entry in queue.of_gateway(gateway):
            request_id = entry.request.request_id
            known.add(request_id)
            if request_id not in waiting and now_s - entry.enqueued_s > CLAIM_GRACE_S:
                desk.leave_queue(queue, entry)
                desk.count("left_queue")
    lost = Unavailable(
        "The router has lost this place in the queue.", None, UNKNOWN_REQUEST_CODE, RETRY_S, True
    )
    for request_id in sorted(waiting - known):
        desk.gateways.send(gateway, Refused(request_id, lost))
        desk.count("requeued")
