"""Which Macs share a process, and how each of them is kept running there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.calls import ActorAway
from actors.housing import (
    APART_MACS_MAX,
    PROCESS_MACS_MAX,
    Housing,
    actor_names,
    housings,
    is_of_macs,
)
from actors.nodes import provider_id_of, provider_name
from actors.provider import following_s
from actors.reconciler import Reconciler
from actors.roll_call import describe_all, stop_macs
from market.errors import Internal
from market.settings import MACS_MAX, EngineSettings, MacSettings, MarketSettings, ModelSource
from market.types import AccountId, Hardware, MachineId, ModelId
from tests.support.virtual_time import run_virtually

VERSION = "v2"


def macs(count: int) -> tuple[MacSettings, ...]:
    return tuple(
        MacSettings(
            MachineId(f"mac_{number}"),
            provider_id_of(MachineId(f"mac_{number}")),
            f"name-{number}",
            AccountId("acct"),
            Hardware("M4", 16, 10, 10, 120.0),
        )
        for number in range(count)
    )


def settings(count: int, kind: str = "simulated") -> MarketSettings:
    return MarketSettings(
        "data",
        (ModelSource(ModelId("coster/demo")),),
        VERSION,
        macs=macs(count),
        engine=EngineSettings(kind=kind),
    )


@given(st.integers(0, MACS_MAX), st.sampled_from(("mlx", "simulated", "echo")))
def test_every_mac_lives_in_exactly_one_process(count: int, kind: str) -> None:
    """All Macs are housed once, in order; no process is beyond its limit or half empty, and none
    of a real engine or of a small fleet is shared.
    """
    found = housings(settings(count, kind))

    assert tuple(mac for housing in found for mac in housing.macs) == macs(count)
    sizes = {len(housing.macs) for housing in found}
    assert all(size <= PROCESS_MACS_MAX for size in sizes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert (sizes <= {1}) == (kind == "mlx" or count <= APART_MACS_MAX)
    assert len({housing.actor for housing in found}) == len(found)
    assert all(is_of_macs(housing.actor) for housing in found)


@given(st.integers(0, MACS_MAX))
def test_a_gateway_finds_the_process_of_a_mac_by_itself(count: int) -> None:
    """From the settings alone it knows the actor of every Mac that shares one; the others are
    found by their own name.
    """
    shared = actor_names(settings(count))

    for housing in housings(settings(count)):
        for mac in housing.macs:
            assert shared.get(mac.machine, provider_name(mac.machine)) == housing.actor


@given(ticks=st.integers(0, 10**7), every_s=st.sampled_from([0.05, 0.1, 0.2, 0.3, 1.0]))
def test_the_next_beat_is_never_now(ticks: int, every_s: float) -> None:
    """A Mac that stands at a tick, as far as numbers go, does not beat without end."""
    for now_s in (ticks * every_s, ticks / round(1 / every_s)):
        assert now_s < following_s(now_s, every_s, 0.0) <= now_s + every_s * 1.01


@given(
    st.floats(0, 1e6),
    st.floats(0.05, 5.0),
    st.floats(0, 1, exclude_max=True),
)
def test_macs_with_one_phase_beat_at_one_moment(now_s: float, every_s: float, phase: float) -> None:
    """The next beat is later than now, by a period at most, and the same for whoever asks within
    that period.
    """
    next_s = following_s(now_s, every_s, phase)

    assert now_s < next_s <= now_s + every_s * (1 + 1e-6)
    between_s = (now_s + next_s) / 2
    assert following_s(between_s, every_s, phase) == pytest.approx(next_s)


# ── keeping them running ──────────────────────────────────────────────────────────────


class Nursery:
    """Processes as the reconciler sees them: what each was told, and how its Macs end."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.begun: list[MachineId] = []
        self.opened: list[str] = []
        self.killed: list[str] = []
        self.lost: list[tuple[MachineId, str]] = []
        self.ends: dict[MachineId, asyncio.Future[str]] = {}
        self.refuses: dict[MachineId, int] = {}

    async def open(self, housing: Housing) -> FakeProcess:
        self.opened.append(housing.actor)
        return FakeProcess(self, housing.actor)

    async def tell_lost(self, machine: MachineId, reason: str) -> None:
        self.lost.append((machine, reason))

    def end(self, machine: MachineId, how: str | Exception) -> None:
        future = self.ends[machine]
        if isinstance(how, Exception):
            future.set_exception(how)
        else:
            future.set_result(how)


class FakeProcess:
    def __init__(self, nursery: Nursery, actor: str) -> None:
        self._nursery = nursery
        self._actor = actor

    async def code_version(self) -> str:
        return self._nursery.versions.get(self._actor, VERSION)

    async def begin(self, machine: MachineId) -> None:
        if self._nursery.refuses.get(machine, 0) > 0:
            self._nursery.refuses[machine] -= 1
            raise Internal("no port is free")
        self._nursery.begun.append(machine)

    async def wait_forever(self, machine: MachineId) -> str:
        self._nursery.ends[machine] = asyncio.get_running_loop().create_future()
        return await self._nursery.ends[machine]

    def kill(self) -> None:
        self._nursery.killed.append(self._actor)


