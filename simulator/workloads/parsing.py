"""`[[workload]]` tables as workloads. Whatever is wrong is said with file, line, key and fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from market.catalogue import Catalogue, ModelCard
from market.types import ModelId
from simulator.setup.tables import Table
from simulator.workloads.parse_laws import (
    SECONDS_MAX,
    gaps_of,
    law_of,
    pair_of,
    rhythm_of,
    seconds_of,
    turns_of,
)
from simulator.workloads.parse_people import ZIPF_MAX, consumers_of, models_of, renamed_of
from simulator.workloads.parse_terms import terms_of
from simulator.workloads.resampled import Resampled
from simulator.workloads.spec import (
    Popularity,
    Prefixes,
    Rate,
    Replayed,
    Sessions,
    Synthetic,
    Users,
    Workload,
)
from simulator.workloads.talks import TURNS_MAX
from simulator.workloads.trace_formats import FORMATS
from simulator.workloads.trace_places import TOKENS_MAX

KINDS: Final = ("synthetic", "resampled", "trace")
COMMON: Final = (
    *("name", "kind", "rate_per_s", "rho", "models", "drift", "consumers"),
    *("class", "deadline_s", "max_tokens", "preferences"),
)
DRAWN: Final = ("arrivals", "day", "spikes", "sessions", "prefixes", "users")
KEYS: Final = {
    "synthetic": (*COMMON, *DRAWN, "prompt", "output", "correlation"),
    "resampled": (*COMMON, *DRAWN, "file", "format"),
    "trace": (*COMMON, "file", "format", "speed", "from_s", "until_s", "renamed"),
}
RATE_MAX_PER_S = 1e6
RHO_MAX = 100.0
SPEED_MAX = 1e6
PREFIXES_MAX = 10_000
USERS_MAX = 100_000


def parse(
    tables: Sequence[Table], models: Sequence[ModelId], catalogue: Catalogue | None = None
) -> tuple[Workload, ...]:
    """The workloads of a scenario that offers these models.

    Raises InvalidRequest. Files of traces are not looked at before they are played.
    """
    catalogue = catalogue or Catalogue()
    cards = [catalogue.get(model) for model in models]
    workloads: list[Workload] = []
    for number, table in enumerate(tables):
        workload = _workload(table, number, cards)
        if any(each.name == workload.name for each in workloads):
            table.refuse("name", f"there is another workload {workload.name}; names differ.")
        workloads.append(workload)
    return tuple(workloads)


def _workload(table: Table, number: int, cards: Sequence[ModelCard]) -> Workload:
    kind = table.text("kind", "synthetic", "|".join(KINDS))
    table.known(KEYS[kind])
    default = "trace" if kind == "trace" else "workload"
    name = table.text("name", default if number == 0 else f"{default}{number}", r"[\w.\-]{1,24}")
    popularity = models_of(table, cards, all_of_them=kind == "trace")
    if kind == "trace":
        return _replayed(table, name, popularity, cards)
    gaps, on_off = gaps_of(table.table("arrivals"))
    consumers = consumers_of(table.table("consumers"))
    if consumers.cv is not None and gaps.family not in ("gamma", "weibull"):
        table.refuse("arrivals", "consumers with cv have arrivals of kind gamma or weibull.")
    users = _users(table)
    if users is not None:
        for key in ("rate_per_s", "rho", "arrivals", "day", "spikes"):
            if key in table.values:
                table.refuse(key, "users say how many requests there are; take one of them out.")
        if consumers.cv is not None:
            table.refuse("consumers", "users ask when they have an answer; take cv out.")
    lengths = Resampled(*_file(table)) if kind == "resampled" else pair_of(table)
    return Synthetic(
        name=name,
        lengths=lengths,
        models=popularity,
        consumers=consumers,
        rate=Rate() if users is not None else _rate(table),
        users=users,
        gaps=gaps,
        rhythm=rhythm_of(table, on_off),
        sessions=_sessions(table),
        prefixes=_prefixes(table),
        terms=terms_of(table),
    )


def _replayed(
    table: Table, name: str, popularity: Popularity, cards: Sequence[ModelCard]
) -> Replayed:
    path, form = _file(table)
    rated = [key for key in ("speed", "rate_per_s", "rho") if key in table.values]
    if len(rated) > 1:
        table.refuse(rated[1], f"give one of {' and '.join(rated)}, not both.")
    from_s = table.at_least("from_s", 0.0, 0.0, SECONDS_MAX, "seconds")
    until_s = table.number("until_s", None, 0.0, SECONDS_MAX, "seconds")
    if until_s is not None and until_s <= from_s:
        table.refuse("until_s", f"it must be after from_s, {from_s:g}.")
    return Replayed(
        name=name,
        path=path,
        models=popularity,
        consumers=consumers_of(table.table("consumers"), own=False),
        format=form,
        speed=table.at_least("speed", 1.0, 1.0 / SPEED_MAX, SPEED_MAX),
        rate=_rate(table) if rated and rated != ["speed"] else None,
        from_s=from_s,
        until_s=until_s,
        renamed=renamed_of(table, cards),
        terms=terms_of(table),
    )


def _file(table: Table) -> tuple[Path, str]:
    if "file" not in table.values:
        table.refuse(None, "it has no file; give the path of a trace.")
    form = table.text("format", "auto", "|".join(("auto", *FORMATS)))
    return Path(table.text("file", "", r"[^\x00]{1,4096}")), form


def _rate(table: Table) -> Rate:
    if ("rate_per_s" in table.values) == ("rho" in table.values):
        table.refuse(
            None,
            "give rate_per_s, or rho: the share of what the fleet can do (or users, who wait).",
        )
    return Rate(
        per_s=table.number("rate_per_s", None, 1e-6, RATE_MAX_PER_S),
        rho=table.number("rho", None, 1e-6, RHO_MAX),
    )


def _sessions(table: Table) -> Sessions | None:
    if "sessions" not in table.values:
        return None
    below = table.table("sessions")
    below.known(("turns", "think_s", "tokens_per_s", "closed"))
    return Sessions(
        turns=turns_of(below, TURNS_MAX),
        think_s=seconds_of(below, "think_s", 20.0),
        tokens_per_s=below.at_least("tokens_per_s", 30.0, 0.1, 1e6),
        closed=below.flag("closed", default=False),
    )


def _prefixes(table: Table) -> Prefixes | None:
    if "prefixes" not in table.values:
        return None
    below = table.table("prefixes")
    below.known(("count", "tokens", "zipf"))
    if isinstance(below.values.get("tokens"), dict):
        tokens = law_of(below.table("tokens"), "prompt")
    else:
        whole = Table(
            {"fixed": below.values.get("tokens", 1_000)}, below.source, below.path, below.lines
        )
        tokens = law_of(whole, "prompt", TOKENS_MAX)
    return Prefixes(
        count=below.whole("count", 1, 1, PREFIXES_MAX) or 1,
        tokens=tokens,
        zipf=below.at_least("zipf", 1.0, 0.0, ZIPF_MAX),
    )


def _users(table: Table) -> Users | None:
    if "users" not in table.values:
        return None
    below = table.table("users")
    below.known(("count", "think_s"))
    return Users(below.whole("count", 10, 1, USERS_MAX) or 1, seconds_of(below, "think_s", 20.0))
