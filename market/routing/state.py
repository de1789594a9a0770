"""The router's mind: what each sign of life, report or silence changes.

A pure class: records and the time come in, replies and mail come out; the actor is a
shell around it. The rules it keeps, whatever happens:

- slots reserved on a Mac never exceed the slots it has (unless the Mac shrinks, or a
  restarted router learns of more than it would have granted);
- a grant is released exactly once;
- no request waits while a Mac that may take it has room, save a Mac that is being kept
  free for a request of several choices;
- live state is soft: after a restart gateways and Macs declare it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from market.errors import MarketError, Unavailable
from market.metrics import labelled
from market.placement.case import Case
from market.policy.registry import Policy, policy_named
from market.routing import refusals
from market.routing.claims import match_claims
from market.routing.dispatcher import Dispatcher
from market.routing.log import Intent, OutcomeRecord
from market.routing.messages import (
    Busy,
    GatewayBeat,
    Grant,
    Outcome,
    ProviderBeat,
    ProviderOrders,
    Quote,
    Refused,
    RouteRequest,
)
from market.routing.notes import Noted
from market.routing.placing import Placing
from market.routing.quotes import quote_of
from market.routing.readings import Readings
from market.routing.reservations import Reservation
from market.routing.roster import Roster
from market.routing.sanity import scrubbed
from market.settings import PlacementSettings
from market.types import GatewayId, MachineId, ModelId, RequestId

MAX_ATTEMPTS = 3
"""Tries of one request before its client is told."""

REBUILD_S = 3.0
"""After a restart: how long until every Mac (1 s) and gateway (2 s) has declared itself."""

SWEEP_EVERY_S = 0.5
"""How often requests that nothing can help any more are looked for."""

RETRY_S = 1.0

BEAT_S = 1.0
EAGER_BEAT_S = 0.2
"""A Mac that no plan knows yet asks again so soon: it has nothing to do until it is told."""

NO_PLACEMENT = PlacementSettings(enabled=False)


class RouterState(Readings):
    """Decides for one cell of Macs. Call it from one thread; it keeps no time itself."""

    def __init__(
        self,
        started_s: float,
        seed: int = 0,
        intents: Iterable[Intent] = (),
        placing: Placing | None = None,
        roster: Roster | None = None,
    ) -> None:
        """Without a `placing` nobody moves models: every Mac has what it has. `roster` are the
        Macs that were known before.
        """
        placing = placing or Placing(NO_PLACEMENT, (), started_s)
        desk = Dispatcher(started_s + REBUILD_S, seed, intents, placing)
        super().__init__(desk, roster or Roster())
        self._swept_s = started_s
        self._door_closed = False

    # ── gateways ──────────────────────────────────────────────────────────────────────

    def route(
        self, batch: Sequence[RouteRequest], now_s: float
    ) -> list[Grant | Busy | MarketError]:
        """Answer each request: a grant, Busy (queued, if it carries funding) or an error."""
        return [self._route(request, now_s) for request in batch]

    def _route(self, request: RouteRequest, now_s: float) -> Grant | Busy | MarketError:
        desk = self._desk
        desk.gateways.heard(request.gateway, now_s)
        held = desk.reservations.get((request.request_id, request.attempt))
        if held is not None and held.gateway == request.gateway and held.grant is not None:
            desk.gateways.discard(request.gateway, request.request_id)
            return held.grant  # asked again: the first answer was lost on its way
        if held is not None:
            return _unavailable(
                "This attempt already runs elsewhere.", "already_running", retry=False
            )
        queue = desk.queues.get(request.model)
        if queue is not None and request.request_id in queue:
            return Busy(request.request_id, len(queue))
        refusal = self._refusal(request, now_s)
        if refusal is not None:
            desk.count_refusal(refusal)
            return refusal
        return desk.try_now(request, now_s)

    def _refusal(self, request: RouteRequest, now_s: float) -> MarketError | None:
        if self._desk.reservations.closed(request.request_id):
            return _unavailable("The request was given up.", "given_up", retry=False)
        if request.attempt > MAX_ATTEMPTS:
            return _unavailable(
                f"{MAX_ATTEMPTS} Macs in a row failed this request; try again.",
                "attempts_exhausted",
            )
        if self._door_closed and request.attempt == 1:
            return _unavailable("The market is shutting down and takes no new work.", "draining")
        wished = request.preferences
        if wished.only or wished.order:
            return self._unknown_provider(request, now_s)
        return None

    def _unknown_provider(self, request: RouteRequest, now_s: float) -> MarketError | None:
        """A slip in a provider's id would otherwise look like a Mac that is away."""
        if self._desk.rebuilding(now_s):
            return None
        for field, names in (
            ("only", request.preferences.only),
            ("order", request.preferences.order),
        ):
            for name in names:
                if self._desk.macs.machine_of(name) is None:
                    return refusals.unknown_provider(name, field)
        return None

    def quote(self, batch: Sequence[RouteRequest], now_s: float) -> list[Quote]:
        """What would become of each request; nothing is reserved, queued or learned from it."""
        return [quote_of(self._desk, r, self._refusal(r, now_s), now_s) for r in batch]

    @property
    def door_closed(self) -> bool:
        return self._door_closed

    def close_door(self) -> int:
        """Take no new requests, only retries of running ones; how many are not done yet."""
        self._door_closed = True
        waiting = sum(len(queue) for queue in self._desk.queues.values())
        return len(self._desk.reservations) + waiting

    def report(self, outcomes: Sequence[Outcome], now_s: float) -> None:
        """Attempts that ended: free their slots, learn, and serve who waits.

        An outcome without a machine closes a request that was still waiting.
        """
        touched: set[ModelId] = set()
        for outcome in outcomes:
            touched.update(self._leave_queue(outcome) if outcome.final else ())
            held = self._report(outcome, now_s)
            if held is not None:
                touched.update(self._desk.macs.fleet.models_of(held.machine))
        for model in sorted(touched):
            self._desk.pump(model, now_s)

    def _leave_queue(self, outcome: Outcome) -> list[ModelId]:
        """The client left; a Mac that was kept free for it is free for the others."""
        desk = self._desk
        left = [(q, e) for q in desk.queues.values() if (e := q.find(outcome.request_id))]
        for queue, entry in left:
            desk.leave_queue(queue, entry)
            desk.count("left_queue")
        return [queue.model for queue, _ in left]

    def _report(self, outcome: Outcome, now_s: float) -> Reservation | None:
        desk = self._desk
        if not outcome.machine:
            desk.reservations.close(outcome.request_id, now_s)
            return self._release_request(outcome.request_id, now_s)
        key = (outcome.request_id, outcome.attempt)
        heard_before = desk.reservations.ended(key)
        held = desk.release(key, now_s, ended=True)
        if held is not None:
            desk.settle(held, outcome)
        if not heard_before:  # a repeated report, or one of a Mac that has died since
            desk.learning.outcome(outcome, held, now_s)
            desk.count(labelled("attempts", result=outcome.result))
        desk.journal.append(
            OutcomeRecord(
                request_id=outcome.request_id,
                attempt=outcome.attempt,
                machine=outcome.machine,
                provider=desk.macs.provider_of(outcome.machine),
                result=outcome.result,
                final=outcome.final,
                completion_tokens=outcome.completion_tokens,
                cached_tokens=outcome.cached_tokens,
                ttft_ms=outcome.ttft_ms,
                total_ms=outcome.total_ms,
                ended_s=now_s,
            )
        )
        return held

    def _release_request(self, request_id: RequestId, now_s: float) -> Reservation | None:
        """The client left while its grant was on its way: the gateway never had a Mac."""
        for held in self._desk.reservations.of_request(request_id):
            self._desk.gateways.discard(held.gateway, request_id)
            return self._desk.release(held.key, now_s, ended=True)
        return None

    def beat_gateway(self, beat: GatewayBeat, now_s: float) -> None:
        """Bring both sides' view of who holds and who waits together."""
        match_claims(self._desk, beat, now_s)

    def take_mail(self, gateway: GatewayId) -> list[Grant | Refused]:
        """What a poll delivers now: grants and refusals of requests that waited."""
        return self._desk.gateways.take(gateway)

    def woken(self) -> set[GatewayId]:
        """Gateways that got mail since the last call."""
        return self._desk.gateways.woken()

    def gateway_lost(self, gateway: GatewayId, now_s: float) -> None:
        """Its lease is over: free what it held, forget what it waited for."""
        desk = self._desk
        desk.count("gateways_lost")
        for queue in desk.queues.values():
            for entry in queue.of_gateway(gateway):
                desk.leave_queue(queue, entry)
        desk.gateways.forget(gateway)
        desk.release_all(desk.reservations.of_gateway(gateway), now_s, ended=False)

    # ── Macs ──────────────────────────────────────────────────────────────────────────

    def beat_provider(self, beat: ProviderBeat, now_s: float) -> ProviderOrders:
        """Take a Mac's declaration in and say what it should be doing."""
        desk = self._desk
        was_believed = not desk.macs.is_quarantined(beat.machine)
        welcome = desk.macs.beat(beat, now_s)
        if welcome == "outdated":
            return ProviderOrders(drain=True, known=False)
        if welcome == "restarted":  # its jobs died with its last incarnation
            held = desk.reservations.of_machine(beat.machine)
            desk.release_all(held, now_s, ended=True)
            desk.asker.prefixes.forget(beat.machine)
        believed = not desk.macs.is_quarantined(beat.machine)
        if welcome != "known" or believed != was_believed:
            self.roster.saw(beat if believed else scrubbed(beat), now_s)
        if welcome == "new":
            desk.recount(beat.machine)
        desk.pump_machine(beat.machine, now_s)
        drain = desk.macs.drain_reason(beat.machine) is not None
        if not believed:
            return ProviderOrders(drain=drain)  # what it says it has is not believed
        placing = desk.placing
        new = placing.enabled and not beat.places and not placing.planner.knows(beat.machine)
        return ProviderOrders(
            drain=drain,
            models=placing.orders(beat),
            again_s=EAGER_BEAT_S if new and not drain else BEAT_S,
        )

    def beat_unchanged(self, machines: Sequence[MachineId], now_s: float) -> None:
        """Beats that say nothing new: these Macs are still there."""
        self._desk.macs.still_here(machines, now_s)

    def machine_lost(self, machine: MachineId, reason: str, now_s: float) -> None:
        """A death notice: its process is gone, and every job on it."""
        self._lose(machine, reason, now_s)
        held = self._desk.reservations.of_machine(machine)
        self._desk.release_all(held, now_s, ended=True)

    def _lose(self, machine: MachineId, reason: str, now_s: float) -> None:
        mac = self._desk.macs.get(machine)
        if mac is not None and self._desk.macs.lose(machine, reason, now_s):
            self._desk.count("macs_lost")
            self.roster.heard(machine, mac.last_beat_s)
        self._desk.collecting.stop(machine)

    def note_heard(self) -> None:
        """Let the roster know when each Mac was heard last; now and then, for a router that ends
        without notice.
        """
        for mac in self._desk.macs:
            self.roster.heard(mac.beat.machine, mac.last_beat_s)

    def drain(self, machine: MachineId, reason: str) -> None:
        """No new work for this Mac until undrained."""
        self._desk.macs.set_drain(machine, reason)
        self._desk.collecting.stop(machine)

    def undrain(self, machine: MachineId, now_s: float) -> None:
        """The Mac may work again."""
        self._desk.macs.set_drain(machine, None)
        self._desk.pump_machine(machine, now_s)

    # ── where models live ─────────────────────────────────────────────────────────────

    def look(self, now_s: float) -> Case | None:
        """Show the planner the fleet, once a second; what is to be worked out now, if anything."""
        desk = self._desk
        desk.placing.look(desk.macs, desk.queues.values(), now_s)
        return desk.placing.case(now_s)

    # ── time ──────────────────────────────────────────────────────────────────────────

    def tick(self, now_s: float) -> None:
        """What the passing of time changes: leases, silence, deadlines, hopeless waits."""
        desk = self._desk
        for gateway in desk.gateways.overdue(now_s):
            self.gateway_lost(gateway, now_s)
        for machine in desk.macs.overdue(now_s):
            self._lose(machine, "no beat for 10 s", now_s)
        for machine in desk.macs.forget_lost(now_s):
            desk.asker.prefixes.forget(machine)
        desk.reservations.forget_old(now_s)
        for queue in desk.queues.values():
            desk.expire(queue, now_s)
        sweep = now_s - self._swept_s >= SWEEP_EVERY_S
        if sweep:
            self._swept_s = now_s
        for model in sorted(desk.queues):
            desk.pump(model, now_s, sweep=sweep)

    # ── what is to be stored ──────────────────────────────────────────────────────────

    def take_privacy(self) -> list[tuple[MachineId, bool]]:
        """Macs that have become private (True) or public since the last call, to be stored."""
        return self._desk.macs.take_privacy()

    # ── what is decided by, and what has been ─────────────────────────────────────────

    def use_policy(self, policy: Policy | str) -> None:
        """Route by another policy from now on; raises InvalidRequest for an unknown name."""
        self._desk.asker.policy = policy_named(policy) if isinstance(policy, str) else policy

    def take_journal(self) -> list[Noted | OutcomeRecord]:
        """Decisions and outcomes since the last call, to be made into records and stored."""
        journal, self._desk.journal = self._desk.journal, []
        return journal


def _unavailable(message: str, code: str, *, retry: bool = True) -> Unavailable:
    return Unavailable(message, None, code, RETRY_S, retry)
