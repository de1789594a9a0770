"""Everybody of a market asked the same thing: who they are, or to stop. Knows no Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from actors.calls import ActorAway
from actors.housing import is_of_macs
from actors.nodes import provider_name
from market.errors import MarketError
from market.types import MachineId

DESCRIBE_S_MAX = 1.0
STOP_S_MAX = 10.0

log = logging.getLogger("coster.roll_call")

Reach = Callable[[str], Any]
"""An actor by its name: an `actors.calls.ActorCall` that takes `timeout_s` too."""


async def describe_all(names: Iterable[str], reach: Reach) -> list[dict[str, object]]:
    """Pid, role, node and state of every actor from itself, of each Mac where several share one.

    One that does not answer in `DESCRIBE_S_MAX` is listed as `unavailable`.
    """
    found = await asyncio.gather(*(_describe(name, reach(name)) for name in sorted(names)))
    return [facts for each in found for facts in each]


async def _describe(name: str, call: Any) -> list[dict[str, object]]:
    try:
        facts: Mapping[str, Any] = await call("describe", timeout_s=DESCRIBE_S_MAX)
    except (ActorAway, MarketError) as error:
        role = "provider" if is_of_macs(name) else name.split(":", maxsplit=1)[0]
        return [{"actor": name, "role": role, "state": "unavailable", "reason": str(error)}]
    if "macs" not in facts:
        return [{"actor": name, **facts}]
    shared = {key: value for key, value in facts.items() if key != "macs"}
    return [
        {"actor": provider_name(MachineId(mac["machine"])), "process": name, **shared, **mac}
        for mac in facts["macs"]
    ]


async def stop_macs(names: Iterable[str], reach: Reach, reason: str) -> None:
    """Make every provider give up what it runs: each client hears a terminal error event."""
    stopping = (_stop(name, reach(name), reason) for name in names if is_of_macs(name))
    await asyncio.gather(*stopping)


async def _stop(name: str, call: Any, reason: str) -> None:
    try:
        await call("stop", reason, timeout_s=STOP_S_MAX)
    except (ActorAway, MarketError) as error:
        log.warning("%s did not stop by itself: %s", name, error)
