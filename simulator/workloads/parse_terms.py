"""What goes for every request of a workload, as its table says it: class, deadline, wishes."""

from __future__ import annotations

from typing import Any, get_args

from market.money import ASK_PCT_MAX
from market.policy.preferences import NO_PREFERENCES, TRUST, Preferences, Sort
from market.types import ProviderId, RequestClass
from simulator.setup.tables import Table
from simulator.workloads.parse_laws import SECONDS_MAX
from simulator.workloads.spec import Terms, TokenLimit, Wishes
from simulator.workloads.trace_places import TOKENS_MAX

PRICE_NANO_MAX = 10**12


def terms_of(table: Table) -> Terms:
    """`class`, `deadline_s`, `max_tokens` and `preferences`."""
    classes = get_args(RequestClass)
    request_class: Any = table.text("class", "interactive", "|".join(classes))
    return Terms(
        request_class=request_class,
        deadline_s=table.number("deadline_s", None, 1e-3, SECONDS_MAX, "seconds"),
        max_tokens=_max_tokens(table),
        wishes=_wishes(table.table("preferences")),
    )


def _max_tokens(table: Table) -> TokenLimit:
    value: Any = table.values.get("max_tokens", "usual")
    if isinstance(value, str):
        if value not in ("exact", "model", "usual"):
            table.refuse("max_tokens", "it must be a number, 'usual', 'model' or 'exact'.")
        return value  # type: ignore[return-value]
    return table.whole("max_tokens", None, 1, TOKENS_MAX) or 1


def _wishes(table: Table) -> Wishes:
    table.known(
        (
            *("share", "sort", "order", "only", "ignore", "allow_fallbacks", "quantizations"),
            *("max_price_pct", "max_price_in_nano", "max_price_out_nano", "trust"),
            *("preferred_max_latency_ms", "preferred_min_tps"),
        )
    )
    sort: Any = table.text("sort", "", "|".join(get_args(Sort))) or None
    return Wishes(
        preferences=Preferences(
            order=_providers(table, "order"),
            only=_providers(table, "only"),
            ignore=_providers(table, "ignore"),
            allow_fallbacks=table.flag("allow_fallbacks", default=True),
            sort=sort,
            max_price_in_nano=table.whole("max_price_in_nano", None, 0, PRICE_NANO_MAX),
            max_price_out_nano=table.whole("max_price_out_nano", None, 0, PRICE_NANO_MAX),
            trust=table.text("trust", "", "|".join(TRUST)) or None,
            quantizations=tuple(_texts(table, "quantizations")),
            preferred_max_latency_ms=table.number("preferred_max_latency_ms", None, 0.0, 1e9),
            preferred_min_tps=table.number("preferred_min_tps", None, 0.0, 1e6),
        )
        if table.values
        else NO_PREFERENCES,
        price_pct=_price_pct(table),
        share=table.at_least("share", 1.0, 0.0, 1.0),
    )


def _price_pct(table: Table) -> tuple[float, float] | None:
    """A ceiling in per cent of the market's price; two are the lowest and highest of consumers."""
    value = table.values.get("max_price_pct")
    if not isinstance(value, list):
        pct = table.number("max_price_pct", None, 1.0, ASK_PCT_MAX)
        return None if pct is None else (pct, pct)
    numbers = [each for each in value if type(each) in (int, float)]
    if len(numbers) != 2 or len(value) != 2 or not 1 <= numbers[0] <= numbers[1] <= ASK_PCT_MAX:
        table.refuse("max_price_pct", f"give one number or two, from 1 to {ASK_PCT_MAX}.")
    return float(numbers[0]), float(numbers[1])


def _providers(table: Table, key: str) -> tuple[ProviderId, ...]:
    return tuple(ProviderId(each) for each in _texts(table, key))


def _texts(table: Table, key: str) -> list[str]:
    values = table.values.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        table.refuse(key, "it must be a list of texts.")
    return values
