"""What a decision becomes: a grant for the gateway and a reservation for our own books."""

from __future__ import annotations

from market.policy.decision import Decision
from market.policy.fleet import Load
from market.routing.fair_queue import cost_tokens
from market.routing.messages import Grant, ProviderBeat, RouteRequest
from market.routing.reservations import Reservation
from market.types import ModelFacts


def grant_of(
    request: RouteRequest,
    decision: Decision,
    beat: ProviderBeat,
    facts: ModelFacts | None,
    hedge_after_ms: float,
) -> Grant:
    """What the gateway is told of the chosen Mac."""
    assert decision.index is not None
    return Grant(
        request_id=request.request_id,
        attempt=request.attempt,
        machine=beat.machine,
        provider=beat.provider,
        payee=beat.owner,
        endpoint=beat.endpoint,
        predicted_ttft_ms=float(decision.predicted.ttft_ms[decision.index]),
        digest=facts.digest if facts is not None else "",
        ask_pct=beat.ask_pct,
        hedge_after_ms=hedge_after_ms,
    )


def reservation_of(
    request: RouteRequest,
    decision: Decision,
    grant: Grant,
    load: Load,
    *,
    now_s: float,
    cost: float,
) -> Reservation:
    """Slots held, with what was predicted, to be compared with what comes."""
    assert decision.index is not None
    predicted, at = decision.predicted, decision.index
    ttft_ms = grant.predicted_ttft_ms
    return Reservation(
        request_id=request.request_id,
        attempt=request.attempt,
        gateway=request.gateway,
        machine=grant.machine,
        slots=decision.slots,
        granted_s=now_s,
        model=request.model,
        consumer=request.consumer,
        cost=cost,
        expected_tokens=decision.ask.expected_tokens,
        grant=grant,
        load=load,
        prefix=request.prefix,
        said_tokens=request.said_tokens,
        predicted_ttft_ms=ttft_ms,
        high_ttft_ms=ttft_ms * decision.high_factor(),
        predicted_step_ms=float(predicted.step_ms[at]),
        high_total_ms=decision.high_total_ms(),
        work=cost_tokens(request, decision.ask.expected_tokens),
        ends_s=now_s + float(predicted.total_ms[at]) / 1e3,
    )
