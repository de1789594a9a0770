"""Who asks for what, as a workload's table says it: models, their drift, consumers."""

from __future__ import annotations

from collections.abc import Sequence

from market.catalogue import ModelCard
from market.money import NANO_PER_USD
from market.types import ModelId
from simulator.setup.tables import Table
from simulator.workloads.gaps import CV_MAX, CV_MIN
from simulator.workloads.parse_laws import SECONDS_MAX, SIGMA_MAX
from simulator.workloads.spec import Consumers, Drift, Popularity

CONSUMERS_MAX = 100_000
OWN_PROCESSES_MAX = 10_000
"""Of consumers that have each a process of its own: all are looked at in each window."""

ZIPF_MAX = 5.0
BUDGET_USD_MAX = 1e9


def models_of(table: Table, cards: Sequence[ModelCard], *, all_of_them: bool) -> Popularity:
    """Weights of models, as shares; all alike where none are given. `all_of_them` keeps those
    without a weight too: a trace may name them.
    """
    known = {card.id: card for card in cards}
    chosen, weights = list(cards), [1.0] * len(cards)
    if "models" in table.values:
        below = table.table("models")
        for model in below.values:
            if model not in known:
                below.refuse(model, f"the scenario has no such model; it has {', '.join(known)}.")
        chosen = [known[ModelId(model)] for model in below.values]
        weights = [below.at_least(model, 0.0, 0.0, 1e9) for model in below.values]
        if sum(weights) <= 0.0:
            below.refuse(None, "at least one model must have a weight above 0.")
        if all_of_them:
            rest = [card for card in cards if card not in chosen]
            chosen, weights = chosen + rest, weights + [0.0] * len(rest)
    total = sum(weights)
    drift = None
    if "drift" in table.values:
        below = table.table("drift")
        below.known(("every_s", "share"))
        drift = Drift(
            every_s=below.at_least("every_s", 3_600.0, 1.0, SECONDS_MAX, "seconds"),
            share=below.at_least("share", 1.0, 0.0, 1.0),
        )
    return Popularity(tuple(chosen), tuple(weight / total for weight in weights), drift)


def renamed_of(table: Table, cards: Sequence[ModelCard]) -> tuple[tuple[str, ModelCard], ...]:
    """What a trace's names of models stand for; "*" is every other name."""
    known = {card.id: card for card in cards}
    below = table.table("renamed")
    renamed = []
    for name, model in below.values.items():
        if model not in known:
            below.refuse(name, f"it must be one of the scenario's models: {', '.join(known)}.")
        renamed.append((name, known[model]))
    return tuple(renamed)


def consumers_of(table: Table, *, own: bool = True) -> Consumers:
    """How many and how unlike; `own` is whether they may have arrivals and lengths of their own."""
    keys = ("count", "zipf", "length_sigma", "budget_usd", "cv", "cv_90")
    table.known(keys if own else ("count", "zipf", "budget_usd"))
    cv = None
    if "cv" in table.values or "cv_90" in table.values:
        middle = table.at_least("cv", 1.0, CV_MIN, CV_MAX)
        cv = (middle, table.at_least("cv_90", middle, middle, CV_MAX))
    most = OWN_PROCESSES_MAX if cv is not None else CONSUMERS_MAX
    budget = table.number("budget_usd", None, 0.0, BUDGET_USD_MAX, "dollars")
    return Consumers(
        count=table.whole("count", 10, 1, most) or 1,
        zipf=table.at_least("zipf", 1.0, 0.0, ZIPF_MAX),
        cv=cv,
        length_sigma=table.at_least("length_sigma", 0.0, 0.0, SIGMA_MAX),
        budget_nano=None if budget is None else round(budget * NANO_PER_USD),
    )
