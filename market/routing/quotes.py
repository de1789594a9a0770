"""What would become of a request that is not made: for whoever wants to know before paying.

The very decision that a request would get, told and forgotten: no slot, no place in the queue,
no demand for a model and nothing learned comes of it.
"""

from __future__ import annotations

from math import isinf

from market.errors import MarketError
from market.policy.decision import Decision, reasons_of
from market.policy.filters import BY_NAME, FILTERS, ROOM
from market.policy.predictor import high_factor
from market.routing import refusals
from market.routing.dispatcher import Dispatcher
from market.routing.messages import Quote, QuotedMac, RouteRequest

MACS_MAX = 16
"""Most Macs told of; the ones that would be tried first."""


def quote_of(
    desk: Dispatcher, request: RouteRequest, refusal: MarketError | None, now_s: float
) -> Quote:
    """The decision a request would get now. `refusal` is what keeps it from being asked about."""
    decision = desk.asker.decide(request, now_s, rebuilding=desk.rebuilding(now_s))
    reasons = reasons_of(decision)
    median = desk.asker.lengths.median(request.model, request.consumer, request.max_tokens)
    able = _able(decision, reasons)
    queue = desk.queues.get(request.model)
    wait_s, error = _wait(desk, request, decision, now_s)
    counts = {rule.name: reasons.count(rule.name) for rule in FILTERS if rule.name not in ROOM}
    return Quote(
        request_id=request.request_id,
        macs=tuple(_mac(decision, at, reasons[at] is None, median) for at in able[:MACS_MAX]),
        able=len(able),
        ruled_out=tuple(
            (name, count, f"{count} {BY_NAME[name].phrase}")
            for name, count in counts.items()
            if count
        ),
        tokens=median,
        high_tokens=max(decision.ask.high_tokens, median),
        queued=len(queue) if queue is not None else 0,
        wait_s=wait_s,
        words=decision.in_words(),
        error=refusal or error,
    )


def _able(decision: Decision, reasons: list[str | None]) -> list[int]:
    """The Macs that may serve it: those free now, best first, then those that lack only room."""
    score = decision.total_ms()
    total_ms = decision.predicted.total_ms
    free = [at for at, reason in enumerate(reasons) if reason is None]
    busy = [at for at, reason in enumerate(reasons) if reason in ROOM]
    free.sort(key=lambda at: (at != decision.index, float(score[at])))
    busy.sort(key=lambda at: float(total_ms[at]))
    return free + busy


def _mac(decision: Decision, at: int, free: bool, median: float) -> QuotedMac:
    predicted, candidates = decision.predicted, decision.candidates
    ttft_ms, step_ms = float(predicted.ttft_ms[at]), float(predicted.step_ms[at])
    high = high_factor(candidates, at)
    most = max(decision.ask.high_tokens, median)
    return QuotedMac(
        provider=candidates.name(at).provider,
        chosen=at == decision.index,
        free=free,
        ask_pct=int(candidates["ask_pct"][at]),
        cached_tokens=int(candidates.cached[at]),
        ttft_ms=ttft_ms,
        high_ttft_ms=ttft_ms * high,
        tps=1e3 / step_ms,
        low_tps=1e3 / (step_ms * high),
        total_ms=ttft_ms + step_ms * max(median - 1.0, 0.0),
        high_total_ms=(ttft_ms + step_ms * max(most - 1.0, 0.0)) * high,
    )


def _wait(
    desk: Dispatcher, request: RouteRequest, decision: Decision, now_s: float
) -> tuple[float | None, MarketError | None]:
    """Seconds until it would have a slot, and what it would be refused with instead."""
    if decision.chosen is not None:
        return 0.0, refusals.too_late(decision)
    error = desk.hopeless(request, decision, now_s)
    if error is not None:
        return None, error
    queue = desk.queues.get(request.model)
    ahead = queue.ahead_of(request) if queue is not None else []
    wait_s = desk.wait_s(request.model, ahead, now_s)
    late = None
    if not desk.rebuilding(now_s):
        late = refusals.late_turn(request, decision, len(queue or ()), wait_s)
    return (None if isinf(wait_s) else wait_s), late
