"""Pins: what an operator wants on a Mac stays there, and what cannot be there is refused.

A pin does not wait for its price, but it keeps every other rule: it waits for a minimum residency
to end and for a swap to be left, and it never takes the copy that requests wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from market.placement.case import FREE, LOCK_WORDS, Case, Refusal
from market.placement.permits import Office
from market.placement.problem import BoolArray

PINNED_BUT = "pinned, but "


@dataclass(slots=True)
class Pinned:
    """`must` (n, m) are pins that hold or can be carried out now, with the copies that give way
    for them in `leaving`; `refused` says why of the others.
    """

    must: BoolArray
    leaving: BoolArray
    refused: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of a pin, in words. `possible` is False for one that no plan could ever
    carry out as this Mac is: there is no sense in remembering it.
    """

    possible: bool
    words: str


def outlook_of(case: Case, place: tuple[int, int], unloads_max: int) -> Outlook:
    """What the next plan would say to a pin of this (row, column), after all others."""
    others = tuple(pin for pin in case.pins if pin != place)
    case = replace(case, pins=(*others, place))
    office, (row, column) = Office(case), place
    tables = case.tables
    if tables.here[row, column]:
        return Outlook(True, "it is there, and stays")
    before = pins_of(replace(case, pins=others), office, unloads_max)
    never = _never(case, before, row, column)
    if never:
        return Outlook(False, never)
    pinned = pins_of(case, office, unloads_max)
    for refusal in pinned.refused:
        if (refusal.machine, refusal.model) == (tables.machines[row], tables.models[column]):
            return Outlook(True, refusal.words.removeprefix(PINNED_BUT))
    leaving = [
        tables.models[at] for at in np.flatnonzero(pinned.leaving[row] & ~before.leaving[row])
    ]
    way = f"; {', '.join(leaving)} gives way" if leaving else ""
    return Outlook(True, f"it loads in {tables.load_s[row, column]:.0f} s{way}")


def pins_of(case: Case, office: Office, unloads_max: int) -> Pinned:
    """Carry out the pins that fit, in the order in which they were asked for."""
    tables = case.tables
    pinned = Pinned(case.pinned & tables.here, np.zeros(tables.place.shape, dtype=bool))
    for row, column in case.pins:
        if tables.here[row, column]:
            continue
        reason = _too_much(case, pinned, row, column)
        if not reason:
            reason = _make_room(case, office, pinned, (row, column), unloads_max)
        if reason:
            words = f"{PINNED_BUT}{reason}"
            pinned.refused.append(Refusal(tables.models[column], tables.machines[row], words))
        else:
            pinned.must[row, column] = True
    return pinned


def _too_much(case: Case, pinned: Pinned, row: int, column: int) -> str:
    """Why it cannot be there now even if all that is not pinned goes away; "" when it can."""
    if not case.tables.open[row]:
        return "the Mac takes nothing new now"
    if case.tables.allowed[row, column] and case.failed[row, column]:
        return "loading it there failed; it is tried again later"
    return _never(case, pinned, row, column)


def _never(case: Case, pinned: Pinned, row: int, column: int) -> str:
    """Why it can never be there as the Mac and its other pins are; "" when it can."""
    tables = case.tables
    if not tables.allowed[row, column]:
        return "the Mac's owner does not allow it"
    others = np.flatnonzero(pinned.must[row])
    taken = float(tables.need[others].sum())
    if taken + tables.need[column] <= tables.room[row]:
        return ""
    beside = "".join(
        f" and {tables.need[other] / 1e9:.1f} GB are pinned for {tables.models[other]}"
        for other in others
    )
    need, weights = tables.need[column] / 1e9, tables.weights[column] / 1e9
    return (
        f"it needs {need:.1f} GB ({weights:.1f} of weights, {need - weights:.1f} to work with)"
        f"{beside}, and the Mac has room for {tables.room[row] / 1e9:.1f} GB"
    )


def _make_room(
    case: Case, office: Office, pinned: Pinned, place: tuple[int, int], unloads_max: int
) -> str:
    """Let other models give way; why that is not possible now, "" when it is done."""
    tables, (row, column) = case.tables, place
    gone, coming = pinned.leaving[row], pinned.must[row] & ~tables.here[row]
    taken = tables.need[(tables.here[row] & ~gone) | coming].sum()
    short = float(tables.need[column] + taken - tables.room[row])
    leaving: list[int] = []
    others = np.flatnonzero(tables.here[row] & ~gone & (office.locks[row] == FREE))
    for other in others[np.argsort(office.prices[row, others], kind="stable")]:
        if short <= 0.5:
            break
        leaving.append(int(other))
        short -= float(tables.need[other])
    if short > 0.5:
        held = np.flatnonzero(tables.here[row] & (office.locks[row] != FREE) & ~case.pinned[row])
        reasons = (f"{tables.models[o]} {LOCK_WORDS[int(office.locks[row, o])]}" for o in held)
        return f"it waits for room: {', '.join(reasons)}"
    if gone.sum() + len(leaving) > case.swaps_left[row]:
        return "it waits for a swap: the Mac has made those of the hour"
    if pinned.leaving.sum() + len(leaving) > unloads_max:
        return "it waits for the next plan: the fleet gives up no more models at once"
    pinned.leaving[row, leaving] = True
    return ""
