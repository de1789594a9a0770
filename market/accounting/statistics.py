"""The reading port of figures: what Macs did and what callers used, by whom and when.

Whoever shows figures asks here and nowhere else. Every answer comes from sums that were kept
up as requests were settled (`market.accounting.rollups`); none reads the journal, and how
long one takes does not grow with the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from market.accounting.periods import EVER, Period
from market.accounting.rollups import Use, Work
from market.types import AccountId, KeyId, MachineId, ModelId

ROWS_MAX: Final = 50_000
"""Figures in one answer; a question that has more is refused and must be narrowed."""

WorkBy = Literal["model", "machine", "account"]
UseBy = Literal["model", "key", "account"]


@dataclass(frozen=True, slots=True)
class WorkQuestion:
    """What did Macs do? An empty set of models, machines or accounts means all of them.

    `by` says what is told apart, `bucket_s` in which steps of time: 60, or whole hours or
    days; 0 is the whole period in one. An account is the one that a machine's pay belongs to
    now: what an unlinked machine has earned is its own account's, `unclaimed_…`, until it is
    linked.
    """

    period: Period = EVER
    by: tuple[WorkBy, ...] = ()
    bucket_s: int = 0
    models: frozenset[ModelId] = frozenset()
    machines: frozenset[MachineId] = frozenset()
    accounts: frozenset[AccountId] = frozenset()
    without_machines: frozenset[MachineId] = frozenset()


@dataclass(frozen=True, slots=True)
class UseQuestion:
    """What did callers use? To the hour; otherwise as WorkQuestion."""

    period: Period = EVER
    by: tuple[UseBy, ...] = ()
    bucket_s: int = 0
    models: frozenset[ModelId] = frozenset()
    keys: frozenset[KeyId] = frozenset()
    accounts: frozenset[AccountId] = frozenset()


class Worked(NamedTuple):
    """One figure of an answer. What was not asked `by` is ""; without buckets `start_s` is 0."""

    start_s: int
    model: ModelId
    machine: MachineId
    account: AccountId
    work: Work


class Used(NamedTuple):
    """One figure of an answer. What was not asked `by` is ""; without buckets `start_s` is 0."""

    start_s: int
    model: ModelId
    key_id: KeyId
    account: AccountId
    use: Use


Figure = TypeVar("Figure", Worked, Used)


@dataclass(frozen=True, slots=True)
class Told(Generic[Figure]):
    """An answer: figures by bucket, model, machine or key, account; none that is all zero.

    It is of `begin_s` (None: since ever) to `end_s`, as of `now_s` by the ledger's clock, in
    Unix seconds. Without `by` and buckets there is at most one figure.
    """

    now_s: int
    begin_s: int | None
    end_s: int
    figures: tuple[Figure, ...] = field(default=())


class Statistics(Protocol):
    """Who answers such questions: the accountant, and the gateways' client of it.

    Both raise InvalidRequest for a question that cannot be answered: no such window, buckets
    finer than what is kept that long, more than ROWS_MAX figures. They raise Unavailable while
    the ledger cannot be read.
    """

    async def worked(self, question: WorkQuestion) -> Told[Worked]:
        """What Macs did, to the minute; minutes older than 31 days are known by the hour."""
        ...

    async def used(self, question: UseQuestion) -> Told[Used]:
        """What callers used, to the hour."""
        ...
