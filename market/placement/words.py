"""Why a model comes, goes or stays, in words with the numbers that decided it."""

from __future__ import annotations

import numpy as np

from market.placement.case import LOCK_WORDS, Case
from market.placement.draft import Draft
from market.placement.permits import Quote
from market.placement.problem import BoolArray
from market.placement.tables import FAILED, LEAVING, Tables
from market.verdicts import span

MINUTE_S = 60.0


def why_load(draft: Draft, target: BoolArray, row: int, column: int) -> str:
    """Why this model comes to this Mac."""
    case, tables = draft.case, draft.case.tables
    time = f"loads in {tables.load_s[row, column]:.0f} s"
    copies = int(tables.here[:, column].sum())
    if case.pinned[row, column]:
        return f"pinned here; {time}"
    if tables.place[row, column] == LEAVING:
        return "it was on its way out and is wanted again; it is still loaded"
    if copies == 0 and tables.waiting[column]:
        return f"{_requests(tables, column)} and no Mac has it; {time}"
    if copies < case.least[column]:
        return f"{_copies(int(case.least[column]))} kept of each model, it has {copies}; {time}"
    gone = np.flatnonzero(tables.here[:, column] & ~target[:, column])
    if gone.size:
        return f"moves here, so that there is room where it was; {time}"
    if not tables.here[row].any() and not tables.waiting[column]:
        return f"this Mac had no model; {demand(tables, column)}; {time}"
    return (
        f"{demand(tables, column)}; {_price(case, draft.permits.quotes.get((row, column)))}{time}"
    )


def why_unload(draft: Draft, target: BoolArray, row: int, column: int) -> str:
    """Why this model leaves this Mac."""
    tables = draft.case.tables
    new = np.flatnonzero(target[row] & ~tables.here[row])
    makes_way = f"gives way to {', '.join(tables.models[other] for other in new)}"
    if not new.size:
        makes_way = "is of no use here"
    others = int((tables.here[:, column] & target[:, column]).sum())
    quiet_s = tables.quiet_s[column]
    if others:
        return f"{makes_way}; {_copies(others)} elsewhere; {demand(tables, column)}"
    if not np.isfinite(quiet_s):
        return f"{makes_way}; nobody has asked for it"
    ago = f"last asked for {quiet_s / MINUTE_S:.0f} min ago"
    return f"{makes_way}; its last copy, {ago}; {demand(tables, column)}"


def why_shed(tables: Tables, row: int, column: int) -> str:
    """Why this model leaves this Mac whatever the plan."""
    if not tables.allowed[row, column]:
        return "the Mac's owner does not allow it any more"
    return f"the Mac has room for {tables.room[row] / 1e9:.1f} GB only"


def why_stay(case: Case, lock: int, row: int, column: int) -> str:
    """Why this model stays on this Mac."""
    tables = case.tables
    if lock in LOCK_WORDS:
        words = LOCK_WORDS[lock]
        left_s = case.settings.residency_s - tables.since_s[row, column]
        until = f", {left_s:.0f} s to go" if "residency" in words else ""
        return f"{words}{until}"
    return f"nothing better is known for its room; {demand(tables, column)}"


def why_here(case: Case, lock: int, row: int, column: int) -> str:
    """Why this model is in the state that it is in on this Mac."""
    tables = case.tables
    place = int(tables.place[row, column])
    if place == LEAVING:
        return why_shed(tables, row, column) if tables.shed[row, column] else "it gave way"
    if place == FAILED:
        ago = span(float(tables.since_s[row, column]))
        return f"loading it failed {ago} ago; it is tried again later"
    return why_stay(case, lock, row, column)


def demand(tables: Tables, column: int) -> str:
    """What is asked of a model and what its copies do."""
    if tables.mean[column] <= 0 and not tables.waiting[column]:
        return "nobody asks for it"
    words = (
        f"{tables.mean[column]:,.0f} cost tokens/s asked for, {tables.high[column]:,.0f} planned, "
        f"its copies do {tables.able[column]:,.0f}"
    )
    return f"{words}; {_requests(tables, column)}" if tables.waiting[column] else words


def _price(case: Case, quote: Quote | None) -> str:
    if quote is None or quote.price <= 0:
        return ""
    paid = case.paid[quote.column]
    return f"waiting has cost {paid:,.0f} cost tokens × s, this {quote.price:,.0f}; "


def _requests(tables: Tables, column: int) -> str:
    count = int(tables.waiting[column])
    return "1 request waits" if count == 1 else f"{count} requests wait"


def _copies(count: int) -> str:
    return "1 copy is" if count == 1 else f"{count} copies are"
