"""What it has cost that a model is not on more Macs: the rent of ski rental.

Each second that work waits is paid for: cost tokens waiting × seconds. A load that takes a Mac's
time, or another model's place, is bought only once that much has been paid as the load itself
makes others wait. So whatever consumers do, a plan costs at most about twice what one would cost
that had known; and demand that turns before the price is paid moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from market.types import ModelId

HALF_LIFE_S = 3600.0
"""What was paid an hour ago counts half: rare waits do not add up to a swap for ever."""

STEP_S_MAX = 5.0
"""After a pause no more than this is charged at once: nobody looked at who waited meanwhile."""

FORGOTTEN = 1_000.0
"""Less, when nobody waits any more, is as if nobody had: a usual request for a second."""


class Rent:
    """Paid so far for each model, in cost tokens × seconds."""

    def __init__(self) -> None:
        self._paid: dict[ModelId, float] = {}

    def pay(self, waiting_work: Mapping[ModelId, float], passed_s: float) -> None:
        """`passed_s` more seconds, in which this many cost tokens of each model waited."""
        step_s = min(max(passed_s, 0.0), STEP_S_MAX)
        fade = 2.0 ** (-max(passed_s, 0.0) / HALF_LIFE_S)
        for model in self._paid.keys() | waiting_work.keys():
            paid = self._paid.get(model, 0.0) * fade + waiting_work.get(model, 0.0) * step_s
            self._paid[model] = paid
        self._paid = {
            model: paid
            for model, paid in self._paid.items()
            if paid > FORGOTTEN or waiting_work.get(model, 0.0) > 0
        }

    def paid(self, model: ModelId) -> float:
        return self._paid.get(model, 0.0)

    def bought(self, model: ModelId) -> None:
        """A copy was ordered: start again from nothing."""
        self._paid.pop(model, None)
