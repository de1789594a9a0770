"""What the operator's listener needs beyond looking: accounts, prices, machines, the books.

`actors/operator.py` implements it over the named actors. Answers are JSON-able; sums are
strings of nano-USD. Every method may raise a MarketError; one that could not be asked raises
Unavailable, and may have happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.ports import AdminPort


class OperatorPort(Protocol):
    """Acts of administration. `actor` and `reason` are written into the journal."""

    async def account(self, account: str) -> dict[str, Any]:
        """Who it is, what it has and may do, its keys; raises NotFound."""
        ...

    async def change_account(
        self, account: str, fields: Mapping[str, object], actor: str, reason: str
    ) -> dict[str, Any]:
        """Change some of name, tier, fee_bps, limits and freeze; what it is then."""
        ...

    async def goodwill(
        self,
        account: str,
        amount_nano: int,
        actor: str,
        reason: str,
        second_approver: str,
        idempotency: str | None,
    ) -> dict[str, Any]: ...

    async def prices(self) -> dict[str, Any]: ...

    async def price(self, model: str) -> dict[str, Any]:
        """What a model costs and has cost; raises NotFound."""
        ...

    async def set_price(
        self, model: str, nano: tuple[int, int, int], actor: str, reason: str
    ) -> dict[str, Any]:
        """From now on: nano-USD per prompt, cached and completion token."""
        ...

    async def link_machine(self, machine: str, account: str, actor: str) -> dict[str, Any]: ...

    async def unlink_machine(self, machine: str, actor: str) -> dict[str, Any]: ...

    async def report(self) -> dict[str, Any]: ...

    async def alerts(self) -> dict[str, Any]: ...

    async def reconcile(self) -> dict[str, Any]:
        """Compare the books with the payment processor, line by line."""
        ...

    async def run_payouts(self) -> dict[str, Any]: ...

    async def forget_events(self, days: int) -> dict[str, Any]: ...


class SteeringPort(Protocol):
    """Macs, models and requests. A Mac is `named` by its name, public id or machine id, whole or
    by the beginning: raises NotFound for none, InvalidRequest for several.
    """

    async def fleet(self) -> dict[str, Any]:
        """Every Mac, here or away, the ones that need attention first."""
        ...

    async def mac(self, named: str) -> dict[str, Any]: ...

    async def queue(self) -> dict[str, Any]:
        """Who waits for which model, in order."""
        ...

    async def placement(self, model: str) -> dict[str, Any]:
        """What lives where and why, and what would be moved next; of one model unless it is "".

        Raises NotFound for a model that is not on offer.
        """
        ...

    async def policies(self) -> dict[str, Any]: ...

    async def why(self, named: str, by_policy: str) -> dict[str, Any]:
        """Of a request: every candidate, attempts, outcomes, who was paid. Of a Mac: how it
        stands and why its models are there. `by_policy` decides again; "" does not.
        """
        ...

    async def drain(self, named: str, reason: str) -> dict[str, Any]: ...

    async def undrain(self, named: str) -> dict[str, Any]: ...

    async def pin(self, named: str, model: str, reason: str) -> dict[str, Any]:
        """Keep a model on a Mac; raises InvalidRequest, with the arithmetic, where it cannot be."""
        ...

    async def unpin(self, named: str, model: str) -> dict[str, Any]: ...

    async def use_policy(self, name: str) -> dict[str, Any]:
        """Route by this policy until the router starts again; raises InvalidRequest."""
        ...


class OperationsPort(AdminPort, OperatorPort, SteeringPort, Protocol):
    """Everything the operator's listener is built from."""
