"""Who gets which slot and who waits: the fleet, the queues and the reservations together.

Everything that gives a slot away or takes one back goes through here, so that the laws
hold in one place: slots reserved never exceed slots there are, each grant is released
once, and whenever a slot becomes free the queue is asked first.
"""

from __future__ import annotations

from collections.abc import Iterable

from market.errors import MarketError, Unavailable
from market.policy.ask import Ask
from market.policy.route import Decision, decide
from market.routing.fair_queue import OUTPUT_COST, FairQueue, Waiting, cost_tokens
from market.routing.gateways import Gateways
from market.routing.log import DecisionRecord, Intent, OutcomeRecord, ScoredMac
from market.routing.macs import Macs
from market.routing.messages import Busy, Grant, Outcome, Refused, RouteRequest
from market.routing.rates import ServiceRates
from market.routing.recent import RecentDecisions
from market.routing.reservations import GrantKey, Reservation, Reservations
from market.types import MachineId, ModelId, RequestId

PATIENCE_S = 2.0
"""A request of several choices overtaken for this long gets a Mac kept free for it."""

NO_PROVIDER_RETRY_S = 5.0
MIN_RETRY_S = 1.0
MAX_RETRY_S = 30.0


class Dispatcher:
    """Slots, queues and reservations of one cell. `rebuilt_s`: until then nothing is hopeless."""

    def __init__(self, rebuilt_s: float, seed: int, intents: Iterable[Intent]) -> None:
        self.macs = Macs(intents)
        self.gateways = Gateways()
        self.reservations = Reservations()
        self.rates = ServiceRates()
        self.queues: dict[ModelId, FairQueue] = {}
        self.counters: dict[str, float] = {}
        self.recent = RecentDecisions()
        self.journal: list[DecisionRecord | OutcomeRecord] = []
        self._seed = seed
        self._rebuilt_s = rebuilt_s
        self._collecting: dict[MachineId, RequestId] = {}

    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + 1.0

    def rebuilding(self, now_s: float) -> bool:
        """Just restarted: not every Mac and gateway has declared itself yet."""
        return now_s < self._rebuilt_s

    # ── asking ────────────────────────────────────────────────────────────────────────

    def try_now(self, request: RouteRequest, now_s: float) -> Grant | Busy | MarketError:
        """A slot that is free now, or the queue, or why neither can help.

        A free slot that a newcomer may take is one that nobody in the queue could use.
        """
        decision = self.decide(request, now_s)
        if decision.chosen is not None:
            return self._grant(request, decision, now_s, now_s, cost=0.0)
        if decision.hopeless and not self.rebuilding(now_s):
            error = self._no_provider(request.model, decision)
            self._note(request, decision, now_s, now_s, refusal=error.code)
            self.count("refused")
            return error
        queue = self.queues.get(request.model)
        if request.funding is None:
            self.count("busy")
            return Busy(request.request_id, len(queue) if queue is not None else 0)
        if queue is None:
            queue = self.queues[request.model] = FairQueue(request.model)
        expected = self.rates.expected_tokens(request.model, request.max_tokens)
        retry_s = self.retry_after_s(request.model)
        try:
            queue.push(request, now_s, cost_tokens(request, expected), retry_s)
        except MarketError as error:
            self.count("refused")
            return error
        self.count("queued")
        return Busy(request.request_id, len(queue))

    def decide(self, request: RouteRequest, now_s: float) -> Decision:
        """Ask the policy about the fleet as it is."""
        ask = Ask(
            request_id=request.request_id,
            attempt=request.attempt,
            model=request.model,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            n=request.n,
            expected_tokens=self.rates.expected_tokens(request.model, request.max_tokens),
            now_s=now_s,
            excluded=request.excluded,
            rebuilding=self.rebuilding(now_s),
            collector=self._collector_of(request.request_id),
        )
        return decide(self.macs.fleet.candidates(request.model), ask, self._seed)

    # ── the queue ─────────────────────────────────────────────────────────────────────

    def pump(self, model: ModelId, now_s: float, *, sweep: bool = False) -> None:
        """Serve waiting requests while slots are free; a sweep also refuses hopeless ones.

        A request that found nothing speaks for all that ask for no less, so a long queue
        costs one decision, not one per request.
        """
        queue = self.queues.get(model)
        if not queue:
            return
        found_nothing: list[RouteRequest] = []
        for entry in queue.in_order():
            if not sweep and self.macs.fleet.free_slots(model) == 0:
                return
            request = entry.request
            collector = self._collector_of(request.request_id)
            if collector is None and any(_asks_no_less(request, o) for o in found_nothing):
                continue
            decision = self.decide(request, now_s)
            if decision.chosen is not None:
                queue.serve(request.request_id)
                grant = self._grant(request, decision, now_s, entry.enqueued_s, cost=entry.cost)
                self.gateways.send(request.gateway, grant)
            elif decision.hopeless and not self.rebuilding(now_s):
                self.leave_queue(queue, request.request_id)
                self._refuse(entry, decision, self._no_provider(model, decision), now_s)
            elif collector is None:
                found_nothing.append(request)
                self._keep_free_for(entry, decision, now_s)

    def pump_machine(self, machine: MachineId, now_s: float) -> None:
        """Serve whoever waits for a model this Mac has."""
        for facts in self.macs.fleet.models_of(machine):
            self.pump(facts.model, now_s)

    def expire(self, queue: FairQueue, now_s: float) -> None:
        """Refuse the requests whose deadline has passed."""
        for entry in queue.expired(now_s):
            request = entry.request
            decision = self.decide(request, now_s)
            self._stop_collecting_for(request.request_id)
            error = Unavailable(
                f"No Mac became free for {request.model} within {request.deadline_s:g} s; "
                f"{decision.in_words()}.",
                None,
                "queue_timeout",
                self.retry_after_s(request.model),
                True,
            )
            self._refuse(entry, decision, error, now_s)

    def leave_queue(self, queue: FairQueue, request_id: RequestId) -> None:
        """Take a waiting request out, unserved."""
        queue.remove(request_id)
        self._stop_collecting_for(request_id)

    def retry_after_s(self, model: ModelId) -> float:
        """When the queue of this model will have moved on, from how long slots are held."""
        candidates = self.macs.fleet.candidates(model)
        slots = max(int(candidates.slots.sum()), 1)
        queue = self.queues.get(model)
        ahead = (len(queue) if queue is not None else 0) + 1
        return float(
            min(max(round(self.rates.service_s(model) * ahead / slots), MIN_RETRY_S), MAX_RETRY_S)
        )

    # ── slots ─────────────────────────────────────────────────────────────────────────

    def adopt(self, reservation: Reservation) -> None:
        """Take over a grant that a gateway declares and we have forgotten."""
        if self.reservations.adopt(reservation):
            self.macs.fleet.add_in_flight(reservation.machine, reservation.slots)
            self.count("adopted")

    def release(self, key: GrantKey, now_s: float, *, ended: bool) -> Reservation | None:
        """Give the slots back, once."""
        held = self.reservations.release(key, now_s, ended=ended)
        if held is not None:
            self.macs.fleet.add_in_flight(held.machine, -held.slots)
            self.count("released")
        return held

    def release_all(self, held: Iterable[Reservation], now_s: float, *, ended: bool) -> None:
        """Give many slots back, then serve who waits for them."""
        machines = set()
        for reservation in held:
            self.release(reservation.key, now_s, ended=ended)
            machines.add(reservation.machine)
        for machine in sorted(machines):
            self.pump_machine(machine, now_s)

    def settle(self, held: Reservation, outcome: Outcome) -> None:
        """Learn what a request really took, and charge the difference in the queue."""
        if held.model is None or outcome.result != "ok":
            return
        tokens = outcome.completion_tokens / max(held.slots, 1)
        service_s = (outcome.total_ms or 0.0) / 1000.0
        self.rates.learn(held.model, tokens, service_s)
        queue = self.queues.get(held.model)
        if held.cost > 0 and held.consumer is not None and queue is not None:
            expected = held.expected_tokens * held.slots
            queue.correct(held.consumer, OUTPUT_COST * (outcome.completion_tokens - expected))

    def _grant(
        self,
        request: RouteRequest,
        decision: Decision,
        now_s: float,
        since_s: float,
        *,
        cost: float,
    ) -> Grant:
        mac = self.macs.get(decision.chosen) if decision.chosen is not None else None
        assert mac is not None, "the policy chooses among the Macs of the fleet"
        grant = Grant(
            request_id=request.request_id,
            attempt=request.attempt,
            machine=mac.beat.machine,
            provider=mac.beat.provider,
            payee=mac.beat.owner,
            endpoint=mac.beat.endpoint,
            predicted_ttft_ms=decision.predicted_ttft_ms,
        )
        self.reservations.enter(
            Reservation(
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
            )
        )
        self.macs.fleet.add_in_flight(grant.machine, decision.slots)
        self._stop_collecting_for(request.request_id)
        self._note(request, decision, now_s, since_s)
        self.count("granted")
        return grant

    # ── keeping a Mac free for a request of several choices ──────────────────────────────

    def _keep_free_for(self, entry: Waiting, decision: Decision, now_s: float) -> None:
        """After some patience, let no one overtake a request of several choices any more."""
        if entry.request.n == 1:
            return
        if entry.passed_over_s is None:
            entry.passed_over_s = now_s
        if now_s - entry.passed_over_s < PATIENCE_S:
            return
        machine = decision.nearest_to_free()
        if machine is not None:
            self._collecting[machine] = entry.request.request_id
            self.macs.fleet.set(machine, collecting=True)
            self.count("kept_free")

    def stop_collecting(self, machine: MachineId) -> None:
        """Let everyone have the Mac's slots again."""
        if self._collecting.pop(machine, None) is not None and machine in self.macs.fleet:
            self.macs.fleet.set(machine, collecting=False)

    def _stop_collecting_for(self, request_id: RequestId) -> None:
        machine = self._collector_of(request_id)
        if machine is not None:
            self.stop_collecting(machine)

    def _collector_of(self, request_id: RequestId) -> MachineId | None:
        return next((m for m, rid in self._collecting.items() if rid == request_id), None)

    # ── refusing and noting ───────────────────────────────────────────────────────────

    def _refuse(self, entry: Waiting, decision: Decision, error: Unavailable, now_s: float) -> None:
        request = entry.request
        self.gateways.send(request.gateway, Refused(request.request_id, error))
        self._note(request, decision, now_s, entry.enqueued_s, refusal=error.code)
        self.count("refused")

    def _no_provider(self, model: ModelId, decision: Decision) -> Unavailable:
        starting = self.macs.starting_without_models() if not len(decision.candidates) else 0
        more = f"; {starting} still loading" if starting else ""
        return Unavailable(
            f"No Mac can serve {model}: {decision.in_words()}{more}.",
            None,
            "no_provider",
            NO_PROVIDER_RETRY_S,
            True,
        )

    def _note(
        self,
        request: RouteRequest,
        decision: Decision,
        now_s: float,
        since_s: float,
        refusal: str | None = None,
    ) -> None:
        self.recent.keep(decision)
        self.journal.append(
            DecisionRecord(
                request_id=request.request_id,
                attempt=request.attempt,
                model=request.model,
                gateway=request.gateway,
                decided_s=now_s,
                waited_s=now_s - since_s,
                fleet_version=decision.fleet_version,
                macs=len(decision.candidates),
                counts=tuple(decision.counts.items()),
                chosen=decision.chosen,
                provider=self.macs.provider_of(decision.chosen),
                predicted_ttft_ms=decision.predicted_ttft_ms if decision.chosen else None,
                refusal=refusal,
                words=decision.in_words(),
                top=tuple(
                    ScoredMac(
                        verdict.machine,
                        self.macs.provider_of(verdict.machine),
                        verdict.total_ms or 0.0,
                        verdict.terms_ms,
                    )
                    for verdict in decision.top
                ),
            )
        )


def _asks_no_less(request: RouteRequest, than: RouteRequest) -> bool:
    """Whatever ruled every Mac out for `than` rules it out for `request` as well."""
    return (
        request.n >= than.n
        and request.prompt_tokens >= than.prompt_tokens
        and request.max_tokens >= than.max_tokens
        and set(request.excluded) >= set(than.excluded)
    )
