"""What is asked of a store about the past, and what it answers: sums, and pages of requests.

The store knows payees and sequences; whose they are and what a caller may see is decided
above it. Pages go back from the newest, by the journal's own numbers: these never change, so
a history can be read to its end while requests are settled. A page looks at a bounded number
of rows, however few of them are asked for; it may therefore be short, or empty, and the
history still go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from market.accounting.periods import Stretch
from market.accounting.rollups import Use, Work
from market.accounting.rows import Earned, RequestRow
from market.types import AccountId, KeyId, MachineId, ModelId

EVER_S: Final = 86_400 * 2**24
"""Later than every clock: the end of a stretch that has none."""
EXAMINED_MAX: Final = 5_000
"""Rows of each payee, or of the owner, that one page looks at."""
LAST_SEQ: Final = 2**63 - 1

WorkColumn = Literal["model", "machine", "payee"]
UseColumn = Literal["model", "key_id", "owner"]


@dataclass(frozen=True, slots=True)
class WorkWhere:
    """Whose work is summed; nothing named means everybody's."""

    models: Sequence[ModelId] = ()
    machines: Sequence[MachineId] = ()
    payees: Sequence[AccountId] = ()
    without_machines: Sequence[MachineId] = ()


@dataclass(frozen=True, slots=True)
class UseWhere:
    """Whose use is summed; nothing named means everybody's."""

    models: Sequence[ModelId] = ()
    keys: Sequence[KeyId] = ()
    owners: Sequence[AccountId] = ()


class WorkSum(NamedTuple):
    """One sum; what is not told apart is "", and `start_s` 0 without buckets."""

    start_s: int
    model: ModelId
    machine: MachineId
    payee: AccountId
    work: Work


class UseSum(NamedTuple):
    """One sum; what is not told apart is "", and `start_s` 0 without buckets."""

    start_s: int
    model: ModelId
    key_id: KeyId
    owner: AccountId
    use: Use


class Bounds(NamedTuple):
    """What is left to read of a history: requests after one number and before another.

    Of the request `before` itself its deliveries before `number` are left, too. Every delivery
    that is left has a journal number below `delivery`.
    """

    after: int = 0
    before: int = LAST_SEQ
    number: int = 0
    delivery: int = LAST_SEQ


class Job(NamedTuple):
    """What one Mac delivered of a request: the request as that Mac's owner sees it.

    `seq` is the request's journal number, `delivery` the delivery's, 0 where it has none.
    """

    seq: int
    number: int
    delivery: int
    row: RequestRow


class UsagePage(NamedTuple):
    """Charged requests, newest first; where the next page begins, None at the end."""

    rows: tuple[RequestRow, ...]
    rest: Bounds | None


class JobPage(NamedTuple):
    """Paid jobs, newest first; where the next page begins, None at the end."""

    jobs: tuple[Job, ...]
    rest: Bounds | None


class HistoryStore(Protocol):
    """The past as a store reads it, beside the writer and never in its way."""

    async def work(
        self, stretch: Stretch, by: Sequence[WorkColumn], bucket_s: int, where: WorkWhere
    ) -> list[WorkSum]:
        """Sums of what Macs did, in no particular order.

        Raises InvalidRequest for minutes that are not kept any more, and for too many sums.
        """
        ...

    async def use(
        self, stretch: Stretch, by: Sequence[UseColumn], bucket_s: int, where: UseWhere
    ) -> list[UseSum]:
        """Sums of what callers used, to the hour, in no particular order."""
        ...

    async def work_since_s(self, payees: Sequence[AccountId]) -> int | None:
        """When the oldest hour or minute of these payees begins; None when there is none."""
        ...

    async def use_since_s(self, owner: AccountId) -> int | None:
        """When the oldest hour of this owner begins; None when there is none."""
        ...

    async def minutes_within(self, begin_s: int, end_s: int, rows: int) -> int:
        """Up to which second about so many rows of minutes begin, from `begin_s` on.

        A whole minute, at least one after `begin_s`, at most `end_s`.
        """
        ...

    async def bounds(self, begin_ns: int | None, end_ns: int | None) -> Bounds:
        """The requests that ended from one moment on and before another."""
        ...

    async def usage(
        self,
        owner: AccountId,
        bounds: Bounds,
        models: Sequence[ModelId],
        keys: Sequence[KeyId],
        limit: int,
    ) -> UsagePage:
        """The owner's charged requests; nothing named means of every model and key."""
        ...

    async def jobs(
        self,
        payees: Sequence[AccountId],
        bounds: Bounds,
        models: Sequence[ModelId],
        machines: Sequence[MachineId],
        limit: int,
    ) -> JobPage:
        """What these payees' Macs delivered; nothing named means every model and machine."""
        ...


async def earned(store: HistoryStore, payees: Sequence[AccountId], limit: int) -> Earned:
    """What these accounts were paid for jobs, with the newest `limit` of those."""
    if not payees:
        return Earned(0, 0, ())
    sums = await store.work(Stretch(None, EVER_S), (), 0, WorkWhere(payees=payees))
    whole = sums[0].work if sums else Work()
    recent: list[RequestRow] = []
    rest: Bounds | None = Bounds()
    while rest is not None and len(recent) < limit:
        page = await store.jobs(payees, rest, (), (), limit - len(recent))
        recent += [job.row for job in page.jobs]
        rest = page.rest
    return Earned(whole.earned_nano, whole.jobs, tuple(recent))
