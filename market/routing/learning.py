"""What the end of a request teaches: whether a Mac can be trusted, and how wrong we were.

Faults open a breaker, refusals open it too and lower how much the Mac is given (added back by
one slot a minute, taken away by a third: a Mac that says no is not asked again and again). What
a request took, over what was predicted for it, corrects the next prediction for that model on
that Mac, and is counted, so that anyone can see how good predictions are. A private Mac learns
like any other and is not counted.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import exp, log

from market.policy.fleet import Fleet
from market.routing.messages import Outcome
from market.routing.reservations import Reservation
from market.types import MachineId, ModelId

BREAKER_FAILURES = 3
BREAKER_FIRST_S = 5.0
BREAKER_MAX_S = 60.0
"""Faults or refusals in a row that start a cool-down, its first length, and its longest (it
doubles). One request at a time probes it afterwards, so a Mac that always refuses gets at most
three and then four more in its first minute."""

FAILURE_WEIGHT = 0.1
"""Weight of the newest outcome in a Mac's failure rate: about the last 20 count."""

CAP_SHARE = 0.7
"""What is left of a Mac's load once it refuses more."""

BIAS_WEIGHT = 0.034
"""Half of a correction is made after 20 requests: 1 − 2^(−1/20)."""

BIAS_MIN, BIAS_MAX = 0.5, 3.0
"""A table is never corrected by more: beyond that it is the table that is wrong."""

SPREAD_WEIGHT = 0.05
SPREAD_MIN, SPREAD_MAX = 0.05, 1.5


@dataclass(slots=True)
class Calibration:
    """How predictions of one model's times compare with what was: to the first token, or whole."""

    count: int = 0
    log_error_sum: float = 0.0
    log_error_abs_sum: float = 0.0
    within_high: int = 0

    def note(self, error: float, *, within_high: bool) -> None:
        """Count one, by the logarithm of what it took over what was predicted."""
        self.count += 1
        self.log_error_sum += error
        self.log_error_abs_sum += abs(error)
        self.within_high += within_high

    def as_json(self) -> dict[str, object]:
        """`bias` above 1 says that it took longer than predicted; `within_p90` should be 0.9."""
        if not self.count:
            return {"requests": 0, "bias": None, "typical_error": None, "within_p90": None}
        return {
            "requests": self.count,
            "bias": round(exp(self.log_error_sum / self.count), 4),
            "typical_error": round(exp(self.log_error_abs_sum / self.count) - 1.0, 4),
            "within_p90": round(self.within_high / self.count, 4),
        }


class Learning:
    """Writes what outcomes teach into the fleet's columns."""

    def __init__(self, fleet: Fleet, private: AbstractSet[MachineId]) -> None:
        """`private` are the Macs that enter no public figure, at any time."""
        self._fleet = fleet
        self._private = private
        self.calibration: dict[ModelId, Calibration] = {}
        self.totals: dict[ModelId, Calibration] = {}
        self.opened = 0  # breakers, ever

    def outcome(self, outcome: Outcome, held: Reservation | None, now_s: float) -> None:
        """Take the end of one attempt in; only what is the Mac's own doing counts."""
        machine = outcome.machine
        if machine not in self._fleet:
            return
        if outcome.result == "ok":
            self._worked(machine)
            if held is not None:
                self._measure(outcome, held)
                self._count_total(outcome, held)
        elif outcome.result in ("failed", "rejected"):
            if outcome.result == "rejected":
                self._lower_cap(machine, now_s)
            self._failed(machine, now_s)

    def _worked(self, machine: MachineId) -> None:
        rate = self._fleet.get(machine, "fail_rate")
        self._fleet.set(
            machine, fail_rate=rate * (1.0 - FAILURE_WEIGHT), failures=0, cooling_until_s=0.0
        )

    def _failed(self, machine: MachineId, now_s: float) -> None:
        fleet = self._fleet
        rate = fleet.get(machine, "fail_rate")
        failures = int(fleet.get(machine, "failures")) + 1
        fleet.set(machine, fail_rate=rate + FAILURE_WEIGHT * (1.0 - rate), failures=failures)
        if failures >= BREAKER_FAILURES:
            doublings = min(failures - BREAKER_FAILURES, 8)
            pause_s = min(BREAKER_FIRST_S * 2**doublings, BREAKER_MAX_S)
            fleet.set(machine, cooling_until_s=now_s + pause_s)
            self.opened += 1

    def _lower_cap(self, machine: MachineId, now_s: float) -> None:
        # The refused request has been released by now: it was one more than it could take.
        load = self._fleet.get(machine, "in_flight") + 1.0
        self._fleet.set(machine, cap=max(1.0, load * CAP_SHARE), cap_since_s=now_s)

    def _measure(self, outcome: Outcome, held: Reservation) -> None:
        """Compare what was predicted at the grant with what was seen at the gateway."""
        if held.model is None or outcome.ttft_ms is None or held.predicted_ttft_ms <= 0:
            return
        error = log(max(outcome.ttft_ms, 0.1) / max(held.predicted_ttft_ms, 0.1))
        if outcome.machine not in self._private:  # the count can be read without a key
            calibration = self.calibration.setdefault(held.model, Calibration())
            calibration.note(error, within_high=outcome.ttft_ms <= held.high_ttft_ms)
        fleet, machine, model = self._fleet, outcome.machine, held.model
        values = {
            "bias_prefill": _corrected(fleet.place(machine, model, "bias_prefill"), error),
            "seen": fleet.place(machine, model, "seen") + 1.0,
            "spread": _blend(fleet.place(machine, model, "spread"), abs(error)),
        }
        said = outcome.completion_tokens / max(held.slots, 1) - held.said_tokens
        if outcome.total_ms is not None and said >= 2 and held.predicted_step_ms > 0:
            step_ms = (outcome.total_ms - outcome.ttft_ms) / (said - 1)
            error = log(max(step_ms, 1e-3) / held.predicted_step_ms)
            values["bias_step"] = _corrected(fleet.place(machine, model, "bias_step"), error)
        fleet.write_place(machine, model, values)

    def _count_total(self, outcome: Outcome, held: Reservation) -> None:
        """The same of the whole answer: of its length, too, there was only an expectation."""
        predicted_ms = (held.ends_s - held.granted_s) * 1e3
        if held.model is None or outcome.total_ms is None or predicted_ms <= 0:
            return
        if outcome.machine in self._private:
            return
        error = log(max(outcome.total_ms, 0.1) / max(predicted_ms, 0.1))
        totals = self.totals.setdefault(held.model, Calibration())
        totals.note(error, within_high=outcome.total_ms <= held.high_total_ms)


def breaker_of(fleet: Fleet, machine: MachineId, now_s: float) -> int:
    """0 closed, 1 half open: one request at a time probes the Mac, 2 open: it gets none."""
    if fleet.get(machine, "failures") < BREAKER_FAILURES:
        return 0
    return 2 if fleet.get(machine, "cooling_until_s") > now_s else 1


def _corrected(bias: float, error: float) -> float:
    return min(max((bias or 1.0) * exp(BIAS_WEIGHT * error), BIAS_MIN), BIAS_MAX)


def _blend(spread: float, error: float) -> float:
    return min(max(spread + SPREAD_WEIGHT * (error - spread), SPREAD_MIN), SPREAD_MAX)
