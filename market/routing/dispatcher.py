"""Who gets which slot and who waits: the fleet, the queues and the reservations together.

Everything that gives a slot away or takes one back goes through here, so that the laws
hold in one place: slots reserved never exceed slots there are, each grant is released
once, and whenever a slot becomes free the queue is asked first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from market.errors import MarketError
from market.metrics import labelled
from market.policy.decision import Decision
from market.policy.prefixes import BLOCK_TOKENS
from market.routing import refusals
from market.routing.asks import Asker
from market.routing.collecting import Collecting
from market.routing.fair_queue import OUTPUT_COST, FairQueue, Waiting, cost_tokens
from market.routing.gateways import Gateways
from market.routing.grants import grant_of, reservation_of
from market.routing.hedges import Hedges
from market.routing.learning import Learning
from market.routing.log import Intent, OutcomeRecord
from market.routing.macs import Macs
from market.routing.messages import Busy, Grant, Outcome, Refused, RouteRequest
from market.routing.notes import Noted
from market.routing.placing import Placing
from market.routing.recent import RecentDecisions
from market.routing.reservations import GrantKey, Reservation, Reservations
from market.routing.turns import Turns
from market.types import MachineId, ModelId

CACHE_SHARE = 0.125
"""Of a Mac's memory that its prefix cache may take: more is not thought to be cached."""


