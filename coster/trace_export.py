"""A market's past as a trace that the lab plays: who asked for what, when, and how long it was.

Rows come from the books, so they are what was really delivered; class, wishes, conversation and
deadline come from the router's log, as far back as that goes. Whatever the size, only what is
out of order is in memory.
"""

from __future__ import annotations

import heapq
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from market.accounting.exports import Selection
from market.accounting.rows import RequestRow
from market.policy.ask import Ask
from simulator.workloads.trace_rows import TraceRow, anonymous, json_lines
from storage.decision_asks import DecisionAsks
from storage.export import check_owner
from storage.ledger_rows import LedgerRows

ROUTER_FILE: Final = "router.db"
SECRET_BYTES: Final = 32
NO_ANSWER: Final = "requests left out: nobody was paid for an answer"
NO_PROMPT: Final = "requests left out: no prompt"
NO_DECISION: Final = "requests whose class and wishes the router's log keeps no longer"

Notes = Counter[str]
"""What could not be told, and how often."""


def trace_lines(
    rows: LedgerRows, data: Path, chosen: Selection, notes: Notes, *, anonymise: bool
) -> Iterator[str]:
    """The market's answered requests in order of their arrival, a line of JSON each.

    The key of the pseudonyms is made here and kept by nobody, so two exports have nothing in
    common. Names of conversations are callers' own words and never left as they are. Raises
    NotFound when the chosen account is in no book, StorageError when they cannot be read.
    """
    check_owner(rows.accounts(), chosen)
    asks = DecisionAsks(data / ROUTER_FILE)
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        answered = by_time(partial(_answered, rows, chosen), notes)
        found = (trace_row(row, asks.of(row.request_id), notes) for row in answered)
        yield from json_lines(_under(secret, row, anonymise=anonymise) for row in found)
    finally:
        asks.close()


def _under(secret: bytes, row: TraceRow, *, anonymise: bool) -> TraceRow:
    hidden = anonymous(row, secret)
    return hidden if anonymise else replace(hidden, consumer=row.consumer)


def by_time(again: Callable[[Notes], Iterable[RequestRow]], notes: Notes) -> Iterator[RequestRow]:
    """Rows by the time they were created. They are read twice: first for how late one may be,
    and then no more are held than that. `again` gives them from the beginning.
    """
    newest_ns = late_ns = 0
    for row in again(Notes()):
        newest_ns = max(newest_ns, row.created_ns)
        late_ns = max(late_ns, newest_ns - row.created_ns)
    held: list[tuple[int, int, RequestRow]] = []
    newest_ns = 0
    for number, row in enumerate(again(notes)):
        newest_ns = max(newest_ns, row.created_ns)
        heapq.heappush(held, (row.created_ns, number, row))
        while held and held[0][0] < newest_ns - late_ns:
            yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]


def _answered(rows: LedgerRows, chosen: Selection, notes: Notes) -> Iterator[RequestRow]:
    for _, *fields, _batch, _crc in rows.journal("request"):
        row = RequestRow(*fields)
        if row.created_ns < chosen.since_ns or chosen.owner not in ("", row.owner):
            continue
        if row.status != "settled" or row.completion_tokens < 1:
            notes[NO_ANSWER] += 1
        elif row.prompt_tokens < 1:
            notes[NO_PROMPT] += 1
        else:
            yield row


def trace_row(row: RequestRow, ask: Ask | None, notes: Notes) -> TraceRow:
    """A request as the books and the router's log have it."""
    known = TraceRow(
        at_s=row.created_ns / 1e9,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.completion_tokens,
        model=row.model,
        consumer=row.owner,
        max_tokens=row.max_tokens,
        cached_tokens=row.cached_tokens,
    )
    if ask is None:
        notes[NO_DECISION] += 1
        return known
    wishes = ask.preferences
    return replace(
        known,
        session=ask.session,
        request_class=ask.request_class,
        deadline_s=ask.finish_by_s,
        max_price_in_nano=wishes.max_price_in_nano,
        max_price_out_nano=wishes.max_price_out_nano,
        sort=wishes.sort,
        trust=wishes.trust,
    )
