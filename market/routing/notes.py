"""What is noted of a decision when it is made, and the record that is made of it later.

Making a record costs as much as deciding, so the router's loop only keeps the decision; the
record and the packed snapshot it can be replayed from are made when they are stored.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any

from market.policy.ask import Ask
from market.policy.candidates import pack, unpack
from market.policy.decision import Decision, best, decide
from market.policy.preferences import Preferences
from market.policy.registry import Policy, policy_named
from market.routing.log import DecisionRecord, ScoredMac
from market.routing.messages import RouteRequest
from market.types import GatewayId

PACKED_MACS_MAX = 256
"""Decisions over more Macs are not kept whole: 1,000 Macs would be 60 KB each."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A decision as it was made. `refusal` is the code of the error that came of it."""

    decision: Decision
    request: RouteRequest
    gateway: GatewayId
    decided_s: float
    since_s: float
    refusal: str | None = None

    def record(self) -> DecisionRecord:
        """What is stored of it."""
        decision, request, index = self.decision, self.request, self.decision.index
        chosen = None
        if index is not None and self.refusal is None:
            chosen = decision.candidates.name(index)
        predicted = decision.predicted if index is not None else None
        return DecisionRecord(
            request_id=request.request_id,
            attempt=request.attempt,
            model=request.model,
            gateway=self.gateway,
            decided_s=self.decided_s,
            waited_s=self.decided_s - self.since_s,
            fleet_version=decision.fleet_version,
            macs=len(decision.candidates),
            counts=tuple(decision.counts.items()),
            chosen=chosen.machine if chosen is not None else None,
            provider=chosen.provider if chosen is not None else None,
            predicted_ttft_ms=float(predicted.ttft_ms[index]) if predicted is not None else None,
            predicted_total_ms=float(predicted.total_ms[index]) if predicted is not None else None,
            refusal=self.refusal,
            words=decision.in_words(),
            policy=decision.policy,
            narrowed=decision.narrowed,
            faults=decision.faults,
            top=tuple(
                ScoredMac(v.machine, v.provider, v.total_ms or 0.0, v.terms_ms)
                for v in best(decision)
            ),
            packed=pack_decision(decision),
        )


def pack_decision(decision: Decision) -> bytes | None:
    """All that replaying it needs; None for one over too many Macs."""
    if len(decision.candidates) > PACKED_MACS_MAX:
        return None
    head = {"policy": decision.policy, "seed": decision.seed, "ask": asdict(decision.ask)}
    text = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 1)
    return len(text).to_bytes(4, "big") + text + pack(decision.candidates)


def again(decision: Decision, policy: Policy) -> Decision:
    """The same request, before the same fleet, decided by this policy."""
    return decide(decision.candidates, decision.ask, decision.seed, policy)


def replay(packed: bytes) -> Decision:
    """The decision made again from what was stored: the same Mac, the same terms.

    Raises ValueError when another version of the market has made it.
    """
    head, rest = _parts(packed)
    return decide(unpack(rest), _ask(head), head["seed"], policy_named(head["policy"]))


def ask_of(packed: bytes) -> Ask:
    """What was asked when it was made. Raises ValueError as `replay`."""
    return _ask(_parts(packed)[0])


def _parts(packed: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(packed[:4], "big")
    try:
        head: dict[str, Any] = json.loads(zlib.decompress(packed[4 : 4 + size]))
    except zlib.error as error:
        raise ValueError(f"the decision is not as it was stored: {error}") from error
    return head, packed[4 + size :]


def _ask(head: dict[str, Any]) -> Ask:
    told = head["ask"]
    if set(told) != {field.name for field in fields(Ask)}:
        raise ValueError("the decision was made by another version and cannot be replayed")
    values = _with_tuples(told)
    values["preferences"] = Preferences(**_with_tuples(told["preferences"]))
    return Ask(**values)


def _with_tuples(told: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where records have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
