"""The `provider` object of a request: which Macs may serve it, and which are liked better.

OpenRouter's names and shapes, so that what is written for it works here. What this market
cannot promise is refused; what it does not know is ignored and named, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from market.accounting.prices import PRICE_NANO_MAX
from market.errors import InvalidRequest
from market.policy.preferences import NO_PREFERENCES, TRUST, Preferences
from serve_app.checks import Check, above_zero, array_of, boolean, dollars, one_of, string, wrong

PROVIDERS: Final = 64  # most ids in one list
PROVIDER_CHARS: Final = 80
LATENCY_S_MAX: Final = 600.0
TPS_MAX: Final = 1e6  # tokens per second
USD_PER_1M_MAX: Final = PRICE_NANO_MAX // 1_000
"""No price is higher, so no ceiling need be."""

SORTS: Final = ("price", "latency", "throughput")
OWN: Final = ("self", "prefer")
PERCENTILES: Final = ("p50", "p75", "p90", "p99")
_USED_PERCENTILE: Final = "p50"

QUANTIZATIONS: Final[Mapping[str, str]] = {
    **{name: name for name in ("2bit", "3bit", "4bit", "5bit", "6bit", "8bit")},
    **{name: name for name in ("fp4", "fp6", "fp8", "fp16", "bf16", "fp32", "unknown", "none")},
    "int4": "4bit",
    "int8": "8bit",
}
"""OpenRouter's words and ours, and what each is called here."""


@dataclass(frozen=True, slots=True)
class ProviderWish:
    """What the object came to. `ignored` are full names of what was not used.

    `private` is the field, if any, by which nothing of the request may be kept by a stranger.
    """

    preferences: Preferences = NO_PREFERENCES
    ignored: tuple[str, ...] = ()
    require_parameters: bool = False
    private: str | None = None


def _sort() -> Check:
    """A word, or {"by": word}."""
    word = one_of(*SORTS)

    def apply(field: str, value: Any) -> tuple[str | None, tuple[str, ...]]:
        if type(value) is not dict:
            return word.apply(field, value), ()
        by = value.get("by")
        if value.get("partition") not in (None, "model"):
            raise InvalidRequest(
                f"{field}.partition can only be model: the first model that can be served is used, "
                "whatever Macs of the others cost.",
                f"{field}.partition",
                "unsupported_parameter",
            )
        ignored = _unknown(field, value, ("by", "partition"))
        return None if by is None else word.apply(f"{field}.by", by), ignored

    inside = {"by": word.schema, "partition": {"enum": ["model", None]}}
    return Check(apply, {"anyOf": [word.schema, {"type": "object", "properties": inside}]})


def _percentile(number: Check) -> Check:
    """A number, or {"p50": number}: of the others we make no prediction that could be met."""

    def apply(field: str, value: Any) -> tuple[float | None, tuple[str, ...]]:
        if type(value) is not dict:
            return number.apply(field, value), ()
        found = {
            name: number.apply(f"{field}.{name}", value[name])
            for name in PERCENTILES
            if value.get(name) is not None
        }
        ignored = _unknown(field, value, (_USED_PERCENTILE,))
        return found.get(_USED_PERCENTILE), ignored

    inside = dict.fromkeys(PERCENTILES, number.schema)
    return Check(apply, {"anyOf": [number.schema, {"type": "object", "properties": inside}]})


def _max_price() -> Check:
    """{"prompt", "completion"} in USD per 1M tokens; {"request"} is a fee that we do not have."""
    usd = dollars(USD_PER_1M_MAX)
    parts = ("prompt", "completion", "request")

    def apply(field: str, value: Any) -> tuple[int | None, int | None, tuple[str, ...]]:
        if type(value) is not dict:
            raise wrong(field, "an object with prompt and completion in USD per 1M tokens", value)
        found = {
            name: usd.apply(f"{field}.{name}", value[name])
            for name in parts
            if value.get(name) is not None
        }
        ignored = _unknown(field, value, parts)
        return _nano(found.get("prompt")), _nano(found.get("completion")), ignored

    return Check(apply, {"type": "object", "properties": dict.fromkeys(parts, usd.schema)})


def _nano(usd_per_1m: Decimal | None) -> int | None:
    """Nano-USD per token, rounded down: prices are whole, so nothing is let in by rounding."""
    return None if usd_per_1m is None else int(usd_per_1m * 1_000)


