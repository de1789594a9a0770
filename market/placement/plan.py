"""A plan: what each Mac should have, what changes for it, and why, in words with the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from market.placement.case import Case, Refusal
from market.placement.draft import Draft, draft_of
from market.placement.problem import Solution
from market.placement.solve import solve
from market.types import MachineId, ModelId

Act = Literal["load", "unload"]


@dataclass(frozen=True, slots=True)
class Change:
    """One model that comes to or leaves a Mac. `later`: not yet, for the reason in `words`."""

    machine: MachineId
    model: ModelId
    act: Act
    words: str
    later: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "model": self.model,
            "act": self.act,
            "later": self.later,
            "why": self.words,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """`orders` are the models of each planned Mac, most urgent first.

    `value` is what the placement is worth in cost tokens/s, `bound` what none can exceed.
    `cause` is why it was made, `how` and `note` by which search.
    """

    number: int
    made_s: float
    cause: str
    how: str
    value: float
    bound: float
    orders: tuple[tuple[MachineId, tuple[ModelId, ...]], ...]
    changes: tuple[Change, ...]
    refused: tuple[Refusal, ...]
    note: str = ""

    @property
    def share(self) -> float:
        """Of the bound: 1 is proven to be the best."""
        return min(1.0, self.value / self.bound) if self.bound > 0 else 1.0

    def as_json(self, now_s: float) -> dict[str, Any]:
        return {
            "number": self.number,
            "made_s": round(self.made_s, 3),
            "age_s": round(now_s - self.made_s, 3),
            "cause": self.cause,
            "how": self.how,
            "note": self.note,
            "value": round(self.value, 3),
            "bound": round(self.bound, 3),
            "share_of_bound": round(self.share, 4),
            "orders": {machine: list(models) for machine, models in self.orders},
            "changes": [change.as_json() for change in self.changes],
            "refused": [
                {"machine": refusal.machine, "model": refusal.model, "why": refusal.words}
                for refusal in self.refused
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A case worked out, still to be adopted."""

    draft: Draft
    solution: Solution


def work_out(case: Case) -> Answer:
    """The slow part: pure, of picklable things, to be run beside whatever must not wait."""
    draft = draft_of(case)
    settings = case.settings
    return Answer(draft, solve(draft.problem, settings.gap, settings.solve_s))
