"""What the accountant tells of the past: figures for everybody, histories for their owners.

Nothing here waits for a commit or reads through the writer. What is said of now is said by
the ledger's clock, like everything that was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from actors.accounting.core import RETRY_AFTER_S, AccountantCore
from market.accounting.asking import RequestsAsked, SumsAsked, SumsPage, UsePage, WorkPage
from market.accounting.histories import (
    EVER_S,
    JobPage,
    UsagePage,
    UseColumn,
    UseSum,
    UseWhere,
    WorkColumn,
    WorkSum,
    WorkWhere,
)
from market.accounting.paging import Fetch, Sum, page_of
from market.accounting.periods import Between, Period, Rolling, Stretch, stretch_of
from market.accounting.registry import UNCLAIMED, unclaimed
from market.accounting.rollups import HOUR_S, MINUTE_S, NS_PER_S, Work
from market.accounting.statistics import Told, Used, UseQuestion, Worked, WorkQuestion
from market.errors import InvalidRequest, NotFound, Unavailable
from market.types import AccountId, KeyId, MachineId, ModelId
from storage.database import StorageError

Result = TypeVar("Result")
_WORK_COLUMNS: dict[str, WorkColumn] = {"model": "model", "machine": "machine", "account": "payee"}
_USE_COLUMNS: dict[str, UseColumn] = {"model": "model", "key": "key_id", "account": "owner"}


class HistoryMethods(AccountantCore):
    """The reading port `market.accounting.statistics.Statistics`, and pages for owners."""

    # ── figures ───────────────────────────────────────────────────────────────────────

    async def worked(self, question: WorkQuestion) -> Told[Worked]:
        """What Macs did; see `market.accounting.statistics.Statistics`."""
        now_s, stretch = self._when(question.period, MINUTE_S)
        by = [_WORK_COLUMNS[name] for name in question.by]
        where = WorkWhere(
            sorted(question.models),
            sorted(question.machines),
            self._payees_of(sorted(question.accounts)),
            sorted(question.without_machines),
        )
        sums = await self._past(
            lambda: self._store.histories.work(stretch, by, question.bucket_s, where)
        )
        figures: defaultdict[tuple[int, ModelId, MachineId, AccountId], list[Work]]
        figures = defaultdict(list)
        for start_s, model, machine, payee, work in sums:
            figures[start_s, model, machine, self._account_of(payee)].append(work)
        told = tuple(Worked(*key, _total(works)) for key, works in sorted(figures.items()))
        return Told(now_s, stretch.begin_s, stretch.end_s, told)

    async def used(self, question: UseQuestion) -> Told[Used]:
        """What callers used; see `market.accounting.statistics.Statistics`."""
        now_s, stretch = self._when(question.period, HOUR_S)
        by = [_USE_COLUMNS[name] for name in question.by]
        where = UseWhere(sorted(question.models), sorted(question.keys), sorted(question.accounts))
        sums = await self._past(
            lambda: self._store.histories.use(stretch, by, question.bucket_s, where)
        )
        told = tuple(Used(*one) for one in sorted(sums))
        return Told(now_s, stretch.begin_s, stretch.end_s, told)

    # ── an account's own past ─────────────────────────────────────────────────────────

    async def usage_page(self, account: AccountId, asked: RequestsAsked) -> UsagePage:
        """The account's charged requests; raises NotFound for a key that is not its own."""
        self._check_own_keys(account, asked.keys)
        moments, histories = self._moments(asked.period), self._store.histories

        async def read() -> UsagePage:
            rest = asked.rest or await histories.bounds(*moments)
            return await histories.usage(account, rest, asked.models, asked.keys, asked.limit)

        return await self._past(read)

    async def job_page(self, account: AccountId, asked: RequestsAsked) -> JobPage:
        """What the account's Macs delivered, and were paid for; raises NotFound."""
        await self._check_own_machines(account, asked.machines)
        moments, histories = self._moments(asked.period), self._store.histories
        payees = self._payees_of([account])

        async def read() -> JobPage:
            rest = asked.rest or await histories.bounds(*moments)
            return await histories.jobs(payees, rest, asked.models, asked.machines, asked.limit)

        return await self._past(read)

    async def use_page(self, account: AccountId, asked: SumsAsked) -> UsePage:
        """Sums of what the account used, to the hour; raises NotFound, InvalidRequest."""
        self._check_own_keys(account, asked.keys)
        _, stretch = self._when(asked.period, HOUR_S)
        histories = self._store.histories
        where = UseWhere(asked.models, asked.keys, [account])
        by = [name for name in asked.by if name != "machine"]

        async def fetch(part: Stretch) -> list[UseSum]:
            return await histories.use(part, by, asked.bucket_s, where)

        return await self._page(fetch, stretch, asked, lambda: histories.use_since_s(account))

    async def work_page(self, account: AccountId, asked: SumsAsked) -> WorkPage:
        """Sums of what the account's Macs did and earned; raises NotFound, InvalidRequest."""
        await self._check_own_machines(account, asked.machines)
        _, stretch = self._when(asked.period, MINUTE_S)
        histories, payees = self._store.histories, self._payees_of([account])
        where = WorkWhere(asked.models, asked.machines, payees)
        by = [name for name in asked.by if name != "key_id"]

        async def fetch(part: Stretch) -> list[WorkSum]:
            return await histories.work(part, by, asked.bucket_s, where)

        return await self._page(fetch, stretch, asked, lambda: histories.work_since_s(payees))

    async def _page(
        self,
        fetch: Fetch[Sum],
        stretch: Stretch,
        asked: SumsAsked,
        since: Callable[[], Awaitable[int | None]],
    ) -> SumsPage[Sum]:
        async def read() -> SumsPage[Sum]:
            begin_s, end_s = stretch
            told = part = stretch
            if asked.bucket_s:
                # Buckets are read from where there is anything, whatever was asked for.
                since_s = await since()
                first_s = end_s if since_s is None else min(since_s, end_s)
                part = Stretch(max(first_s, begin_s or 0), end_s)
                told = part if begin_s is None else stretch
            sums, after = await page_of(fetch, part, asked.bucket_s, asked.after, asked.limit)
            return SumsPage(told, tuple(sums), after)

        return await self._past(read)

    # ── whose, and when ───────────────────────────────────────────────────────────────

    def _when(self, period: Period, grain_s: int) -> tuple[int, Stretch]:
        self._check_alive()
        now_s = max(self._clock.wall_ns(), self._books.last_ts_ns) // NS_PER_S
        try:
            return now_s, stretch_of(period, now_s, grain_s)
        except ValueError as error:
            named = "window" if isinstance(period, Rolling) else "from"
            raise InvalidRequest(str(error), named, "invalid_period") from error

    def _moments(self, period: Period) -> tuple[int | None, int | None]:
        """From when on, and before when, in nanoseconds; None where there is no such bound."""
        _, (begin_s, end_s) = self._when(period, 1)
        bounded = isinstance(period, Between) and period.end_s is not None
        return (
            None if begin_s is None else begin_s * NS_PER_S,
            end_s * NS_PER_S if bounded else None,
        )

    def _account_of(self, payee: AccountId) -> AccountId:
        """Whose pay it is: an unlinked machine's own account, or now its owner's."""
        if not payee.startswith(UNCLAIMED):
            return payee
        return self._books.machines.get(MachineId(payee.removeprefix(UNCLAIMED)), payee)

    def _payees_of(self, accounts: Iterable[AccountId]) -> list[AccountId]:
        """Whom an account's Macs have earned for: itself, and each before it was linked."""
        return [
            payee
            for account in accounts
            for payee in (account, *map(unclaimed, self._books.machines_of(account)))
        ]

    def _check_own_keys(self, account: AccountId, keys: Iterable[KeyId]) -> None:
        self._check_alive()
        self._books.customers.get(account)
        for key in keys:
            try:
                self._books.customers.key(account, key)
            except NotFound as error:
                raise NotFound(str(error), "key", "key_not_found") from error

    async def _check_own_machines(self, account: AccountId, machines: Sequence[MachineId]) -> None:
        """A machine is an account's own that is linked to it, or has ever earned for it."""
        self._check_alive()
        self._books.customers.get(account)
        unknown = {one for one in machines if self._books.machines.get(one) != account}
        if not unknown:
            return
        where = WorkWhere(machines=sorted(unknown), payees=self._payees_of([account]))
        ever = Stretch(None, EVER_S)
        sums = await self._past(lambda: self._store.histories.work(ever, ("machine",), 0, where))
        for machine in sorted(unknown - {one.machine for one in sums}):
            raise NotFound(
                f"There is no machine {machine[:60]!r} of this account.",
                "machine",
                "machine_not_found",
            )

    async def _past(self, read: Callable[[], Awaitable[Result]]) -> Result:
        self._check_alive()
        try:
            return await read()
        except StorageError as error:
            raise Unavailable(
                "The ledger's history cannot be read just now. Try again.",
                None,
                "history_unavailable",
                RETRY_AFTER_S,
                True,
            ) from error


def _total(works: Sequence[Work]) -> Work:
    return works[0] if len(works) == 1 else Work(*map(sum, zip(*works, strict=True)))