def keeper(nursery: Nursery, count: int) -> Reconciler:
    async def found() -> tuple[Housing, ...]:
        return housings(settings(count))

    return Reconciler(found, nursery.open, VERSION, nursery.tell_lost)


def test_a_mac_that_ends_begins_again_while_its_neighbours_go_on() -> None:
    """Its loss is told once with the reason, it is begun again, and nobody else is touched."""

    async def story() -> None:
        nursery = Nursery()
        reconciler = keeper(nursery, 20)
        await reconciler.ensure()
        await asyncio.sleep(0.1)
        assert sorted(nursery.begun) == sorted(mac.machine for mac in macs(20))

        nursery.end(MachineId("mac_3"), "its engine hangs")
        await asyncio.sleep(5)
        await reconciler.ensure()
        await asyncio.sleep(1)

        assert nursery.lost == [("mac_3", "its engine hangs")]
        assert nursery.begun[20:] == ["mac_3"]
        assert nursery.opened == ["macs:1"]

    run_virtually(story())


def test_a_process_that_dies_loses_all_its_macs_and_none_of_another() -> None:
    """Each Mac of it is told lost, once, and the next pass asks for the process again."""

    async def story() -> None:
        nursery = Nursery()
        reconciler = keeper(nursery, 40)
        await reconciler.ensure()
        await asyncio.sleep(0.1)
        first, second = housings(settings(40))

        for mac in first.macs:
            nursery.end(mac.machine, ActorAway("gone"))
        await asyncio.sleep(0.1)
        assert {machine for machine, _ in nursery.lost} == {mac.machine for mac in first.macs}
        assert len(nursery.lost) == len(first.macs)

        await reconciler.ensure()
        await asyncio.sleep(0.1)
        assert nursery.opened == [first.actor, second.actor, first.actor]
        assert len(nursery.begun) == 40 + len(first.macs)

    run_virtually(story())


def test_a_mac_that_cannot_begin_is_tried_again() -> None:
    """A failed beginning is told as a loss and repeated; its neighbours do not wait for it."""

    async def story() -> None:
        nursery = Nursery()
        nursery.refuses[MachineId("mac_0")] = 2
        await keeper(nursery, 12).ensure()
        await asyncio.sleep(0.1)
        assert len(nursery.begun) == 11
        await asyncio.sleep(5)

        assert [machine for machine, _ in nursery.lost] == ["mac_0", "mac_0"]
        assert nursery.begun.count(MachineId("mac_0")) == 1

    run_virtually(story())


def test_a_process_of_another_version_is_replaced_before_its_macs_are_asked() -> None:
    """It is ended, no Mac is begun in it, and no loss is told by us: its end does that."""

    async def story() -> None:
        nursery = Nursery()
        nursery.versions["macs:1"] = "v1"
        await keeper(nursery, 12).ensure()
        await asyncio.sleep(0.1)

        assert nursery.killed == ["macs:1"]
        assert nursery.begun == []
        assert nursery.lost == []

    run_virtually(story())


# ── asking them all ───────────────────────────────────────────────────────────────────


class Roll:
    """Actors by name, and what each says of itself."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers
        self.told: list[tuple[str, str]] = []

    def reach(self, name: str) -> object:
        async def call(method: str, *args: object, timeout_s: float) -> object:
            if method == "stop":
                self.told.append((name, str(args[0])))
                return None
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


async def test_the_roll_has_a_line_for_every_mac() -> None:
    """Macs that share a process are told one by one, with the process they are in; a process
    that does not answer is one line that says so.
    """
    roll = Roll(
        {
            "router": {"role": "router", "state": "ready"},
            "macs:1": {
                "code_version": "v",
                "macs": [
                    {"role": "provider", "machine": f"mac_{n}", "state": "ready"} for n in "ab"
                ],
            },
            "macs:2": ActorAway("macs:2 is away"),
        }
    )

    found = await describe_all(roll.answers, roll.reach)

    assert [(each["actor"], each["state"]) for each in found] == [
        ("provider:mac_a", "ready"),
        ("provider:mac_b", "ready"),
        ("macs:2", "unavailable"),
        ("router", "ready"),
    ]
    assert [each.get("process") for each in found] == ["macs:1", "macs:1", None, None]
    assert {each["role"] for each in found} == {"provider", "router"}


async def test_only_macs_are_told_to_stop() -> None:
    """Alone or sharing a process, each is; router and accountant are not."""
    roll = Roll(dict.fromkeys(("accountant", "router", "macs:1", "provider:mac_9"), None))

    await stop_macs(roll.answers, roll.reach, "closing")

    assert sorted(roll.told) == [("macs:1", "closing"), ("provider:mac_9", "closing")]
