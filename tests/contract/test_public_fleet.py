"""Which Macs everybody may see: said by their owners, remembered, and one snapshot an epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.nodes import macs_of_nodes
from actors.router import EPOCHS_KEPT, Router
from market.errors import InvalidRequest, Unavailable
from market.fleet_file import parse_fleet
from market.routing.public import PublicFleet
from market.routing.state import REBUILD_S
from market.types import ModelId
from tests.router_kit import FACTS, granted, provider_beat, request, settled_router

HIDDEN = replace(provider_beat("b"), private=True)
OTHER = ModelId("other/model")


def names(fleet: PublicFleet) -> list[str]:
    return [mac.provider for mac in fleet.macs]


def test_the_fleet_that_is_shown_is_connected_public_and_in_order() -> None:
    """A private Mac and one that is lost are not in it; a private one is named as left out."""
    state = settled_router(provider_beat("c"), HIDDEN, provider_beat("a"), provider_beat("d"))
    state.machine_lost(provider_beat("d").machine, "gone", 10.0)
    fleet = state.public_fleet(10.0)

    assert names(fleet) == ["prv_a", "prv_c"]
    assert fleet.private == {HIDDEN.machine}
    assert fleet.macs[0].models == (FACTS.model,)
    assert fleet.macs[0].current is None


def test_what_a_mac_serves_is_what_it_has_ready_and_what_runs_most() -> None:
    """`current` is the model with requests in it; without any there is none."""
    two = replace(provider_beat("a"), models=(FACTS, replace(FACTS, model=OTHER)))
    state = settled_router(two)
    granted(state, replace(request("r1"), model=OTHER))
    (mac,) = state.public_fleet(10.0).macs

    assert mac.models == (FACTS.model, OTHER)
    assert mac.current == OTHER


def test_a_private_mac_that_has_gone_is_still_private() -> None:
    """Its past must stay out after it left; once it says that it is public it comes back."""
    state = settled_router(HIDDEN)
    state.machine_lost(HIDDEN.machine, "gone", 10.0)
    for second in range(11, 60):
        state.tick(float(second))
    assert state.public_fleet(60.0).private == {HIDDEN.machine}
    state.beat_provider(replace(HIDDEN, private=False, incarnation=2), 60.0)

    assert state.public_fleet(60.0).private == frozenset()
    assert state.take_privacy() == [(HIDDEN.machine, False), (HIDDEN.machine, False)]


def test_a_router_that_has_just_started_shows_no_empty_network() -> None:
    """Until its Macs have declared themselves it refuses to say who is here."""
    state = settled_router(provider_beat("a"), now_s=0.1)

    with pytest.raises(Unavailable):
        state.public_fleet(REBUILD_S - 0.1)
    assert names(state.public_fleet(REBUILD_S)) == ["prv_a"]


async def test_who_is_private_outlives_the_router(tmp_path: Path) -> None:
    """After a restart it is known before any Mac is heard from; being public again, too."""
    for private in (True, False):
        router = Router(tmp_path / "router.db")
        await router.start()
        await router.heartbeat(replace(HIDDEN, private=private))
        await router.close()
        reborn = Router(tmp_path / "router.db")
        await reborn.start()
        assert reborn._state._desk.macs.private == ({HIDDEN.machine} if private else set())
        await reborn.close()


async def test_every_gateway_is_shown_the_same_fleet_of_one_epoch(tmp_path: Path) -> None:
    """Whatever changes meanwhile; a few epochs are kept, not all there ever were."""
    router = Router(tmp_path / "router.db")
    router._state = settled_router(provider_beat("a"), now_s=0.0)
    first = await router.public_fleet(60)
    router._state.beat_provider(provider_beat("b"), 0.0)

    assert await router.public_fleet(60) is first
    assert names(await router.public_fleet(120)) == ["prv_a", "prv_b"]
    for epoch in range(180, 180 + 60 * EPOCHS_KEPT, 60):
        await router.public_fleet(epoch)
    assert len(router._public) == EPOCHS_KEPT
    assert await router.public_fleet(60) is not first


def node(**labels: str) -> dict[str, object]:
    return {"Alive": True, "Labels": {"coster-machine": "mac_x", **labels}}


@pytest.mark.parametrize(
    ("label", "private"), [({}, False), ({"coster-private": "true"}, True),
                           ({"coster-private": "false"}, False)],
)  # fmt: skip
def test_a_label_says_that_a_mac_is_private(label: dict[str, str], private: bool) -> None:
    """Without the label it is public."""
    (mac,) = macs_of_nodes([node(**label)])

    assert mac.private is private


def test_a_label_that_cannot_be_read_publishes_nobody() -> None:
    """A slip of the pen must not make a private Mac public: it does not serve until mended."""
    assert macs_of_nodes([node(**{"coster-private": "yes"})]) == []


def test_a_fleet_file_says_that_a_mac_is_private() -> None:
    """True or false, and nothing that merely looks like it."""
    text = '[[macs]]\nchip = "M2"\nprivate = {}\n'

    assert parse_fleet(text.format("true"), "fleet.toml")[0].private
    assert not parse_fleet(text.format("false"), "fleet.toml")[0].private
    with pytest.raises(InvalidRequest, match="private must be true or false"):
        parse_fleet(text.format('"true"'), "fleet.toml")
