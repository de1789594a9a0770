"""The routes of the past: what an account used and what its Macs earned, in lists and in sums.

Without any of the newer parameters both answer as they always did: the newest, and no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, TypeVar

from fastapi import FastAPI, Query, Request, Response

from market.accounting.histories import Bounds, Job
from market.accounting.rows import RequestRow
from market.errors import InvalidRequest
from market.keys import BILLING_READ, FLEET_READ
from market.types import AccountId
from serve_app.desk import Desk
from serve_app.exporting import PAGE_ROWS, Export, Form, Page, Slots, pieces
from serve_app.gate import Gate
from serve_app.histories import (
    By,
    Cursor,
    Cursors,
    Filters,
    From,
    Names,
    When,
    WindowName,
    read_by,
    requests_asked,
    sums_asked,
)
from serve_app.openapi import operation
from serve_app.rest import answer, caller, refuse_unknown
from serve_app.routes_payments import PAGE_DEFAULT, PAGE_MOST
from serve_app.schemas import UsageEntry
from serve_app.schemas_histories import EarningsSums, UsagePageAnswer, UsageSums
from serve_app.schemas_payments import EarningsAnswer
from serve_app.views import usage_entry
from serve_app.views_histories import (
    JOB_COLUMNS,
    USAGE_COLUMNS,
    charged,
    earnings_sums,
    job_cells,
    usage_cells,
    usage_sums,
)
from serve_app.views_payments import earnings

USAGE_ROWS_DEFAULT: Final = 100
ROWS_MOST: Final = 1_000
USAGE_BY: Final = ("hour", "day", "key", "model")
EARNINGS_BY: Final = ("hour", "day", "machine", "model")
EARNINGS_BY_DEFAULT: Final = ("hour", "machine", "model")
Row = TypeVar("Row")
RowLimit = Annotated[int, Query(ge=1, le=ROWS_MOST)]
Format = Annotated[Form, Query()]


def add_histories(app: FastAPI, desk: Desk) -> None:
    """Usage and earnings, and their exports."""
    limits = desk.limits
    gate = Gate(
        limits.histories_per_minute, limits.histories_burst, "pages of histories", "too_many_pages"
    )

    def passed(account: AccountId) -> None:
        gate.pass_through(account, desk.ports.clock.monotonic_s())

    slots = Slots(limits.exports_at_once)
    _add_usage(app, desk, passed)
    _add_usage_export(app, desk, passed, slots)
    _add_earnings(app, desk, passed)
    _add_earnings_export(app, desk, passed, slots)


def _add_usage(app: FastAPI, desk: Desk, passed: Callable[[AccountId], None]) -> None:
    accountant, sealer = desk.ports.accountant, desk.ports.sealer

    @app.get(
        "/v1/payments/usage",
        response_model=list[UsageEntry] | UsagePageAnswer | UsageSums,
        tags=["money"],
        openapi_extra=operation(BILLING_READ),
    )
    async def usage(
        request: Request,
        limit: RowLimit = USAGE_ROWS_DEFAULT,
        begin: From = None,
        to: When = None,
        window: WindowName = None,
        model: Names = [],  # noqa: B006  FastAPI makes a fresh list for each request
        key: Names = [],  # noqa: B006
        by: By = None,
        cursor: Cursor = None,
    ) -> Response:
        """The account's charged requests, newest first.

        Without any other parameter than `limit` it is a plain list of the newest ones. With a
        `cursor`, which may be empty, or a filter it is a page; with `by` it is sums, told apart
        by some of model, key, and hour or day.
        """
        record = await caller(desk, request, BILLING_READ)
        refuse_unknown(request)
        filters = Filters(begin, to, window, tuple(model), tuple(key), (), by)
        if cursor is None and not filters.given:
            rows = await accountant.usage(record.account, limit)
            return answer([usage_entry(row) for row in rows])
        passed(record.account)
        cursors = Cursors(sealer, record.account, "usage", filters)
        if by is None:
            asked = requests_asked(filters, limit, cursors.bounds(cursor))
            page = await accountant.usage_page(record.account, asked)
            following = None if page.rest is None else cursors.write(page.rest)
            data = [charged(row) for row in page.rows]
            return answer(UsagePageAnswer(data=data, next_cursor=following))
        apart = read_by(by, USAGE_BY, ())
        sums = await accountant.use_page(
            record.account, sums_asked(filters, apart, limit, cursors.sums(cursor))
        )
        following = None if sums.after is None else cursors.write((sums.stretch, sums.after))
        return answer(usage_sums(sums, apart, following))


def _add_usage_export(
    app: FastAPI, desk: Desk, passed: Callable[[AccountId], None], slots: Slots
) -> None:
    accountant = desk.ports.accountant

    @app.get(
        "/v1/payments/usage/export",
        tags=["money"],
        response_class=Response,
        openapi_extra=operation(BILLING_READ),
    )
    async def export_usage(
        request: Request,
        format: Format,  # noqa: A002  the parameter's name
        begin: From = None,
        to: When = None,
        window: WindowName = None,
        model: Names = [],  # noqa: B006
        key: Names = [],  # noqa: B006
    ) -> Response:
        """Every charged request, newest first, as one stream of CSV, JSON or a JSON line each."""
        record = await caller(desk, request, BILLING_READ)
        refuse_unknown(request)
        passed(record.account)
        filters = Filters(begin, to, window, tuple(model), tuple(key))

        async def page(rest: Bounds | None) -> Page[RequestRow]:
            asked = requests_asked(filters, PAGE_ROWS, rest)
            found = await accountant.usage_page(record.account, asked)
            return found.rows, found.rest

        return await _export(
            desk, slots, record.account, page, usage_cells, USAGE_COLUMNS, format, "coster-usage"
        )


def _add_earnings(app: FastAPI, desk: Desk, passed: Callable[[AccountId], None]) -> None:
    accountant, sealer = desk.ports.accountant, desk.ports.sealer

    @app.get(
        "/v1/provider/earnings",
        response_model=EarningsAnswer | EarningsSums,
        tags=["payouts"],
        openapi_extra=operation(FLEET_READ, BILLING_READ),
    )
    async def get_earnings(
        request: Request,
        limit: RowLimit = PAGE_DEFAULT,
        begin: From = None,
        to: When = None,
        window: WindowName = None,
        model: Names = [],  # noqa: B006
        machine: Names = [],  # noqa: B006
        by: By = None,
        cursor: Cursor = None,
    ) -> Response:
        """What the account's Macs have earned, with the newest payments.

        With any other parameter than `limit` it is sums instead, by machine, model and hour, or
        as `by` says: told apart by some of machine, model, and hour or day, in pages.
        """
        record = await caller(desk, request, FLEET_READ, BILLING_READ)
        refuse_unknown(request)
        filters = Filters(begin, to, window, tuple(model), (), tuple(machine), by)
        if cursor is None and not filters.given:
            if limit > PAGE_MOST:
                raise InvalidRequest(
                    f"limit: at most {PAGE_MOST} payments are listed here; "
                    "/v1/provider/earnings/export has them all.",
                    "limit",
                    "out_of_range",
                )
            return answer(earnings(await accountant.earnings(record.account, limit)))
        passed(record.account)
        apart = read_by(by, EARNINGS_BY, EARNINGS_BY_DEFAULT)
        cursors = Cursors(sealer, record.account, "earnings", filters)
        sums = await accountant.work_page(
            record.account, sums_asked(filters, apart, limit, cursors.sums(cursor))
        )
        following = None if sums.after is None else cursors.write((sums.stretch, sums.after))
        return answer(earnings_sums(sums, apart, following))


def _add_earnings_export(
    app: FastAPI, desk: Desk, passed: Callable[[AccountId], None], slots: Slots
) -> None:
    accountant = desk.ports.accountant

    @app.get(
        "/v1/provider/earnings/export",
        tags=["payouts"],
        response_class=Response,
        openapi_extra=operation(FLEET_READ, BILLING_READ),
    )
    async def export_earnings(
        request: Request,
        format: Format,  # noqa: A002  the parameter's name
        begin: From = None,
        to: When = None,
        window: WindowName = None,
        model: Names = [],  # noqa: B006
        machine: Names = [],  # noqa: B006
    ) -> Response:
        """Every paid job, newest first, as one stream of CSV, JSON or a JSON line each."""
        record = await caller(desk, request, FLEET_READ, BILLING_READ)
        refuse_unknown(request)
        passed(record.account)
        filters = Filters(begin, to, window, tuple(model), (), tuple(machine))

        async def page(rest: Bounds | None) -> Page[Job]:
            asked = requests_asked(filters, PAGE_ROWS, rest)
            found = await accountant.job_page(record.account, asked)
            return found.jobs, found.rest

        return await _export(
            desk, slots, record.account, page, job_cells, JOB_COLUMNS, format, "coster-earnings"
        )


async def _export(
    desk: Desk,
    slots: Slots,
    account: AccountId,
    page: Callable[[Bounds | None], Awaitable[Page[Row]]],
    cells: Callable[[Row], Sequence[object]],
    columns: Sequence[str],
    form: Form,
    name: str,
) -> Export:
    """The stream, once its first page has been read: until then it may still be refused."""
    slots.take(account)
    try:
        first = await page(None)
    except BaseException:
        slots.free(account)
        raise
    stream = pieces(first, page, cells, columns, form)
    return Export(stream, form, name, desk.limits.write_s, lambda: slots.free(account))
