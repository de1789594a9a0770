"""Pages of ended requests, newest first, found by index and bounded in what they look at.

Requests are numbered in the order of their ends, so a moment is found among them by halving,
and a page goes back from a number. What one Mac delivered is in the request's own row, or in
the row of its delivery where there were several; both are read for each payee, and merged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from market.accounting.histories import (
    EXAMINED_MAX,
    LAST_SEQ,
    Bounds,
    Job,
    JobPage,
    UsagePage,
)
from market.accounting.parts import PARTS_MAX
from market.accounting.rows import DeliveryRow, RequestRow
from market.accounting.state_rows import Cell
from market.types import AccountId, KeyId, MachineId, ModelId
from storage.rollup_statements import Named, select_paid

Read = Callable[[str, Sequence[Cell]], Awaitable[Sequence[Sequence[Any]]]]

_COLUMNS: Final = ", ".join(RequestRow._fields)
_CELLS: Final = len(RequestRow._fields)
_BOTH: Final = ", ".join(
    [f"request.{name}" for name in RequestRow._fields]
    + [f"delivery.{name}" for name in DeliveryRow._fields]
)
_JOINED: Final = "FROM delivery JOIN request ON request.request_id = delivery.request_id"
_DELIVERY_AT: Final = (
    f"SELECT delivery.seq, request.seq {_JOINED} WHERE delivery.payee = ? "
    "AND delivery.seq < ? ORDER BY delivery.seq DESC LIMIT 1 OFFSET ?"
)
_LAST: Final = {
    "request": "SELECT coalesce(max(seq), 0) FROM request",
    "delivery": "SELECT coalesce(max(seq), 0) FROM delivery",
}
_NEXT: Final = {
    "request": "SELECT seq, finished_ns FROM request WHERE seq > ? ORDER BY seq LIMIT 1",
    "delivery": (
        f"SELECT delivery.seq, request.finished_ns {_JOINED} "
        "WHERE delivery.seq > ? ORDER BY delivery.seq LIMIT 1"
    ),
}


async def bounds(read: Read, begin_ns: int | None, end_ns: int | None) -> Bounds:
    """The requests that ended from one moment on and before another."""
    after = 0 if begin_ns is None else await first_since(read, "request", begin_ns) - 1
    if end_ns is None:
        return Bounds(after)
    before = await first_since(read, "request", end_ns)
    return Bounds(after, before, 0, await first_since(read, "delivery", end_ns))


async def first_since(read: Read, table: str, since_ns: int) -> int:
    """The number of the first request or delivery that ended then or later; one too high if none.

    Found by halving: the tables have no index on time, and need none.
    """
    low, high = 0, int((await read(_LAST[table], ()))[0][0])
    while low < high:  # what is wanted comes after `low`, and is at most the one after `high`
        middle = (low + high) // 2
        found = await read(_NEXT[table], (middle,))
        if found and found[0][1] < since_ns:
            low = int(found[0][0])
        else:
            high = middle
    return low + 1


@dataclass(slots=True)
class _Stream:
    """What one index has given, and down to which request it has been looked at.

    `reached` is 0 where that is the end. What is left of deliveries is below `delivery`.
    """

    jobs: list[Job] = field(default_factory=list)
    reached: int = 0
    delivery: int = LAST_SEQ


async def usage(
    read: Read,
    owner: AccountId,
    at: Bounds,
    models: Sequence[ModelId],
    keys: Sequence[KeyId],
    limit: int,
) -> UsagePage:
    """The owner's charged requests."""
    named = [("model", models), ("key_id", keys)]
    stream = await _requests(read, ("owner", owner), "", at, named, limit)
    found, rest = _merged([stream], at, limit)
    return UsagePage(tuple(job.row for job in found), rest)


async def jobs(
    read: Read,
    payees: Sequence[AccountId],
    at: Bounds,
    models: Sequence[ModelId],
    machines: Sequence[MachineId],
    limit: int,
) -> JobPage:
    """What these payees' Macs delivered."""
    streams = []
    whole = [("model", models), ("machine", machines)]
    parts = [("request.model", models), ("delivery.machine", machines)]
    for payee in await _paid(read, payees):
        alone = " AND deliveries IS NULL"
        streams.append(await _requests(read, ("payee", payee), alone, at, whole, limit))
        streams.append(await _deliveries(read, payee, at, parts, limit))
    found, rest = _merged(streams, at, limit)
    return JobPage(tuple(found), rest)


