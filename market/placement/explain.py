"""What `coster placement` shows: the plan, each model and each Mac, and what a copy would take.

Plain JSON-able data, made only when somebody asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from market.placement.case import Case
from market.placement.permits import Office, Quote
from market.placement.tables import FAILED, LEAVING, LOADING, READY
from market.placement.words import demand, why_here

STATES = {LOADING: "loading", READY: "ready", LEAVING: "leaving", FAILED: "failed"}

CHOICES_MAX = 8
"""Macs listed for one model, the best first."""


def models_as_json(case: Case) -> list[dict[str, Any]]:
    """Each model: what is asked, what there is, and where it would be loaded next."""
    office = Office(case)
    return [model_as_json(case, office, column) for column in range(len(case.tables.models))]


def model_as_json(case: Case, office: Office, column: int) -> dict[str, Any]:
    tables = case.tables
    choices = office.choices(column)
    return {
        "model": tables.models[column],
        "waiting": int(tables.waiting[column]),
        "asked_per_s": round(float(tables.mean[column]), 3),
        "planned_per_s": round(float(tables.high[column]), 3),
        "dispersion": round(float(tables.dispersion[column]), 3),
        "served_per_s_at_most": round(float(tables.able[column]), 3),
        "ready": int((tables.place[:, column] == READY).sum()),
        "loading": int((tables.place[:, column] == LOADING).sum()),
        "waiting_has_cost": round(float(case.paid[column]), 1),
        "gb": round(float(tables.need[column]) / 1e9, 3),
        "summary": demand(tables, column),
        "next": [_choice_as_json(case, office, quote) for quote in choices[:CHOICES_MAX]],
    }


def _choice_as_json(case: Case, office: Office, quote: Quote) -> dict[str, Any]:
    tables = case.tables
    return {
        "machine": tables.machines[quote.row],
        "possible": office.grants(quote),
        "load_s": round(quote.load_s, 1),
        "gives_way": [tables.models[other] for other in quote.leaving],
        "price": round(quote.price, 1),
        "what_it_takes": office.in_words(quote),
    }


def macs_as_json(case: Case) -> list[dict[str, Any]]:
    """Each Mac that counts: its room, its models and why they stay."""
    office = Office(case)
    return [_mac_as_json(case, office, row) for row in range(len(case.tables.machines))]


def mac_as_json(case: Case, row: int) -> dict[str, Any]:
    """The same of one Mac."""
    return _mac_as_json(case, Office(case), row)


def _mac_as_json(case: Case, office: Office, row: int) -> dict[str, Any]:
    tables = case.tables
    return {
        "machine": tables.machines[row],
        "open": bool(tables.open[row]),
        "room_gb": round(float(tables.room[row]) / 1e9, 3),
        "free_gb": round(float(tables.free[row]) / 1e9, 3),
        "busy_share": round(float((tables.busy[row] / tables.rate[row]).sum()), 4),
        "swaps_left": int(case.swaps_left[row]),
        "models": [
            {
                "model": tables.models[column],
                "state": STATES[int(tables.place[row, column])],
                "since_s": round(float(tables.since_s[row, column]), 1),
                "gb": round(float(tables.need[column]) / 1e9, 3),
                "pinned": bool(case.pinned[row, column]),
                "why": why_here(case, int(office.locks[row, column]), row, int(column)),
            }
            for column in np.flatnonzero(tables.place[row])
        ],
    }
