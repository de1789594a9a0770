"""The router's laws under any sequence of events, found by search."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from market.routing.messages import Busy, Grant, Outcome, Refused
from market.routing.state import RouterState
from market.types import GatewayId, MachineId, RequestId
from tests.router_kit import gateway_beat, outcome, provider_beat, request

MACS = {"a": 1, "b": 2, "c": 4}
GATEWAYS = [GatewayId("gw_1"), GatewayId("gw_2")]
NAMES = st.sampled_from(sorted(MACS))


class RouterLaws(RuleBasedStateMachine):
    """Plays gateways and Macs against one router and checks it after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 10.0
        self.number = 0
        self.state = RouterState(started_s=0.0, seed=1)
        self.incarnations = dict.fromkeys(MACS, 1)
        self.held: dict[GatewayId, dict[str, Grant]] = {g: {} for g in GATEWAYS}
        self.waiting: dict[GatewayId, set[str]] = {g: set() for g in GATEWAYS}
        self.ever_granted: set[tuple[str, int]] = set()
        for name in MACS:
            self.beat(name)

    @rule(name=NAMES)
    def beat(self, name: str) -> None:
        incarnation = self.incarnations[name]
        self.state.beat_provider(
            provider_beat(name, slots=MACS[name], incarnation=incarnation), self.now_s
        )

    @rule(name=NAMES)
    def restart(self, name: str) -> None:
        self.incarnations[name] += 1
        self.beat(name)

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        self.state.machine_lost(MachineId(f"mac_{name}"), "died", self.now_s)

    @rule(name=NAMES, on=st.booleans())
    def drain(self, name: str, on: bool) -> None:
        machine = MachineId(f"mac_{name}")
        if on:
            self.state.drain(machine, "x")
        else:
            self.state.undrain(machine, self.now_s)

    @rule(
        gateway=st.sampled_from(GATEWAYS),
        consumer=st.sampled_from(["c1", "c2"]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        excluded=st.sets(NAMES, max_size=2),
        queue=st.booleans(),
    )
    def ask(
        self, gateway: GatewayId, consumer: str, n: int, excluded: set[str], queue: bool
    ) -> None:
        self.number += 1
        asked = request(
            f"r{self.number}",
            gateway=gateway,
            consumer=consumer,
            n=n,
            excluded=tuple(sorted(excluded)),
            queue=queue,
            deadline_s=20.0,
        )
        (reply,) = self.state.route([asked], self.now_s)
        if isinstance(reply, Grant):
            self.take(gateway, reply)
        elif isinstance(reply, Busy) and queue:
            self.waiting[gateway].add(asked.request_id)

    @rule(gateway=st.sampled_from(GATEWAYS), delivered=st.booleans())
    def poll(self, gateway: GatewayId, delivered: bool) -> None:
        beat = gateway_beat(
            *self.held[gateway].values(), queued=tuple(self.waiting[gateway]), gateway=gateway
        )
        self.state.beat_gateway(beat, self.now_s)
        for letter in self.state.take_mail(gateway):
            if delivered and letter.request_id in self.waiting[gateway]:
                self.waiting[gateway].discard(letter.request_id)
                if isinstance(letter, Grant):
                    self.take(gateway, letter)
                else:
                    assert isinstance(letter, Refused)

    def take(self, gateway: GatewayId, grant: Grant) -> None:
        key = (grant.request_id, grant.attempt)
        assert key not in self.ever_granted, "granted twice"
        self.ever_granted.add(key)
        self.held[gateway][grant.request_id] = grant

    @precondition(lambda self: any(self.held.values()))
    @rule(
        data=st.data(), result=st.sampled_from(["ok", "cancelled", "failed"]), twice=st.booleans()
    )
    def finish(self, data: st.DataObject, result: str, twice: bool) -> None:
        gateway = data.draw(st.sampled_from([g for g in GATEWAYS if self.held[g]]))
        name = data.draw(st.sampled_from(sorted(self.held[gateway])))
        ended = outcome(self.held[gateway].pop(name), result)
        self.state.report([ended] * (1 + twice), self.now_s)

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gateway = data.draw(st.sampled_from([g for g in GATEWAYS if self.waiting[g]]))
        name = data.draw(st.sampled_from(sorted(self.waiting[gateway])))
        self.waiting[gateway].discard(name)
        left = Outcome(RequestId(name), 1, MachineId(""), "cancelled", final=True)
        self.state.report([left], self.now_s)

    @rule(gateway=st.sampled_from(GATEWAYS))
    def gateway_dies(self, gateway: GatewayId) -> None:
        self.state.gateway_lost(gateway, self.now_s)
        self.held[gateway].clear()
        self.waiting[gateway].clear()

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 12.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; a gateway whose lease lapses here is one that had died."""
        self.now_s += seconds
        self.state.tick(self.now_s)
        alive = {gateway.gateway for gateway in self.state._desk.gateways.all()}
        for gateway in set(GATEWAYS) - alive:
            self.held[gateway].clear()
            self.waiting[gateway].clear()

    @invariant()
    def slots_are_never_overbooked(self) -> None:
        desk = self.state._desk
        for name, slots in MACS.items():
            machine = MachineId(f"mac_{name}")
            if machine in desk.macs.fleet:
                in_flight = desk.macs.fleet.get(machine, "in_flight")
                assert in_flight == desk.reservations.slots_on(machine)
                assert in_flight <= slots

    @invariant()
    def no_one_waits_while_a_slot_is_free_for_them(self) -> None:
        desk = self.state._desk
        for queue in desk.queues.values():
            for entry in queue.in_order():
                assert desk.decide(entry.request, self.now_s).chosen is None

    @invariant()
    def no_slot_is_held_for_nobody(self) -> None:
        desk = self.state._desk
        held = {g.request_id for grants in self.held.values() for g in grants.values()}
        waiting = {name for names in self.waiting.values() for name in names}
        assert {r.request_id for r in desk.reservations} <= held | waiting

    def teardown(self) -> None:
        """Whatever happened: once everyone has gone, every slot is free again."""
        for gateway in GATEWAYS:
            self.state.gateway_lost(gateway, self.now_s)
        desk = self.state._desk
        assert len(desk.reservations) == 0
        assert all(len(queue) == 0 for queue in desk.queues.values())
        for name in MACS:
            self.beat(name)
            assert desk.macs.fleet.get(MachineId(f"mac_{name}"), "in_flight") == 0
            assert not desk.macs.fleet.get(MachineId(f"mac_{name}"), "collecting")


RouterLaws.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
)


class TestRouterLaws(RouterLaws.TestCase):  # type: ignore[misc,name-defined]
    """Reservations, work conservation and release, under any history."""
