"""When public figures are made anew: at the same moments everywhere, of time that is over.

Time is divided into epochs of so many seconds. Figures of one epoch tell what was so when it
began, so that every gateway that makes them makes the same ones, byte for byte, and nobody
can learn the present by asking twice. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LAG_S: Final = 5
"""An epoch is told this long after it began: requests that ended before it are committed by
then, and clocks that differ by less agree on which one it is."""


class Epoch(NamedTuple):
    """One epoch of `period_s` seconds."""

    number: int
    period_s: int

    @property
    def end_s(self) -> int:
        """Unix second up to which its figures tell."""
        return self.number * self.period_s

    def age_s(self, now_s: float) -> int:
        """How long its figures have been the newest, in whole seconds; 0 at the least."""
        return max(int(now_s) - self.end_s - LAG_S, 0)


def epoch_at(now_s: float, period_s: int) -> Epoch:
    """The epoch whose figures are told now."""
    return Epoch(int(now_s - LAG_S) // period_s, period_s)
