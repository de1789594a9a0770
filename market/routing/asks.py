"""From a request to what the policy is asked about it, with what the router knows added."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from market.policy.ask import Ask
from market.policy.candidates import Candidates
from market.policy.decision import Decision, decide
from market.policy.fleet import Fleet, Load
from market.policy.preferences import NO_PREFERENCES
from market.policy.registry import COSTER, Policy
from market.routing.lengths import Lengths
from market.routing.messages import RouteRequest
from market.routing.prefixes import Prefixes
from market.types import MachineId


class Asker:
    """Puts requests to the policy in use."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.lengths = Lengths()
        self.prefixes = Prefixes()
        self.policy: Policy = COSTER
        self._fleet = fleet
        self._seed = seed

    def decide(
        self,
        request: RouteRequest,
        now_s: float,
        *,
        waited_s: float = 0.0,
        rebuilding: bool = False,
        collector: MachineId | None = None,
    ) -> Decision:
        """Ask the policy about the fleet as it is."""
        expected, high = self.lengths.expected(
            request.model, request.consumer, request.max_tokens, request.said_tokens
        )
        wished = request.preferences
        if wished == NO_PREFERENCES:  # a copy that came over the wire
            wished = NO_PREFERENCES
        ask = Ask(
            request_id=request.request_id,
            attempt=request.attempt,
            model=request.model,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            n=request.n,
            expected_tokens=expected,
            now_s=now_s,
            high_tokens=high,
            said_tokens=request.said_tokens,
            request_class=request.request_class,
            excluded=request.excluded,
            rebuilding=rebuilding,
            collector=collector,
            preferences=wished,
            finish_by_s=_left(request.finish_by_s, waited_s),
            price_in_nano=request.price_in_nano,
            price_out_nano=request.price_out_nano,
            session=request.session,
            digest=self._fleet.code(request.digest),
            quantizations=tuple(map(self._fleet.known_code, wished.quantizations)),
            hedge=request.hedge,
        )
        candidates = self._with_cached(self._fleet.candidates(request.model), request)
        return decide(candidates, ask, self._seed, self.policy)

    def _with_cached(self, candidates: Candidates, request: RouteRequest) -> Candidates:
        held = self.prefixes.cached_tokens(request.model, request.prefix)
        if not held:
            return candidates
        cached = np.zeros(len(candidates))
        for machine, tokens in held.items():
            at = self._fleet.position(request.model, machine)
            if at is not None:
                cached[at] = min(tokens, request.prompt_tokens)
        return replace(candidates, cached=cached)

    def load_of(self, decision: Decision) -> Load:
        """What granting this would add to the chosen Mac."""
        assert decision.index is not None
        ask, candidates = decision.ask, decision.candidates
        n = decision.slots
        return Load(
            slots=n,
            context_tokens=n * (ask.read_tokens + ask.expected_tokens / 2),
            expected_tokens=n * ask.expected_tokens,
            kv_bytes=float(candidates["kv_bytes_per_token"][decision.index]) * ask.most_tokens,
        )

    def cost_nano(self, decision: Decision) -> float:
        """What the answer is expected to cost on the chosen Mac."""
        assert decision.index is not None
        return float(decision.predicted.cost_nano[decision.index])


def _left(finish_by_s: float | None, waited_s: float) -> float | None:
    return finish_by_s - waited_s if finish_by_s is not None else None