class Dispatcher:
    """Slots, queues and reservations of one cell. `rebuilt_s`: until then nothing is hopeless."""

    def __init__(
        self, rebuilt_s: float, seed: int, intents: Iterable[Intent], placing: Placing
    ) -> None:
        self.macs = Macs(intents)
        self.gateways = Gateways()
        self.reservations = Reservations()
        self.asker = Asker(self.macs.fleet, seed)
        self.learning = Learning(self.macs.fleet, self.macs.private)
        self.hedges = Hedges()
        self.queues: dict[ModelId, FairQueue] = {}
        self.counters: dict[str, float] = {}
        self.recent = RecentDecisions()
        self.journal: list[Noted | OutcomeRecord] = []
        self.placing = placing
        lengths = self.asker.lengths
        self.turns = Turns(self.macs.fleet, self.reservations, lengths, placing)
        self.collecting = Collecting(self.macs.fleet)
        self._rebuilt_s = rebuilt_s

    def count(self, name: str, by: float = 1.0) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + by

    def count_refusal(self, error: MarketError, decision: Decision | None = None) -> None:
        """A request is refused, and why each Mac was no help."""
        self.count(labelled("refused", code=error.code or error.type))
        for gate, macs in (decision.counts if decision is not None else {}).items():
            self.count(labelled("ruled_out", gate=gate), macs)

    def rebuilding(self, now_s: float) -> bool:
        """Just restarted: not every Mac and gateway has declared itself yet."""
        return now_s < self._rebuilt_s

    # ── asking ────────────────────────────────────────────────────────────────────────

    def try_now(self, request: RouteRequest, now_s: float) -> Grant | Busy | MarketError:
        """A slot that is free now, or the queue, or why neither can help.

        A free slot that a newcomer may take is one that nobody in the queue could use.
        """
        if request.hedge:
            return self._hedge(request, now_s)
        decision = self.decide(request, now_s)
        if request.attempt == 1:
            self.placing.asked(request, decision.ask.expected_tokens, now_s)
        if decision.chosen is not None:
            late = refusals.too_late(decision)
            if late is None:
                return self._grant(request, decision, now_s, now_s, cost=0.0)
            self.count("rejected_early")
            return self._refuse_now(request, decision, late, now_s)
        error = self.hopeless(request, decision, now_s)
        if error is not None:
            return self._refuse_now(request, decision, error, now_s)
        queue = self.queues.get(request.model)
        if request.funding is None:
            self.count("busy")
            return Busy(request.request_id, len(queue) if queue is not None else 0)
        return self._wait(request, decision, now_s)

    def _wait(self, request: RouteRequest, decision: Decision, now_s: float) -> Busy | MarketError:
        """Let it join the queue, unless its turn would come too late."""
        queue = self.queues.get(request.model)
        if queue is None:
            queue = self.queues[request.model] = FairQueue(request.model)
        if not self.rebuilding(now_s):
            turn_s = self.wait_s(request.model, queue.ahead_of(request), now_s)
            late = refusals.late_turn(request, decision, len(queue), turn_s)
            if late is not None:
                self._turned_away(request, decision, now_s)
                self.count("rejected_early")
                return self._refuse_now(request, decision, late, now_s)
        cost = cost_tokens(request, decision.ask.expected_tokens)
        try:
            queue.push(request, now_s, cost, self.turns.place_s(request.model))
        except MarketError as full:
            return self._refuse_now(request, decision, full, now_s)
        self.count("queued")
        return Busy(request.request_id, len(queue))

    def _hedge(self, request: RouteRequest, now_s: float) -> Grant | Busy:
        """A second try beside a slow one: only with room, within the budget, never in the way."""
        queue = self.queues.get(request.model)
        decision = self.decide(request, now_s)
        if queue or decision.index is None:
            self.count("hedges_refused")
            return Busy(request.request_id, len(queue) if queue is not None else 0)
        tokens = request.prompt_tokens + decision.ask.expected_tokens
        if not self.hedges.allow(tokens):
            self.count("hedges_refused")
            return Busy(request.request_id, 0)
        self.count("hedged")
        return self._grant(request, decision, now_s, now_s, cost=0.0)

    def decide(self, request: RouteRequest, now_s: float, waited_s: float = 0.0) -> Decision:
        """Ask the policy about the fleet as it is."""
        decision = self.asker.decide(
            request,
            now_s,
            waited_s=waited_s,
            rebuilding=self.rebuilding(now_s),
            collector=self.collecting.machine_for(request.request_id),
        )
        if decision.faults:
            self.count("policy_faults", len(decision.faults))
        return decision

    def hopeless(
        self, request: RouteRequest, decision: Decision, now_s: float
    ) -> MarketError | None:
        """The error, when waiting cannot help; None when it may."""
        if not decision.hopeless or self.rebuilding(now_s):
            return None
        if decision.unwanted:
            return refusals.unwanted(decision)
        if self.placing.ready_in_s(request.model, now_s) is not None:
            return None
        self._turned_away(request, decision, now_s)
        return refusals.no_provider(request.model, decision, self.macs.starting())

    def _turned_away(self, request: RouteRequest, decision: Decision, now_s: float) -> None:
        """Where no Mac is able to serve, what is refused is still wanted."""
        if request.attempt == 1 and self.turns.slots(request.model) == 0:
            self.placing.turned_away(request, decision.ask.expected_tokens, now_s)

    def _refuse_now(
        self, request: RouteRequest, decision: Decision, error: MarketError, now_s: float
    ) -> MarketError:
        self._note(request, decision, now_s, now_s, refusal=error.code)
        self.count_refusal(error, decision)
        return error

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
            self._serve(queue, entry, found_nothing, now_s)

    def _serve(
        self, queue: FairQueue, entry: Waiting, found_nothing: list[RouteRequest], now_s: float
    ) -> bool:
        """Try one waiting request; True when it has left the queue."""
        request = entry.request
        collector = self.collecting.machine_for(request.request_id)
        if collector is None and any(asks_no_less(request, other) for other in found_nothing):
            return False
        decision = self.decide(request, now_s, waited_s=now_s - entry.enqueued_s)
        if decision.chosen is not None:
            # Charged by what is expected now: what is made up for at its end is counted from it.
            entry.cost = cost_tokens(request, decision.ask.expected_tokens)
            queue.serve(request.request_id)
            grant = self._grant(request, decision, now_s, entry.enqueued_s, cost=entry.cost)
            self.gateways.send(request.gateway, grant)
            return True
        error = self.hopeless(request, decision, now_s)
        if error is not None:
            self.leave_queue(queue, entry)
            self._refuse(entry, decision, error, now_s)
            return True
        if collector is None:
            found_nothing.append(request)
            if self.collecting.keep_free_for(entry, decision, now_s):
                self.count("kept_free")
        return False

    def pump_machine(self, machine: MachineId, now_s: float) -> None:
        """Serve whoever waits for a model this Mac has; who has waited longest comes first."""
        waiting = [
            (queue.oldest_s, model)
            for model in self.macs.fleet.models_of(machine)
            if (queue := self.queues.get(model))
        ]
        for _, model in sorted(waiting):
            self.pump(model, now_s)

    def expire(self, queue: FairQueue, now_s: float) -> None:
        """Refuse the requests whose deadline has passed."""
        for entry in queue.expired(now_s):
            decision = self.decide(entry.request, now_s, waited_s=now_s - entry.enqueued_s)
            self.collecting.stop_for(entry.request.request_id)
            ahead = [waiting.cost for waiting in queue.in_order()]
            wait_s = self.wait_s(queue.model, ahead, now_s)
            error = refusals.timed_out(entry.request, decision, wait_s)
            self._refuse(entry, decision, error, now_s)

    def leave_queue(self, queue: FairQueue, entry: Waiting) -> None:
        """Take a waiting request out, unserved."""
        queue.remove(entry.request.request_id)
        self.collecting.stop_for(entry.request.request_id)

    def wait_s(self, model: ModelId, ahead: Sequence[float], now_s: float) -> float:
        """How long the request with these cost tokens before it will wait for a slot."""
        return self.turns.wait_s(model, ahead, now_s)

    # ── slots ─────────────────────────────────────────────────────────────────────────

    def adopt(self, reservation: Reservation) -> None:
        """Take over a grant that a gateway declares and we have forgotten."""
        if self.reservations.adopt(reservation):
            self._count_load(reservation, 1)
            self.count("adopted")

    def _count_load(self, held: Reservation, sign: int) -> None:
        self.macs.fleet.add_load(held.machine, held.model, held.load_now(), sign)

    def recount(self, machine: MachineId) -> None:
        """A Mac has come back that some grants were never taken away from."""
        for held in self.reservations.of_machine(machine):
            self._count_load(held, 1)

    def release(self, key: GrantKey, now_s: float, *, ended: bool) -> Reservation | None:
        """Give the slots back, once."""
        held = self.reservations.release(key, now_s, ended=ended)
        if held is not None:
            self._count_load(held, -1)
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
        cut, lengths = outcome.truncated, self.asker.lengths
        lengths.learn(held.model, held.consumer, tokens, cut=cut)
        expected = held.said_tokens + held.expected_tokens * held.slots
        more = OUTPUT_COST * (outcome.completion_tokens - expected)
        lengths.learn_service(held.model, held.work + more, service_s)
        self._learn_prefix(held, outcome)
        queue = self.queues.get(held.model)
        if held.cost > 0 and held.consumer is not None and queue is not None:
            queue.correct(held.consumer, more)

    def _learn_prefix(self, held: Reservation, outcome: Outcome) -> None:
        """What the Mac had read before, and what it has read now."""
        assert held.model is not None
        fleet, prefixes = self.macs.fleet, self.asker.prefixes
        prefixes.correct(held.machine, held.model, held.prefix, outcome.cached_tokens)
        facts = fleet.facts_of(held.machine, held.model)
        if outcome.prefix and facts is not None and held.machine in fleet:
            memory = fleet.get(held.machine, "memory_bytes")
            kv_bytes = max(facts.kv_bytes_per_token, 1)
            prefixes.note(held.machine, held.model, outcome.prefix, blocks_kept(memory, kv_bytes))

    def _grant(
        self,
        request: RouteRequest,
        decision: Decision,
        now_s: float,
        since_s: float,
        *,
        cost: float,
    ) -> Grant:
        fleet = self.macs.fleet
        mac = self.macs.get(decision.chosen) if decision.chosen is not None else None
        assert mac is not None, "the policy chooses among the Macs of the fleet"
        facts = fleet.facts_of(mac.beat.machine, request.model)
        grant = grant_of(request, decision, mac.beat, facts, self._hedge_ms(request, decision))
        held = reservation_of(
            request, decision, grant, self.asker.load_of(decision), now_s=now_s, cost=cost
        )
        self.reservations.enter(held)
        self._count_load(held, 1)
        index = decision.index
        assert index is not None
        predicted = decision.predicted
        began_s = max(fleet.get(grant.machine, "prefill_until_s"), now_s)
        fleet.set(
            grant.machine,
            prefill_until_s=began_s + float(predicted.prefill_ms[index]) / 1e3,
            last_grant_s=now_s,
        )
        self.collecting.stop_for(request.request_id)
        if not request.hedge:
            self.hedges.granted(request.prompt_tokens + decision.ask.expected_tokens)
        self._note(request, decision, now_s, since_s)
        self.count("granted")
        return grant

    def _hedge_ms(self, request: RouteRequest, decision: Decision) -> float:
        """From when a second try may be asked for; 0 when there could be none."""
        if request.hedge or request.n > 1 or request.said_tokens:
            return 0.0
        if int(decision.eligible.sum()) < 2 or request.request_class == "batch":
            return 0.0
        return self.hedges.after_ms(decision)

    # ── refusing and noting ───────────────────────────────────────────────────────────

    def _refuse(self, entry: Waiting, decision: Decision, error: MarketError, now_s: float) -> None:
        request = entry.request
        self.gateways.send(request.gateway, Refused(request.request_id, error))
        self._note(request, decision, now_s, entry.enqueued_s, refusal=error.code)
        self.count_refusal(error, decision)

    def _note(
        self,
        request: RouteRequest,
        decision: Decision,
        now_s: float,
        since_s: float,
        refusal: str | None = None,
    ) -> None:
        if refusal is not None and decision.index is not None:
            decision = replace(decision, refused=True)
        self.recent.keep(decision)
        self.journal.append(Noted(decision, request, request.gateway, now_s, since_s, refusal))


def blocks_kept(memory_bytes: float, kv_bytes_per_token: int) -> int:
    """How many blocks of a prompt a Mac's cache is thought to keep."""
    return int(memory_bytes * CACHE_SHARE / kv_bytes_per_token) // BLOCK_TOKENS


def asks_no_less(request: RouteRequest, than: RouteRequest) -> bool:
    """Whatever ruled every Mac out for `than` rules it out for `request` as well."""
    return (
        request.n >= than.n
        and request.prompt_tokens >= than.prompt_tokens
        and request.max_tokens >= than.max_tokens
        and set(request.excluded) >= set(than.excluded)
        and request.preferences == than.preferences
        and than.digest in ("", request.digest)
    )