async def _paid(read: Read, payees: Sequence[AccountId]) -> list[AccountId]:
    """Those of them that were ever paid: most accounts of unlinked machines never were."""
    found = await read(select_paid(len(payees)), (*payees, *payees)) if payees else ()
    known = {payee for (payee,) in found}
    return [payee for payee in payees if payee in known]


def _merged(streams: Sequence[_Stream], at: Bounds, limit: int) -> tuple[list[Job], Bounds | None]:
    """The newest of all, down to where every stream has been looked at; what is left after it."""
    reached = max((stream.reached for stream in streams), default=0)
    found = [job for stream in streams for job in stream.jobs if job.seq >= reached]
    found.sort(key=lambda job: (job.seq, job.number), reverse=True)
    shown = found[:limit]
    delivery = min((job.delivery for job in shown if job.delivery), default=at.delivery)
    if len(found) > limit:
        last = (shown or found)[-1 if shown else 0]
        seq, number = (last.seq, last.number) if shown else (last.seq + 1, 0)
        return shown, at._replace(before=seq, number=number, delivery=delivery)
    if not reached:
        return shown, None
    for stream in streams:
        if stream.reached == reached:
            delivery = min(delivery, stream.delivery)
    return shown, at._replace(before=reached, number=0, delivery=delivery)


async def _requests(
    read: Read, whose: tuple[str, str], more: str, at: Bounds, named: Sequence[Named], limit: int
) -> _Stream:
    column, value = whose
    between = f"{column} = ? AND seq < ? AND seq > ?"
    cells = (value, at.before, at.after)
    floor = await read(
        f"SELECT seq FROM request WHERE {between} ORDER BY seq DESC LIMIT 1 OFFSET ?",  # noqa: S608
        (*cells, EXAMINED_MAX - 1),
    )
    reached = int(floor[0][0]) if floor else 0
    where, values = _where(named)
    found = await read(
        f"SELECT seq, {_COLUMNS} FROM request WHERE {between} AND seq >= ? "  # noqa: S608
        f"AND {_served()}{more}{where} ORDER BY seq DESC LIMIT ?",
        (*cells, reached, *values, limit + 1),
    )
    rows = [Job(seq, 0, 0, RequestRow(*row)) for seq, *row in found]
    return _Stream(rows, rows[-1].seq if len(rows) > limit else reached)


async def _deliveries(
    read: Read, payee: AccountId, at: Bounds, named: Sequence[Named], limit: int
) -> _Stream:
    """A Mac that was lost before its first token has delivered nothing, and that is no job."""
    floor = await read(_DELIVERY_AT, (payee, at.delivery, EXAMINED_MAX - 1))
    least, reached = floor[0] if floor else (0, 0)
    where, values = _where(named)
    found = await read(
        f"SELECT delivery.seq, request.seq, {_BOTH} {_JOINED} "
        "WHERE delivery.payee = ? AND delivery.seq < ? AND delivery.seq >= ? "
        "AND (request.seq < ? OR (request.seq = ? AND delivery.number < ?)) AND request.seq > ? "
        f"AND {_served('request.')} "
        "AND (delivery.completion_tokens > 0 OR delivery.number = request.deliveries - 1)"
        f"{where} ORDER BY delivery.seq DESC LIMIT ?",
        (payee, at.delivery, least, at.before, at.before, at.number, at.after, *values, limit + 1),
    )
    rows = []
    for delivery, seq, *row in found:
        part = DeliveryRow(*row[_CELLS:])
        whole = RequestRow(*row[:_CELLS])
        rows.append(Job(seq, part.number, delivery, part.as_request(whole)))
    if len(rows) > limit:
        return _Stream(rows, rows[-1].seq)
    if reached <= at.after:
        return _Stream(rows)
    # Of the request it broke off in, all deliveries are left; they are numbered one by one.
    return _Stream(rows, reached + 1, least + PARTS_MAX + 1)


def _where(named: Sequence[Named]) -> tuple[str, list[str]]:
    """What rows must have: one of the values that are named for each column."""
    text = ""
    cells: list[str] = []
    for column, values in named:
        if values:
            text += f" AND {column} IN ({', '.join('?' * len(values))})"
            cells += values
    return text, cells


def _served(table: str = "") -> str:
    return f"({table}status = 'settled' OR {table}cost_nano > 0)"
