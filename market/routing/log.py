"""What the router remembers of its decisions, and how it tells them to the one who asks.

Plain records between the router and its store. A decision keeps the best candidates and
how many Macs each reason ruled out: enough to answer "why this Mac?" for a week.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from market.types import GatewayId, MachineId, ModelId, ProviderId, RequestId


@dataclass(frozen=True, slots=True)
class ScoredMac:
    """One eligible Mac of a decision and the terms of its score, in milliseconds."""

    machine: MachineId
    provider: ProviderId | None
    total_ms: float
    terms_ms: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A grant (`chosen` is set) or a refusal (`refusal` is the error's code).

    `narrowed` are the soft filters that counted, `faults` the terms that were left out, `packed`
    what a replay needs.
    """

    request_id: RequestId
    attempt: int
    model: ModelId
    gateway: GatewayId
    decided_s: float
    waited_s: float
    fleet_version: int
    macs: int
    counts: tuple[tuple[str, int], ...]
    chosen: MachineId | None = None
    provider: ProviderId | None = None
    predicted_ttft_ms: float | None = None
    refusal: str | None = None
    words: str = ""
    top: tuple[ScoredMac, ...] = ()
    predicted_total_ms: float | None = None
    policy: str = ""
    narrowed: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    packed: bytes | None = None


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """How one attempt ended."""

    request_id: RequestId
    attempt: int
    machine: MachineId
    provider: ProviderId | None
    result: str
    final: bool
    completion_tokens: int
    cached_tokens: int
    ttft_ms: float | None
    total_ms: float | None
    ended_s: float


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The router's status at one moment, as JSON-able data."""

    taken_s: float
    status: dict[str, Any]


LogRecord = DecisionRecord | OutcomeRecord | FleetSnapshot


NO_MODEL = ModelId("")


@dataclass(frozen=True, slots=True)
class Intent:
    """What an operator or owner wants of a Mac until told otherwise. Survives every restart.

    A pin keeps `model` on the Mac; a drain is of the whole Mac and names none. What a private
    Mac does enters no public figure, also when it is not here.
    """

    machine: MachineId
    kind: Literal["drain", "pin", "private"]
    reason: str
    since_s: float
    model: ModelId = NO_MODEL


def explain(
    request_id: RequestId, records: Sequence[DecisionRecord | OutcomeRecord]
) -> dict[str, Any] | None:
    """The whole story of one request as JSON-able data; None when nothing is known.

    Macs appear under their public provider ids only.
    """
    decisions = {r.attempt: r for r in records if isinstance(r, DecisionRecord)}
    outcomes = {r.attempt: r for r in records if isinstance(r, OutcomeRecord)}
    attempts = sorted(decisions.keys() | outcomes.keys())
    if not attempts:
        return None
    model = next((d.model for d in decisions.values()), None)
    return {
        "request_id": request_id,
        "model": model,
        "state": "ended" if _ended(decisions, outcomes, attempts[-1]) else "open",
        "attempts": [
            {
                "attempt": attempt,
                "decision": _decision_data(decisions.get(attempt)),
                "outcome": _outcome_data(outcomes.get(attempt)),
            }
            for attempt in attempts
        ],
    }


def _ended(
    decisions: Mapping[int, DecisionRecord], outcomes: Mapping[int, OutcomeRecord], last: int
) -> bool:
    """Its last attempt ended for good, or nobody was found for it: nothing follows a refusal."""
    outcome, decision = outcomes.get(last), decisions.get(last)
    if outcome is not None and outcome.final:
        return True
    return decision is not None and decision.refusal is not None


def _decision_data(record: DecisionRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "decided_s": record.decided_s,
        "waited_s": round(record.waited_s, 6),
        "fleet_version": record.fleet_version,
        "chosen": record.provider,
        "predicted_ttft_ms": _rounded(record.predicted_ttft_ms),
        "predicted_total_ms": _rounded(record.predicted_total_ms),
        "policy": record.policy,
        "narrowed_by": list(record.narrowed),
        "faults": list(record.faults),
        "refusal": record.refusal,
        "summary": record.words,
        "macs": record.macs,
        "ruled_out": dict(record.counts),
        "candidates": [
            {
                "provider": mac.provider,
                "total_ms": round(mac.total_ms, 3),
                "terms_ms": {name: round(ms, 3) for name, ms in mac.terms_ms},
                "chosen": mac.machine == record.chosen,
            }
            for mac in record.top
        ],
    }


def _rounded(ms: float | None) -> float | None:
    return round(ms, 3) if ms is not None else None


def _outcome_data(record: OutcomeRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "provider": record.provider,
        "result": record.result,
        "final": record.final,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "ttft_ms": record.ttft_ms,
        "total_ms": record.total_ms,
        "ended_s": record.ended_s,
    }
