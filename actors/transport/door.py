"""The provider's side of every transport: what arrives, and how events leave.

A transport calls these four methods on the provider's event loop; it knows nothing of
engines. The provider gets one `Outlet` per gateway and writes each engine step to it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from market.types import Event, GatewayId, Job, RequestId


class Outlet(Protocol):
    """The way back to one gateway. Never blocks; a gateway that cannot take more is cut."""

    def send(self, events: Sequence[Event]) -> None: ...


class ProviderDoor(Protocol):
    """What a provider does with what a gateway says."""

    def gateway_opened(self, gateway: GatewayId, outlet: Outlet) -> None:
        """A gateway (re)connected; it replaces an older connection of the same id."""
        ...

    def gateway_closed(self, gateway: GatewayId, outlet: Outlet) -> None:
        """The connection is gone: its jobs have nobody to read them. Ignored when a newer
        outlet of the same gateway is open.
        """
        ...

    def job_submitted(self, gateway: GatewayId, job: Job) -> None:
        """Start a job; a refusal leaves as an event with an error, never as silence."""
        ...

    def job_cancelled(self, gateway: GatewayId, request_id: RequestId) -> None:
        """The client left; stop within one step."""
        ...
