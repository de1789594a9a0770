"""Macs for `tests.support.whole_market`: real providers and engines, and a way to kill them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.engines.factory import DEMO_FOLDER
from actors.engines.simulated import SimulatedEngine, SimulatedMac
from actors.provider import Provider
from actors.transport.door import Outlet
from market.catalogue import DEMO_MODEL, Catalogue
from market.hardware import hardware_of, memory_budget_bytes, profile_of
from market.ports import Engine
from market.settings import MacSettings
from market.types import AccountId, Event, GatewayId, Job, MachineId, ModelId, ProviderId


@dataclass(frozen=True)
class OneMac:
    """A Mac to be: its engines, what it says it is, and what it asks."""

    name: str
    make_engine: Callable[[ModelId], Engine]
    models: tuple[ModelId, ...] = (DEMO_MODEL,)
    weight_bytes: tuple[int, ...] = (0,)
    memory_bytes: int = 0
    chip: str = "M4 Max"
    memory_gb: int | None = None
    ask_pct: int = 100

    @property
    def machine(self) -> MachineId:
        return MachineId(f"mac_{self.name}")

    @property
    def owner(self) -> AccountId:
        return AccountId(f"acct_owner_{self.name}")

    def settings(self) -> MacSettings:
        return MacSettings(
            machine=self.machine,
            provider=ProviderId(f"prv_{self.name}"),
            name=self.name,
            owner=self.owner,
            hardware=hardware_of(self.chip, self.memory_gb),
            ask_pct=self.ask_pct,
        )


def simulated(
    name: str,
    *models: ModelId,
    chip: str = "M3 Ultra",
    memory_gb: int = 256,
    slots: int = 4,
    disk_bytes_per_s: float = 4e10,
) -> OneMac:
    """A Mac that takes its chip's time for everything, with a disk that makes loads short."""
    stands_for = SimulatedMac(chip, memory_gb, seed=1, disk_bytes_per_s=disk_bytes_per_s)

    def make(model: ModelId) -> Engine:
        card = None if model == DEMO_MODEL else Catalogue().get(model)
        return SimulatedEngine(model, mac=stands_for, folder=DEMO_FOLDER, card=card, slots=slots)

    return OneMac(
        name,
        make,
        models,
        tuple(profile_of(model).weight_bytes for model in models),
        memory_budget_bytes(memory_gb),
        chip,
        memory_gb,
    )


class Mortal(Provider):
    """A provider that may be told after how many tokens of an answer its process dies.

    What it had written by then arrives, as the kernel sends it; nothing after that does.
    """

    dies_after: int | None = None

    def gateway_opened(self, gateway: GatewayId, outlet: Outlet) -> None:
        super().gateway_opened(gateway, _Fuse(self, outlet))

    def gateway_closed(self, gateway: GatewayId, outlet: Outlet) -> None:
        fuse = self._outlets.get(gateway)
        mine = isinstance(fuse, _Fuse) and fuse.outlet is outlet
        super().gateway_closed(gateway, fuse if mine and fuse is not None else outlet)

    def job_submitted(self, gateway: GatewayId, job: Job) -> None:
        if self.dies_after == 0:
            self.die()
        else:
            super().job_submitted(gateway, job)

    def die(self) -> None:
        """Every connection ends; jobs end with them."""
        self.dies_after = None
        for side in list(self._server.sides):
            transport = side._transport
            if transport is not None:
                transport.close()


class _Fuse:
    """Lets so many tokens through, then the process is gone."""

    def __init__(self, mac: Mortal, outlet: Outlet) -> None:
        self.mac = mac
        self.outlet = outlet

    def send(self, events: Sequence[Event]) -> None:
        left = self.mac.dies_after
        if left is None:
            self.outlet.send(events)
            return
        said = []
        for event in events:
            if left:
                said.append(event)
                left -= min(left, len(event.token_ids))
        self.outlet.send(said)
        self.mac.dies_after = left
        if not left:
            self.mac.die()
