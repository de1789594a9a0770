"""Fleets and requests for the tests of the policy: columns are written as they are."""

from __future__ import annotations

from market.policy.ask import Ask
from market.policy.columns import STANDINGS
from market.policy.decision import Decision, decide
from market.policy.fleet import Fleet, Load
from market.policy.picker import KNOWN_AFTER
from market.policy.preferences import Preferences
from market.policy.rates import rates_of
from market.types import AccountId, Hardware, MachineId, ProviderId, RequestId
from tests.router_kit import FACTS, MODEL

PLACE_COLUMNS = {"place", "running", "seen", "bias_step", "scale_step", "expected_sum", "spread"}
FAST, SLOW = "M4 Max", "M2"


def ask(name: str = "r", **changes: object) -> Ask:
    values: dict[str, object] = {
        "request_id": RequestId(name),
        "attempt": 1,
        "model": MODEL,
        "prompt_tokens": 100,
        "max_tokens": 100,
        "n": 1,
        "expected_tokens": 100.0,
        "now_s": 1.0,
        "price_in_nano": 100,
        "price_out_nano": 800,
        **changes,
    }
    return Ask(**values)  # type: ignore[arg-type]


def fleet_of(*macs: dict[str, float | str]) -> Fleet:
    """Macs `mac_0`, `mac_1`…, all known well; columns and, under "chip", a chip by name."""
    fleet = Fleet()
    for number, told in enumerate(macs):
        columns = dict(told)
        chip = str(columns.pop("chip", SLOW))
        machine = MachineId(f"mac_{number}")
        fleet.add(machine, ProviderId(f"prv_{number}"), AccountId(f"acct_{number}"))
        rates = rates_of(Hardware(chip, 64, 0, 8, 0.0), FACTS)
        fleet.set_place(machine, MODEL, 0, rates, FACTS)
        fleet.write_place(machine, MODEL, {"seen": KNOWN_AFTER})
        own = {k: float(v) for k, v in columns.items() if k not in PLACE_COLUMNS}
        fleet.set(machine, **{"slots": 4.0, "trust": 0.0, **own})
        fleet.write_place(
            machine, MODEL, {k: float(v) for k, v in columns.items() if k in PLACE_COLUMNS}
        )
    return fleet


def choose(fleet: Fleet, name: str = "r", seed: int = 0, **asked: object) -> Decision:
    return decide(fleet.candidates(MODEL), ask(name, **asked), seed)


def busy(fleet: Fleet, number: int, requests: int) -> None:
    for _ in range(requests):
        fleet.add_load(MachineId(f"mac_{number}"), MODEL, Load(1, 150.0, 100.0, 0.0), 1)


def standing(name: str) -> float:
    return float(STANDINGS.index(name))


def wish(**wished: object) -> dict[str, object]:
    return {"preferences": Preferences(**wished)}  # type: ignore[arg-type]
