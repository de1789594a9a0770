"""Why a request gets no Mac: which limit, whether waiting helps, and when to come back."""

from __future__ import annotations

from math import isinf

import numpy as np

from market.errors import InvalidRequest, Unavailable
from market.policy.decision import Decision, all_reasons
from market.policy.filters import LASTING, WISHES, reasons_in_words
from market.policy.predictor import alone_total_ms
from market.routing.messages import RouteRequest
from market.routing.waits import retry_after_s
from market.types import ModelId, ProviderId

NO_PROVIDER_RETRY_S = 5.0
FOREVER_RETRY_S = 30.0
"""When to come back where nobody can say when it will be better."""

NAMED_MAX = 8
"""Most Macs named in a message."""

_FIELDS = {
    "not_only": "provider.only",
    "ignored": "provider.ignore",
    "not_in_order": "provider.order",
    "not_own": "provider.own",
    "trust": "provider.trust",
    "quantization": "provider.quantizations",
    "max_price": "provider.max_price",
}


def no_provider(model: ModelId, decision: Decision, starting: int) -> Unavailable:
    """No Mac can serve it, and none will by itself; `starting` may turn out to have it."""
    more = f"; {starting} still loading" if starting and not len(decision.candidates) else ""
    return Unavailable(
        f"No Mac can serve {model}: {decision.in_words()}{more}.",
        None,
        "no_provider",
        NO_PROVIDER_RETRY_S,
        True,
    )


def unwanted(decision: Decision) -> InvalidRequest:
    """Macs could serve it; the caller's own wishes leave none of them."""
    fields = " or ".join(_FIELDS[name] for name in decision.counts if name in WISHES)
    lacking = _without_it(decision)
    model = decision.ask.model
    more = ""
    if lacking:
        named, verb = ", ".join(lacking), "does" if len(lacking) == 1 else "do"
        more = f"{named} {verb} not have {model} loaded. "
    return InvalidRequest(
        f"Your routing preferences leave no Mac for {model}: {more}Of the "
        f"{len(decision.candidates)} Macs with it {reasons_in_words(decision.counts)}. "
        f"Relax {fields}, or leave it out.",
        "provider",
        "no_provider_matches",
    )


def _without_it(decision: Decision) -> list[ProviderId]:
    """The Macs that the caller insists on and that do not have the model."""
    wished = decision.ask.preferences
    insisted = wished.only or (() if wished.allow_fallbacks else wished.order)
    having = {who.provider for who in decision.candidates.who()}
    return [provider for provider in insisted if provider not in having][:NAMED_MAX]


def unknown_provider(name: str, field: str) -> InvalidRequest:
    """A provider is named that was never here: most likely a slip."""
    return InvalidRequest(
        f"provider.{field} names {name[:40]!r}, which is no Mac of this market; the ids are in "
        "the x-coster-provider header of answers and in the public statistics.",
        f"provider.{field}",
        "unknown_provider",
    )


def timed_out(request: RouteRequest, decision: Decision, wait_s: float) -> Unavailable:
    """It has waited as long as it may; whoever comes now would wait `wait_s`."""
    return Unavailable(
        f"No Mac became free for {request.model} within {request.deadline_s:g} s; "
        f"{decision.in_words()}.",
        None,
        "queue_timeout",
        FOREVER_RETRY_S if isinf(wait_s) else retry_after_s(wait_s),
        True,
    )


def late_turn(
    request: RouteRequest, decision: Decision, waiting: int, wait_s: float
) -> Unavailable | None:
    """Its turn would come after its deadline, so it is told at once and not after it."""
    most_s = request.deadline_s
    if request.finish_by_s is not None:
        most_s = min(most_s, request.finish_by_s)
    if isinf(wait_s) or wait_s <= most_s:
        return None
    if decision.hopeless:
        return Unavailable(
            f"No Mac has {request.model} loaded; the first could have it in about {wait_s:.0f} s, "
            f"after this request's deadline of {most_s:g} s. That you asked is counted: ask again "
            "then, or allow more time.",
            None,
            "model_not_loaded",
            retry_after_s(wait_s - most_s),
            True,
        )
    return Unavailable(
        f"{waiting} requests wait for {request.model} and a Mac would be free for this one in "
        f"about {wait_s:.0f} s, after its deadline of {most_s:g} s; {decision.in_words()}.",
        None,
        "deadline_infeasible",
        retry_after_s(wait_s - most_s),
        ever_in_time(decision),
    )


def too_late(decision: Decision) -> Unavailable | None:
    """Even the chosen Mac is not expected to have finished by the caller's deadline."""
    ask, at = decision.ask, decision.index
    if ask.finish_by_s is None or at is None:
        return None
    if not decision.late(at):
        return None
    total_s = float(decision.predicted.total_ms[at]) / 1e3
    return Unavailable(
        f"The fastest Mac that is free would take about {total_s:.1f} s for this, longer than its "
        f"deadline of {ask.finish_by_s:g} s; ask for fewer tokens or allow more time.",
        None,
        "deadline_infeasible",
        retry_after_s(total_s - ask.finish_by_s),
        ever_in_time(decision),
    )


def ever_in_time(decision: Decision) -> bool:
    """Whether the fastest Mac could make the caller's deadline if it had nothing else to do: if
    not, asking again is no use.
    """
    ask, candidates = decision.ask, decision.candidates
    if ask.finish_by_s is None:
        return True
    alone_ms = alone_total_ms(candidates, decision.predicted, ask)
    unknown = candidates["prefill_ms"] <= 0
    able = np.array([LASTING.isdisjoint(why) for why in all_reasons(decision)], dtype=np.bool_)
    return bool((able & (unknown | (alone_ms <= ask.finish_by_s * 1e3))).any())
