"""The search that needs no solver: add what helps most, then exchange while it helps.

Used where scipy is missing or found nothing in time, and as the floor for what it found. It
never leaves the rules of the problem: it begins at a placement that keeps them and takes only
steps that do. Equal problems give equal answers; ties go to the first row and column.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from market.placement.flow import share_out
from market.placement.problem import BoolArray, FloatArray, Problem

EVALUATIONS_MAX = 1500
"""Placements looked at in one search: about a second and a half at 50 Macs and 20 models."""

TRIED_PER_ROUND = 64
"""Exchanges tried, most promising first, before the search takes the placement as final."""

GAIN_MIN = 1e-9
"""Share of the value that a step must add: less is rounding, and could go round in circles."""


def search(
    problem: Problem, evaluations_max: int = EVALUATIONS_MAX
) -> tuple[BoolArray, FloatArray]:
    """A good placement, and how the work is shared out in it."""
    found = _Search(problem, evaluations_max)
    found.add_while_it_helps()
    while found.exchange():
        found.add_while_it_helps()
    return found.copies, found.served


class _Search:
    """The best placement so far, and what else could be tried."""

    def __init__(self, problem: Problem, evaluations_max: int) -> None:
        self._problem = problem
        self._evaluations_left = evaluations_max
        self.copies = problem.start.copy()
        self.served, self.value = self._evaluate(self.copies)

    def _evaluate(self, copies: BoolArray) -> tuple[FloatArray, float]:
        problem = self._problem
        self._evaluations_left -= 1
        served = share_out(problem.rate, problem.gain, problem.wanted, copies, problem.ceiling)
        return served, problem.value(copies, served)

    def _take(self, copies: BoolArray) -> bool:
        """Make this the placement if it is better."""
        served, value = self._evaluate(copies)
        if value <= self.value + GAIN_MIN * max(abs(self.value), 1.0):
            return False
        self.copies, self.served, self.value = copies, served, value
        return True

    # ── adding ────────────────────────────────────────────────────────────────────────

    def add_while_it_helps(self) -> None:
        """Add copies into free room, the most useful for the memory they take first."""
        barred = np.zeros_like(self.copies)
        while self._evaluations_left > 0:
            hopes = np.where(self._addable() & ~barred, self._hopes(), 0.0)
            room = np.maximum(self._problem.room, 1.0)[:, None]
            per_room = hopes / np.sqrt(np.maximum(self._problem.need[None, :], 1.0) / room)
            best = int(per_room.argmax())
            if per_room.flat[best] <= 0:
                return
            copies = self.copies.copy()
            copies.flat[best] = True
            if not self._take(copies):
                barred.flat[best] = True

    def _addable(self) -> BoolArray:
        problem = self._problem
        free = problem.room - self.copies @ problem.need
        fits: BoolArray = problem.need[None, :] <= free[:, None] + 0.5
        return fits & self._open()

    def _open(self) -> BoolArray:
        """Places without a copy where one more is allowed."""
        problem = self._problem
        new = (self.copies & ~problem.here).sum(axis=0)
        open_: BoolArray = ~self.copies & problem.may & (new < problem.most_new)[None, :]
        return open_ | (problem.here & ~self.copies)

    def _hopes(self, *, whole: bool = False) -> FloatArray:
        """What a copy would add if it served from the Mac's free time, or with `whole` from all
        of its time.
        """
        problem = self._problem
        busy = (self.served / problem.rate).sum(axis=1)
        time = np.full(len(busy), problem.ceiling) if whole else problem.ceiling - busy
        left = problem.wanted - self.served.sum(axis=0)
        work = np.minimum(left[None, :], problem.rate * np.maximum(time, 0.0)[:, None])
        short = self.copies.sum(axis=0) < problem.least
        cost = np.where(problem.here, -problem.unload_cost, problem.load_cost)
        first = problem.occupied * (self.copies.sum(axis=1) == 0)
        kept = (short * problem.kept)[None, :] + first[:, None]
        hopes: FloatArray = problem.gain * work + kept - cost
        return hopes

    # ── exchanging ────────────────────────────────────────────────────────────────────

    def exchange(self) -> bool:
        """Make room or time for one copy at the expense of others; False when nothing helps."""
        hopes = np.where(self._open() | self.copies, self._hopes(whole=True), 0.0)
        enough = self._evaluations_left - TRIED_PER_ROUND
        for flat in np.argsort(-hopes, axis=None, kind="stable"):
            if hopes.flat[flat] <= 0 or self._evaluations_left <= max(enough, 0):
                return False
            row, model = (int(at) for at in np.unravel_index(int(flat), hopes.shape))
            for copies in self._exchanges(row, model):
                if self._take(copies):
                    return True
        return False

    def _exchanges(self, row: int, model: int) -> Iterator[BoolArray]:
        """Placements with this copy: its Mac's work shared with others; others gone; moved."""
        leaving = self._leaving(row, model)
        if leaving is None:
            return
        copies = self.copies.copy()
        copies[row, leaving] = False
        copies[row, model] = True
        if not leaving:
            for other in np.argsort(-self.served[row] / self._problem.rate[row], kind="stable"):
                if self.served[row, other] > 0 and other != model:
                    self._settle(copies, int(other), row)
            if (copies != self.copies).any():
                yield copies
            return
        yield copies
        moved = copies.copy()
        for other in leaving:
            self._settle(moved, other, row)
        if (moved != copies).any():
            yield moved

    def _leaving(self, row: int, model: int) -> list[int] | None:
        """What has to leave a Mac for one more model, least useful first; None: not possible."""
        problem = self._problem
        if self.copies[row, model]:
            return []
        short = problem.need[model] - (problem.room[row] - self.copies[row] @ problem.need)
        others = np.flatnonzero(self.copies[row] & ~problem.must[row])
        worth = (problem.gain * self.served)[row, others] / np.maximum(problem.need[others], 1.0)
        left_row, left_all = self._unloads_left(row)
        leaving: list[int] = []
        for other in others[np.argsort(worth, kind="stable")]:
            if short <= 0.5:
                break
            if problem.here[row, other]:
                if left_row <= 0 or left_all <= 0:
                    continue
                left_row, left_all = left_row - 1, left_all - 1
            leaving.append(int(other))
            short -= problem.need[other]
        return leaving if short <= 0.5 else None

    def _unloads_left(self, row: int) -> tuple[int, int]:
        gone = self._problem.here & ~self.copies
        left = int(self._problem.unloads[row] - gone[row].sum())
        return left, int(self._problem.unloads_max - gone.sum())

    def _settle(self, copies: BoolArray, model: int, not_on: int) -> None:
        """Give a model one more place, where it fits and there is most time for it."""
        problem = self._problem
        new = int((copies[:, model] & ~problem.here[:, model]).sum())
        fits = problem.room - copies @ problem.need >= problem.need[model] - 0.5
        rows = fits & problem.may[:, model] & ~copies[:, model]
        rows[not_on] = False
        if not rows.any() or new >= problem.most_new[model]:
            return
        busy = (self.served / problem.rate).sum(axis=1)
        time = np.maximum(problem.ceiling - busy, 0.0)
        work = (problem.gain * problem.rate)[:, model] * time
        copies[int(np.where(rows, work, -1.0).argmax()), model] = True
