"""Turning an answer into orders, as far as it still holds when it comes.

Between the case and the answer seconds have passed: Macs may be gone, requests may wait for what
was to leave. And no model leaves its last place before its next one is ready. What cannot be
ordered yet is said to come later; the next plan, made when that has changed, orders it.
"""

from __future__ import annotations

import numpy as np

from market.placement.finish import with_empty_macs_filled
from market.placement.plan import Answer, Change, Plan
from market.placement.tables import Tables
from market.placement.words import why_load, why_shed, why_unload
from market.types import MachineId, ModelId


class Adopting:
    """One answer against the fleet as it is `now`; `now` has the models of the case."""

    def __init__(self, answer: Answer, now: Tables) -> None:
        self._draft, self._solution = answer.draft, answer.solution
        self._now = now
        problem = self._draft.problem
        self._target = with_empty_macs_filled(problem, answer.solution.copies)
        rows = {machine: row for row, machine in enumerate(now.machines)}
        self._rows = [rows.get(machine, -1) for machine in problem.machines]
        self._ready = np.zeros(problem.here.shape, dtype=bool)
        for row, then in enumerate(self._rows):
            if then >= 0:
                self._ready[row] = now.ready[then]
        self._later: dict[tuple[int, int], str] = {}
        self._final = self._target.copy()
        self._urgency = self._order_of_models()
        self._keep_what_is_needed()
        self._put_off_what_does_not_fit()

    # ── what waits ────────────────────────────────────────────────────────────────────

    def _keep_what_is_needed(self) -> None:
        for row, column in np.argwhere(self._draft.problem.here & ~self._target):
            why = self._needed(int(row), int(column))
            if why:
                self._final[row, column] = True
                self._later[int(row), int(column)] = why

    def _needed(self, row: int, column: int) -> str:
        """Why a copy that is to leave cannot yet; "" when it can."""
        staying = self._target[:, column].copy()
        staying[row] = False
        if (self._ready[:, column] & staying).any():
            return ""
        if self._now.waiting[column] and self._ready[row, column]:
            return "requests wait for it and no other copy is ready"
        if staying.any() and self._now.mean[column] > 0:
            return "its copy on another Mac is not ready yet"
        return ""

    def _put_off_what_does_not_fit(self) -> None:
        """Where something stays longer, the least urgent of what was to come waits for its room."""
        problem = self._draft.problem
        new = self._final & ~problem.here
        for row in {row for row, _ in self._later}:
            for column in reversed(self._urgency):
                too_much = self._final[row] @ problem.need > problem.room[row] + 0.5
                if new[row, column] and too_much:
                    self._final[row, column] = False
                    self._later[row, column] = "as soon as there is room for it"

    # ── what is ordered ───────────────────────────────────────────────────────────────

    @property
    def orders(self) -> list[tuple[MachineId, tuple[ModelId, ...], int]]:
        """Each planned Mac that is still here, its models, and how many give way there."""
        problem = self._draft.problem
        return [
            (
                machine,
                tuple(problem.models[c] for c in self._urgency if self._final[row, c]),
                int((problem.here[row] & ~self._final[row]).sum()),
            )
            for row, machine in enumerate(problem.machines)
            if self._rows[row] >= 0
        ]

    def _order_of_models(self) -> list[int]:
        """Those that requests wait for first, then the ones that are asked for most."""
        now, problem = self._now, self._draft.problem
        best = np.maximum(problem.rate.max(axis=0, initial=0.0), 1e-9)
        share = problem.wanted / best
        columns = range(len(problem.models))
        return sorted(columns, key=lambda c: (-now.waiting_work[c], -now.waiting[c], -share[c], c))

    @property
    def bought(self) -> list[ModelId]:
        """Models that get a new copy."""
        new = (self._final & ~self._draft.problem.here).any(axis=0)
        return [self._draft.problem.models[column] for column in np.flatnonzero(new)]

    # ── what is told ──────────────────────────────────────────────────────────────────

    def plan(self, now_s: float) -> Plan:
        solution, case = self._solution, self._draft.case
        return Plan(
            number=case.number,
            made_s=now_s,
            cause=case.cause,
            how=solution.how,
            value=solution.value,
            bound=solution.bound,
            orders=tuple((machine, models) for machine, models, _ in self.orders),
            changes=tuple(self._changes()),
            refused=self._draft.refused,
            note=solution.note,
        )

    def _changes(self) -> list[Change]:
        problem, target = self._draft.problem, self._target
        changes = []
        for row, column in np.argwhere(problem.here ^ target):
            at = (int(row), int(column))
            comes = bool(target[at])
            words = (why_load if comes else why_unload)(self._draft, target, *at)
            if at in self._later:
                words = f"{words}; later: {self._later[at]}"
            changes.append(self._change(at, comes=comes, words=words))
        for row, column in np.argwhere(self._draft.case.tables.shed & ~target):
            at = (int(row), int(column))
            words = why_shed(self._draft.case.tables, *at)
            changes.append(self._change(at, comes=False, words=words))
        return changes

    def _change(self, at: tuple[int, int], *, comes: bool, words: str) -> Change:
        problem = self._draft.problem
        return Change(
            machine=problem.machines[at[0]],
            model=problem.models[at[1]],
            act="load" if comes else "unload",
            words=words,
            later=at in self._later,
        )
