"""What is known of the market that is driven: its models, and its Macs where an operator asks.

The public routes tell models; chips, memories and public ids of the Macs are the operator's to
know. With them a run's bounds and a load told as a share `rho` of the fleet have a meaning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coster.market_http import Connection
from market.errors import Forbidden, InvalidRequest, RateLimited, Unauthenticated, Unavailable
from market.fleet_file import MacSpec
from market.hardware import CHIPS, hardware_of
from market.keys import INFERENCE
from market.money import NANO_PER_USD
from market.routing.names import natural
from simulator.setup.scenario import REQUESTS_MAX, Scenario
from simulator.setup.scenario_files import of_config, set_values

UNKNOWN_POLICY: Final = "live"
GOODWILL_NANO: Final = 100 * NANO_PER_USD
"""Credit of an account that is opened for a load: as much as one operator may give alone."""

ACCOUNTS_MAX: Final = 200
LARGEST: Final = "M3 Ultra"
"""A fleet nobody knows is taken to hold every model."""

WHO: Final = "coster loadgen"
PATIENCE_S: Final = 2.0
PATIENT_TRIES: Final = 100
"""Accounts are opened as often as a stranger may; beyond the first ten that takes a while."""


@dataclass(frozen=True, slots=True)
class LiveMac:
    """One Mac of the market, by its public id."""

    provider: str
    spec: MacSpec
    slots: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The market as it was at the start. `macs` is None where nobody may ask for them."""

    models: tuple[str, ...]
    macs: tuple[LiveMac, ...] | None
    policy: str

    @property
    def slots(self) -> int:
        return max((mac.slots for mac in self.macs or ()), default=0)


def look(api: Connection, operations: Connection | None) -> Seen:
    """Ask the market. Raises what it answers with, Unavailable when no model is ready."""
    listed = api.request("GET", "models")["data"]
    models = tuple(str(each["id"]) for each in listed if each.get("available"))
    if not models:
        raise Unavailable("The market has no model ready; coster status says why.", "model")
    if operations is None:
        return Seen(models, None, UNKNOWN_POLICY)
    status = operations.request("GET", "/admin/status")
    macs = tuple(_mac(each) for each in status["machines"] if each.get("health") != "lost")
    return Seen(
        models, tuple(sorted(macs, key=lambda mac: natural(mac.spec.name))), _policy(status)
    )


def _policy(status: Mapping[str, Any]) -> str:
    return str(status.get("policy") or UNKNOWN_POLICY)


def _mac(told: Mapping[str, Any]) -> LiveMac:
    provider, chip = str(told["provider"]), str(told["chip"])
    known = next((name for name in CHIPS if name == chip), None)
    if known is None:
        raise InvalidRequest(
            f"The Mac {provider} has a chip that the tables do not know ({chip[:40]!r}), so the "
            "fleet's capacity is not known; give --no-fleet and rates in requests a second.",
            "fleet",
        )
    spec = MacSpec(
        name=str(told.get("name") or provider),
        hardware=hardware_of(known, int(told["memory_gb"])),
        ask_pct=int(told.get("ask_pct") or 100),
    )
    return LiveMac(provider, spec, int(told["slots"]))


def against(scenario: Scenario, seen: Seen, requests: int | None) -> Scenario:
    """The scenario as it is played on this market: its Macs, and answers asked for at their exact
    lengths. Raises InvalidRequest where the market cannot serve it.
    """
    config = json.loads(scenario.config)
    missing = sorted(set(config["models"]) - set(seen.models))
    if missing:
        words = " ".join(f"--model {name}" for name in config["models"])
        raise InvalidRequest(
            f"The market does not serve {', '.join(missing)} now; it has "
            f"{', '.join(seen.models)}. Start one with `coster up --engine simulated {words}`, or "
            "give a scenario of its models.",
            "model",
        )
    if seen.macs is not None:
        config["fleet"] = {"macs": [_entry(mac.spec) for mac in seen.macs], "slots": seen.slots}
    for workload in config["workload"]:
        workload["max_tokens"] = "exact"
        if seen.macs is None and "rho" in workload:
            raise InvalidRequest(
                f"The workload {workload.get('name', 'workload')} has rho, a share of what the "
                "fleet can do, and nobody tells us of this market's Macs. Give rate_per_s "
                "(--set workload.0.rate_per_s=2), or --data of a market on this machine.",
                "workload",
            )
    if requests is not None:
        config.setdefault("run", {})["requests"] = requests
    for key in ("faults", "placement"):  # they are the market's own
        config.pop(key, None)
    return of_config(config, f"{scenario.name} on this market")


def traced(trace: Path, seen: Seen, speed: float, settings: Mapping[str, str]) -> Scenario:
    """A recorded trace, `speed` times as fast, over the models that the market serves.

    Raises InvalidRequest when the file is not there, or a setting is wrong.
    """
    if not trace.is_file():
        raise InvalidRequest(f"{trace} is not there, or is no file.", "trace")
    config: dict[str, Any] = {
        "run": {"name": trace.name.partition(".")[0], "requests": REQUESTS_MAX},
        "models": list(seen.models),
        "fleet": {"macs": [{"chip": LARGEST}]},
        "workload": [{"kind": "trace", "file": str(trace.resolve()), "speed": speed}],
    }
    set_values(config, settings)
    return of_config(config, str(trace))


def _entry(spec: MacSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "chip": spec.hardware.chip,
        "memory_gb": spec.hardware.memory_gb,
        "ask_pct": spec.ask_pct,
    }


def check_keys(base: str, keys: Sequence[str]) -> None:
    """Ask once with each key before anything is sent: a load of refusals measures nothing.

    Raises Unauthenticated or Forbidden, which say what the market does and which key it was.
    """
    for number, key in enumerate(keys, 1):
        which = "The key" if len(keys) == 1 else f"Key {number} of {len(keys)}"
        try:
            told = Connection(base, key).request("GET", "key")
        except Unauthenticated as error:
            raise Unauthenticated(
                f"{which} is none of this market's: {error.message}", None, error.code
            ) from error
        if INFERENCE not in told["scopes"]:
            raise Forbidden(
                f"{which} may not ask for answers: it lacks the scope {INFERENCE!r}. Make one "
                "with `coster keys create`.",
                "key",
            )


def open_accounts(api: Connection, operations: Connection, count: int) -> tuple[str, ...]:
    """Keys of new accounts with the operator's own credit and without limits of rate.

    Raises what the market answers with.
    """
    if not 1 <= count <= ACCOUNTS_MAX:
        raise InvalidRequest(
            f"--accounts must be from 1 to {ACCOUNTS_MAX}, not {count}.", "accounts"
        )
    return tuple(_open(api, operations, number) for number in range(1, count + 1))


def _open(api: Connection, operations: Connection, number: int) -> str:
    name = f"load {number}"
    made = _patiently(api, {"name": name})
    account = f"/admin/accounts/{made['account_id']}"
    told = {"actor": WHO, "reason": "a load that was measured"}
    operations.request("POST", account, {"tier": "operator", **told})
    credit = {"amount_nano_usd": str(GOODWILL_NANO), **told}
    operations.request("POST", f"{account}/goodwill", credit)
    owner = Connection(api.base, str(made["management_key"]["key"]))
    return str(owner.request("POST", "keys", {"name": name})["key"])


def _patiently(api: Connection, body: Mapping[str, str]) -> Any:
    """Open an account, as soon as this address may open another."""
    for _ in range(PATIENT_TRIES):
        try:
            return api.request("POST", "accounts", body)
        except RateLimited:
            time.sleep(PATIENCE_S)
    return api.request("POST", "accounts", body)