def _unknown(field: str, value: Mapping[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{field}.{name}" for name in value if name not in known)


_IDS: Final = array_of(string(PROVIDER_CHARS), PROVIDERS)


def _somebody() -> Check:
    """Ids, one at least: an empty list would ask for nobody, and must not be served by anyone."""

    def apply(field: str, value: Any) -> tuple[str, ...]:
        found: tuple[str, ...] = _IDS.apply(field, value)
        if not found:
            raise InvalidRequest(
                f"{field} names nobody; name a provider, or leave it out.", field, "names_nobody"
            )
        return found

    return Check(apply, {**_IDS.schema, "minItems": 1})


FIELDS: Final[Mapping[str, Check]] = {
    "order": _IDS,
    "only": _somebody(),
    "ignore": _IDS,
    "allow_fallbacks": boolean(),
    "sort": _sort(),
    "max_price": _max_price(),
    "trust": one_of(*TRUST),
    "quantizations": array_of(one_of(*QUANTIZATIONS), len(QUANTIZATIONS)),
    "preferred_max_latency": _percentile(above_zero(LATENCY_S_MAX, "seconds")),
    "preferred_min_throughput": _percentile(above_zero(TPS_MAX, "tokens per second")),
    "require_parameters": boolean(),
    "own": one_of(*OWN),
    "data_collection": one_of("allow", "deny"),
    "zdr": boolean(),
}


def provider() -> Check:
    """The whole object."""
    properties = {name: rule.schema for name, rule in FIELDS.items()}
    return Check(_read, {"type": "object", "properties": properties})


def _read(field: str, value: Any) -> ProviderWish:
    if type(value) is not dict:
        raise wrong(field, "an object", value)
    found = {
        name: rule.apply(f"{field}.{name}", value[name])
        for name, rule in FIELDS.items()
        if value.get(name) is not None
    }
    ignored = list(_unknown(field, value, tuple(FIELDS)))
    sort, latency_s, tps, price_in, price_out = None, None, None, None, None
    if "sort" in found:
        sort, more = found["sort"]
        ignored += more
    if "preferred_max_latency" in found:
        latency_s, more = found["preferred_max_latency"]
        ignored += more
    if "preferred_min_throughput" in found:
        tps, more = found["preferred_min_throughput"]
        ignored += more
    if "max_price" in found:
        price_in, price_out, more = found["max_price"]
        ignored += more
    fallbacks, order = found.get("allow_fallbacks", True), found.get("order", ())
    if not fallbacks and not order:
        ignored.append(f"{field}.allow_fallbacks")  # there is no first choice to stay with
    wished = Preferences(
        order=order,
        only=found.get("only", ()),
        ignore=found.get("ignore", ()),
        allow_fallbacks=fallbacks or not order,
        sort=sort,
        max_price_in_nano=price_in,
        max_price_out_nano=price_out,
        trust=found.get("trust"),
        quantizations=_called_here(found.get("quantizations", ())),
        preferred_max_latency_ms=None if latency_s is None else latency_s * 1e3,
        preferred_min_tps=tps,
        own=found.get("own"),
    )
    _check_agrees(field, wished)
    private = "zdr" if found.get("zdr") else None
    if found.get("data_collection") == "deny":
        private = private or "data_collection"
    return ProviderWish(
        NO_PREFERENCES if wished == NO_PREFERENCES else wished,
        tuple(ignored),
        found.get("require_parameters", False),
        None if private is None else f"{field}.{private}",
    )


def _called_here(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(QUANTIZATIONS[name] for name in names))


def _check_agrees(field: str, wished: Preferences) -> None:
    """Refuse lists that leave nobody, whoever is there; both names are told."""
    only, ignore = set(wished.only), set(wished.ignore)
    order = set() if wished.allow_fallbacks else set(wished.order)
    pairs = (
        ("only", "ignore", only and only <= ignore, "every provider of only is ignored"),
        ("order", "ignore", order and order <= ignore, "every provider of order is ignored"),
        ("order", "only", order and only and not order & only, "no provider is in both"),
        ("order", "only", order and only and order & only <= ignore, "what both have is ignored"),
    )
    for one, other, contradict, why in pairs:
        if contradict:
            lost = ", and allow_fallbacks is false" if one == "order" else ""
            raise contradiction(f"{field}.{one}", f"{field}.{other}", f"{why}{lost}")


def contradiction(one: str, other: str, why: str) -> InvalidRequest:
    """Two wishes that nobody can meet together."""
    return InvalidRequest(
        f"{one} and {other} contradict each other: {why}. Leave one of them out.",
        one,
        "contradicting_preferences",
    )
