"""A history as one long answer: CSV, a JSON array or a JSON object a line, page by page.

Only a page is in memory, and the next one is asked for when the last has been sent, so a
history of any length costs its reader's patience and nothing else. Pages go by the journal's
numbers, so requests that are settled meanwhile change nothing of what is sent. An answer that
cannot be finished is broken off, never ended as if it were whole.
"""

from __future__ import annotations

import asyncio
import csv
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal, TypeVar

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from market.accounting.histories import Bounds
from market.errors import MarketError, RateLimited

_log = logging.getLogger("coster.door")
Form = Literal["csv", "json", "jsonl"]
Row = TypeVar("Row")
Page = tuple[Sequence[Row], Bounds | None]
PAGE_ROWS: Final = 500
"""Rows of one page: a few milliseconds of the accountant's time, and of ours."""
TYPES: Final = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
}


class Slots:
    """So many exports at once in this process, and one of each account."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: set[str] = set()

    def take(self, account: str) -> None:
        """Begin one; raises RateLimited."""
        if account in self._running:
            raise RateLimited(
                "Another export of this account is running; wait for its end.",
                None,
                "export_running",
                5.0,
                True,
            )
        if len(self._running) >= self._most:
            raise RateLimited(
                "Too many exports are running here now.", None, "too_many_exports", 5.0, True
            )
        self._running.add(account)

    def free(self, account: str) -> None:
        self._running.discard(account)


class Export(Response):
    """A streamed answer whose pieces are each written within `write_s` seconds.

    `ended` is called once it has ended, however it did.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        form: Form,
        name: str,
        write_s: float,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(media_type=TYPES[form])
        del self.headers["content-length"]
        self.headers["content-disposition"] = f'attachment; filename="{name}.{form}"'
        self._pieces = pieces
        self._write_s = write_s
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a reader who has gone or does not read is left."""
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in self._pieces:
                await asyncio.sleep(0)  # token streams on this loop go first
                if gone.done():
                    return
                async with asyncio.timeout(self._write_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (MarketError, TimeoutError) as error:
            # Its status is out: without its end the reader knows that it is not whole.
            _log.warning("an export was broken off: %s", type(error).__name__)
        finally:
            self._ended()
            gone.cancel()
            await asyncio.gather(gone, self._pieces.aclose(), return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def pieces(
    first: Page[Row],
    more: Callable[[Bounds], Awaitable[Page[Row]]],
    cells: Callable[[Row], Sequence[object]],
    columns: Sequence[str],
    form: Form,
) -> AsyncGenerator[bytes, None]:
    """The whole answer in pieces, a page in each."""
    rows, rest = first
    yield _head(columns, form)
    begun = False
    while True:
        if rows:
            told = _told([cells(row) for row in rows], columns, form)
            yield (b",\n" if begun and form == "json" else b"") + told
            begun = True
        if rest is None:
            break
        rows, rest = await more(rest)
    if form == "json":
        yield b"\n]\n" if begun else b"]\n"


def _head(columns: Sequence[str], form: Form) -> bytes:
    if form == "csv":
        return _csv([columns])
    return b"[\n" if form == "json" else b""


def _told(rows: Sequence[Sequence[object]], columns: Sequence[str], form: Form) -> bytes:
    if form == "csv":
        return _csv(rows)
    objects = [orjson.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    return b",\n".join(objects) if form == "json" else b"\n".join(objects) + b"\n"


class _Lines(list[str]):
    """Where a csv writer writes."""

    write = list.append


def _cell(cell: object) -> object:
    """Dollars with all their nine decimals: spreadsheets take 3.3851e-05 for text."""
    return f"{cell:.9f}" if isinstance(cell, float) else cell


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return "".join(lines).encode()
