"""What an operator asks of the router, and what he wants of Macs and models.

Drains and pins are remembered before they are acknowledged. Everything else here is reading.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from typing import Any

from actors.router_core import RouterCore
from market.errors import MarketError
from market.policy.decision import Decision
from market.policy.registry import POLICIES
from market.policy.scorers import SCORERS
from market.routing.log import Intent, explain
from market.routing.notes import replay
from market.routing.readings import PRESENT
from market.routing.roster import KnownMac
from market.routing.stories import replayed_by, story_of
from market.types import MachineId, ModelId, RequestId

log = logging.getLogger("coster.router")


class OperatorMethods(RouterCore):
    """Intents and explanations."""

    # ── what is wanted ────────────────────────────────────────────────────────────────

    async def drain(self, machine: MachineId, reason: str) -> dict[str, Any]:
        """No new work for this Mac until undrained; remembered before this returns."""
        await self._store.put_intent(Intent(machine, "drain", reason, time.time()))
        self._state.drain(machine, reason)
        self._after()
        log.warning("%s is drained: %s", machine, reason)
        return self._state.mac_of_fleet(machine, time.monotonic())

    async def undrain(self, machine: MachineId) -> dict[str, Any]:
        """The Mac may work again; remembered before this returns."""
        await self._store.drop_drain(machine)
        self._state.undrain(machine, time.monotonic())
        self._after()
        log.warning("%s is no longer drained", machine)
        return self._state.mac_of_fleet(machine, time.monotonic())

    async def pin(self, machine: MachineId, model: ModelId, reason: str) -> str:
        """Keep this model on this Mac until unpinned; remembered before this returns.

        Says what will become of it; raises InvalidRequest for what can never be.
        """
        known = self._state.roster.get(machine)
        called = known.called if known is not None else machine
        now_s = time.monotonic()
        mac = self._state.mac_of_fleet(machine, now_s)
        drained = mac["drain"] is not None and mac["health"] != "lost"
        words = self._state.placing.outlook(machine, called, model, now_s, drained=drained)
        self._state.placing.pin(machine, model, reason)
        await self._store.put_intent(Intent(machine, "pin", reason, time.time(), model))
        self._planning.look_now()
        log.warning("%s is pinned to %s: %s", model, machine, reason)
        return words

    async def unpin(self, machine: MachineId, model: ModelId) -> bool:
        """The planner may move it again; remembered before this returns. Whether it was pinned."""
        was_pinned = model in self._state.placing.pins_of(machine)
        await self._store.drop_pin(machine, model)
        self._state.placing.unpin(machine, model)
        self._planning.look_now()
        log.warning("%s is no longer pinned to %s", model, machine)
        return was_pinned

    # ── who and why ───────────────────────────────────────────────────────────────────

    async def find_mac(self, text: str) -> KnownMac:
        """The Mac that a name, a public id or a machine id means, whole or by its beginning.

        Raises NotFound or InvalidRequest, naming what there is.
        """
        return self._state.find_mac(text)

    async def fleet(self) -> dict[str, Any]:
        """Every Mac, here or away, the ones that need attention first."""
        return self._state.fleet(time.monotonic())

    async def mac(self, machine: MachineId) -> dict[str, Any]:
        """One Mac of the fleet, or one that only an intent names."""
        return self._state.mac_of_fleet(machine, time.monotonic())

    async def names(self) -> dict[str, str]:
        """What people call the Macs, by public id and by machine id."""
        every = [(mac, mac.called) for mac in self._state.roster]
        return {mac.provider: name for mac, name in every} | {
            mac.machine: name for mac, name in every
        }

    async def models(self) -> list[dict[str, Any]]:
        """Copies of each model that there should be, those there are, and why others are not."""
        return self._state.models(time.monotonic())

    async def placement(self) -> dict[str, Any]:
        """What lives where and why, and what would be moved next."""
        return self._state.placing.as_json(time.monotonic())

    async def told(self, request_id: RequestId) -> dict[str, Any] | None:
        """What is stored of a request: attempts, the best candidates, outcomes. For its owner."""
        await self._kept.flush()
        return explain(request_id, await self._store.records_of(request_id))

    async def explain(self, request_id: RequestId, by_policy: str = "") -> dict[str, Any] | None:
        """Why this Mac: attempts, every candidate, terms, outcomes; None when nothing is known.

        With a `by_policy` each decision is made again by that one ("present": the one in use) and
        told beside. Raises InvalidRequest for a policy that there is not.
        """
        policy = self._state.policy_called(by_policy) if by_policy else None
        seen = self._state.decision_of(request_id)
        story = await self.told(request_id)
        if story is None:
            return None
        last: dict[str, Any] = {}
        for attempt in story["attempts"]:
            told = attempt["decision"]
            if told is None:
                continue
            decision = seen
            if seen is None or seen.ask.attempt != attempt["attempt"]:
                decision = await self._replayed(request_id, attempt["attempt"])
            if decision is None:
                continue
            if told["refusal"] is not None:
                decision = dataclasses.replace(decision, refused=True)
            last = await asyncio.to_thread(story_of, decision)
            told |= {name: last[name] for name in ("verdicts", "changes", "said_tokens")}
            if policy is not None:
                told["replayed"] = await asyncio.to_thread(replayed_by, decision, policy)
        return story | last

    async def _replayed(self, request_id: RequestId, attempt: int) -> Decision | None:
        """The decision made again from what was stored; None when it is kept no longer."""
        packed = await self._store.packed_of(request_id, attempt)
        if packed is None:
            return None
        try:
            return await asyncio.to_thread(replay, packed)
        except (ValueError, MarketError):
            return None  # another version's; its best candidates are told all the same

    async def why_machine(self, machine: str) -> dict[str, Any] | None:
        """How a Mac stands, by its private or public id; None when there is none."""
        now_s = time.monotonic()
        found = self._state.machine_story(MachineId(machine), now_s)
        if found is None:
            known = self._state.machine_of(machine)
            found = self._state.machine_story(known, now_s) if known is not None else None
        return found

    async def why_mac(self, known: KnownMac) -> dict[str, Any]:
        """How a Mac of the roster stands, here or away, and why its models are there."""
        return self._state.mac_story(known, time.monotonic())

    async def queue(self) -> list[dict[str, Any]]:
        """Who waits for which model, in order."""
        return self._state.queue_story(time.monotonic())

    async def calibration(self) -> dict[str, dict[str, object]]:
        """How good predictions have been, by model."""
        return self._state.calibration()

    async def use_policy(self, name: str) -> dict[str, Any]:
        """Route by another policy until the next restart. Raises InvalidRequest."""
        before = self._state.policy
        self._state.use_policy(name)
        log.warning("requests are routed by %s; before, by %s", name, before)
        return await self.policies()

    async def policies(self) -> dict[str, Any]:
        """Which policy routes now, which one does after a restart, and all there are."""
        present = self._state.policy_called(PRESENT)
        every = {**POLICIES, present.name: present}  # it may be one that is made by its name
        return {
            "policy": present.name,
            "after_restart": self._policy,
            "policies": [{"name": each.name, "about": each.about} for each in every.values()],
            "terms": list(SCORERS),
        }

    async def status(self) -> dict[str, Any]:
        """Macs, gateways, queues and drains, with the router's own pid and troubles."""
        return {
            **await self.describe(),
            "records_buffered": len(self._kept),
            "records_dropped": self._kept.dropped,
            "store_errors": self._kept.errors,
            "last_error": self._last_error or self._kept.last_error,
            **self._state.status(time.monotonic()),
        }

    async def describe(self) -> dict[str, Any]:
        """Who this is: pid, role and state."""
        return {
            "role": "router",
            "pid": os.getpid(),
            "state": self._word(),
            "uptime_s": round(time.monotonic() - self._started_s, 3),
        }

    def _word(self) -> str:
        if not self._tasks:
            return "stopped"
        return "draining" if self._state.door_closed else "ready"

    async def metrics(self) -> dict[str, float]:
        """The gateways' counters added up, and the router's own."""
        return {
            **self._state.metrics(time.monotonic(), macs=True),
            "coster_router_records_dropped_total": float(self._kept.dropped),
            "coster_router_store_errors_total": float(self._kept.errors),
        }
