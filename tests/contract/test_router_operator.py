"""What an operator asks of the router actor and orders of it: answers, and what outlives it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.router import Router
from market.errors import InvalidRequest, NotFound
from market.routing.messages import Busy, Grant
from market.routing.readings import PRESENT
from market.settings import MacSettings
from market.types import AccountId, Hardware, MachineId, ModelId, ProviderId, RequestId
from tests.placement_kit import LARGE, SMALL
from tests.router_kit import outcome, provider_beat, request
from tests.support.live_fleet import LiveFleet, mac_beat, place

STUDIO = MachineId("mac_studio")


def declared(name: str) -> MacSettings:
    hardware = Hardware("M4", 24, 10, 10, 120.0)
    who = (MachineId(f"mac_{name}"), ProviderId(f"prv_{name}"), name)
    return MacSettings(*who, AccountId("acct"), hardware)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    made = Router(tmp_path / "router.db")
    await made.start()
    yield made
    await made.close()


async def restarted(router: Router, path: Path) -> Router:
    await router.close()
    again = Router(path / "router.db")
    await again.start()
    return again


# ── what outlives the router ──────────────────────────────────────────────────────────


async def test_a_mac_that_is_away_is_known_to_the_next_router(tmp_path: Path) -> None:
    """By its name and with the time it was heard; whoever declared it says so anew."""
    first = Router(tmp_path / "router.db")
    await first.start()
    await first.heartbeat(replace(provider_beat("studio"), name="studio"))

    second = await restarted(first, tmp_path)
    known = await second.find_mac("stu")
    (mac,) = (await second.fleet())["macs"]
    await second.close()

    assert (known.machine, known.name) == (STUDIO, "studio")
    assert (mac["verdict"], mac["name"], mac["chip"]) == ("OFFLINE", "studio", "M4")
    assert 0.0 <= mac["last_beat_age_s"] < 60.0


async def test_a_mac_is_drained_while_it_is_away(tmp_path: Path) -> None:
    """It was only ever declared; the order is kept, and is in the answer to its first beat."""
    first = Router(tmp_path / "router.db")
    await first.start()
    first.declare([declared("studio")], complete=True)
    told = await first.drain((await first.find_mac("studio")).machine, "sold")
    assert (told["health"], told["drain"], told["in_flight"]) == ("lost", "sold", 0)

    second = await restarted(first, tmp_path)
    assert (await second.find_mac("mac_studio")).machine == STUDIO  # from the order alone
    assert (await second.heartbeat(provider_beat("studio"))).drain
    await second.undrain(STUDIO)
    assert not (await second.heartbeat(provider_beat("studio"))).drain
    await second.close()


async def test_who_could_not_be_remembered_is_remembered_later(tmp_path: Path) -> None:
    """A store that fails once loses no Mac."""
    router = Router(tmp_path / "router.db")
    await router.start()
    await router.heartbeat(replace(provider_beat("studio"), name="studio"))
    put, router._store.put_macs = router._store.put_macs, None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        await router._remember_macs()
    router._store.put_macs = put  # type: ignore[method-assign]

    second = await restarted(router, tmp_path)
    assert (await second.find_mac("studio")).machine == STUDIO
    await second.close()


async def test_another_policy_lasts_until_the_router_starts_again(tmp_path: Path) -> None:
    """All are named with what they do; one that there is not changes nothing."""
    router = Router(tmp_path / "router.db", policy="least_request")
    await router.start()
    with pytest.raises(InvalidRequest, match="there are coster"):
        await router.use_policy("nope")
    assert (await router.policies())["policy"] == "least_request"
    told = await router.use_policy("round_robin")
    assert (told["policy"], told["after_restart"]) == ("round_robin", "least_request")
    assert {each["name"] for each in told["policies"]} > {"coster", "round_robin"}
    second = await restarted(router, tmp_path)
    assert (await second.policies())["policy"] == "coster"
    await second.close()


# ── why ───────────────────────────────────────────────────────────────────────────────


async def attempts(router: Router, *, several: int = 1) -> str:
    """A request that so many Macs had, all but the last of them failing it."""
    excluded: tuple[str, ...] = ()
    for attempt in range(1, several + 1):
        asked = request("req_1", attempt=attempt, excluded=excluded)
        (grant,) = await router.route([asked])
        assert isinstance(grant, Grant)
        last = attempt == several
        await router.report([outcome(grant, "ok" if last else "failed", final=last)])
        excluded = (*excluded, grant.machine.removeprefix("mac_"))
    return "req_1"


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
async def test_every_attempt_tells_every_candidate_once(tmp_path: Path, restart: bool) -> None:
    """With a verdict on each, terms that sum to the total, and the chosen one the best by it."""
    router = Router(tmp_path / "router.db")
    await router.start()
    names = [f"m{n}" for n in range(12)]
    for number, name in enumerate(names):
        beat = provider_beat(name, bandwidth_gbs=100.0 * (number + 1), slots=number % 3)
        await router.heartbeat(replace(beat, state="draining" if number == 11 else "ready"))
    await attempts(router, several=3)
    if restart:
        router = await restarted(router, tmp_path)

    story = await router.explain(RequestId("req_1"))
    await router.close()

    assert story is not None
    assert [each["attempt"] for each in story["attempts"]] == [1, 2, 3]
    for number, attempt in enumerate(story["attempts"]):
        verdicts = attempt["decision"]["verdicts"]
        assert sorted(v["provider"] for v in verdicts) == sorted(f"prv_{name}" for name in names)
        assert [v["chosen"] for v in verdicts].count(True) == 1
        assert sum(v["reason"] == "excluded" for v in verdicts) == number
        able = [v for v in verdicts if v["reason"] is None]
        for verdict in able:
            assert verdict["total_ms"] == pytest.approx(sum(verdict["terms_ms"].values()))
        chosen = next(v for v in verdicts if v["chosen"])
        assert chosen["total_ms"] <= min(v["total_ms"] for v in able) * 1.06
        assert attempt["decision"]["changes"]
    assert [a["outcome"]["result"] for a in story["attempts"]] == ["failed", "failed", "ok"]
    json.dumps(story, allow_nan=False)


async def test_a_decision_is_made_again_by_the_policy_that_is_asked_about(router: Router) -> None:
    """The present one chooses the same Mac; one that is wrong on purpose does not, and by how
    much worse it is counts in the terms that decided.
    """
    await router.heartbeat(provider_beat("a", bandwidth_gbs=800.0))
    await router.heartbeat(provider_beat("b", bandwidth_gbs=100.0))
    (busy,) = await router.route([replace(request("busy"), excluded=(MachineId("mac_a"),))])
    assert isinstance(busy, Grant)
    await attempts(router)

    same = await router.explain(RequestId("req_1"), PRESENT)
    wrong = await router.explain(RequestId("req_1"), "always_busiest")

    assert same is not None
    assert wrong is not None
    again = same["attempts"][0]["decision"]["replayed"]
    assert (again["policy"], again["same"], again["behind_ms"]) == ("coster", True, 0.0)
    again = wrong["attempts"][0]["decision"]["replayed"]
    assert (again["chosen"], again["same"]) == ("prv_b", False)
    assert again["behind_ms"] > 0
    with pytest.raises(InvalidRequest):
        await router.explain(RequestId("req_1"), "nope")


async def test_an_owner_is_told_at_once_and_in_public_names(router: Router) -> None:
    """Nothing that is still in memory is missed; private ids stay inside."""
    await router.heartbeat(provider_beat("a"))
    await attempts(router)
    told = await router.told(RequestId("req_1"))
    assert told is not None
    assert told["attempts"][0]["outcome"]["result"] == "ok"
    text = json.dumps(told)
    assert "prv_a" in text
    assert "mac_a" not in text
    assert "acct_" not in text
    assert await router.told(RequestId("req_none")) is None


# ── Macs and models ───────────────────────────────────────────────────────────────────


async def test_a_mac_tells_why_its_models_are_there(tmp_path: Path) -> None:
    """Its verdict, a reason of the planner for each model, its room, and what is pinned."""
    fleet = LiveFleet(mac_beat("max", place(SMALL)), mac_beat("mini", place(SMALL), memory_gb=36))
    router = await fleet.start(tmp_path)
    try:
        assert await router.pin(MachineId("mac_max"), SMALL, "for Ann") == "it is there, and stays"
        router._planning._look()
        story = await router.why_mac(await router.find_mac("max"))
    finally:
        await fleet.close()

    assert (story["verdict"], story["pins"]) == ("EARNING", {SMALL: "for Ann"})
    (model,) = [m for m in story["placement"]["models"] if m["model"] == SMALL]
    assert (model["pinned"], model["why"]) == (True, "is pinned")
    assert story["placement"]["room_gb"] > model["gb"] > 0
    json.dumps(story, allow_nan=False)


async def test_a_pin_that_cannot_be_is_not_remembered(tmp_path: Path) -> None:
    """Refused with the arithmetic before anything is stored; one that can be outlives us."""
    fleet = LiveFleet(mac_beat("mini", place(SMALL), chip="M4", memory_gb=24))
    router = await fleet.start(tmp_path)
    mini = MachineId("mac_mini")
    with pytest.raises(InvalidRequest, match=r"pinned to mini: it needs 45\.1 GB"):
        await router.pin(mini, LARGE, "why not")
    with pytest.raises(InvalidRequest, match="does not offer"):
        await router.pin(mini, ModelId("gpt-2"), "why not")
    await router.pin(mini, SMALL, "for Ann")
    await fleet.close()

    again = LiveFleet(mac_beat("mini", place(SMALL), chip="M4", memory_gb=24))
    router = await again.start(tmp_path)
    assert [pin["model"] for pin in (await router.placement())["pins"]] == [SMALL]
    assert await router.unpin(mini, SMALL) is True
    assert await router.unpin(mini, SMALL) is False
    await again.close()


async def test_the_queue_says_how_the_fleet_stands_and_names_nobody(router: Router) -> None:
    """Who waits, what they wait for; no account, no gateway."""
    await router.heartbeat(provider_beat("a", slots=1))
    first, *rest = await router.route([request("r"), *(request(f"w{n}", queue=True) for n in "12")])
    assert isinstance(first, Grant)
    assert all(isinstance(each, Busy) for each in rest)
    (queue,) = await router.queue()
    assert queue["macs"] == "0 of 1 Mac can take this now: 1 busy"
    assert (queue["waiting"], queue["ready"]) == (2, 1)
    assert [each["request_id"] for each in queue["requests"]] == ["w1", "w2"]
    assert "acct_" not in json.dumps(queue)
    assert "gw_" not in json.dumps(queue)


async def test_nobody_is_found_in_an_empty_market(router: Router) -> None:
    """A refusal in words, not a fault."""
    with pytest.raises(NotFound):
        await router.find_mac("studio")
    assert (await router.fleet())["macs"] == []
    assert await router.queue() == []
    assert await router.explain(RequestId("\0")) is None
