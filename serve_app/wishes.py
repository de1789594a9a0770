"""What a caller wishes beside the answer itself: who serves it, by when, for how much.

None of it changes a word of what a model says. `provider` has a module of its own; here are
the models to fall back on, the deadline, the budget and the class, and how they fit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from market.errors import InvalidRequest
from market.policy.preferences import NO_PREFERENCES, Own, Preferences, Sort
from market.types import MachineId, RequestClass
from serve_app.checks import Check, above_zero, array_of, dollars, one_of, string
from serve_app.limits import DEADLINE_S_MAX
from serve_app.preferences import ProviderWish, contradiction, provider

MODELS: Final = 8  # most models to fall back on
MODEL_CHARS: Final = 300
BUDGET_USD_MAX: Final = 1_000_000
SESSION_CHARS: Final = 1_000  # a longer name of a conversation is no name
ROUTE_HEADER: Final = "x-coster-route"
_ROUTES: Final[Mapping[str, Own]] = {"self": "self", "prefer": "prefer"}

SUFFIXES: Final[Mapping[str, Sort]] = {":floor": "price", ":nitro": "throughput"}
"""Endings of a model's name that stand for what its Macs are sorted by."""

CLASSES: Final[Mapping[str, RequestClass]] = {
    "auto": "interactive",
    "default": "interactive",
    "priority": "interactive",
    "scale": "interactive",
    "flex": "batch",
}
"""OpenAI's service tiers. All cost the same here; flex waits for the others, and longer."""

USED: Final[Mapping[str, Check]] = {
    "provider": provider(),
    "models": array_of(string(MODEL_CHARS), MODELS),
    "deadline_s": above_zero(DEADLINE_S_MAX, "seconds"),
    "max_cost_usd": dollars(BUDGET_USD_MAX),
    "service_tier": one_of(*CLASSES),
}
NO_WISH: Final = ProviderWish()
SESSION: Final = ("prompt_cache_key", "user")
"""Names of a conversation or of who leads it, the better one first. Anything else is no name."""


@dataclass(frozen=True, slots=True)
class ModelWish:
    """A model by its id, and what the caller's name for it said of its Macs."""

    id: str
    sort: Sort | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """`models` in the order in which they are tried; the first is the one that is asked for.

    `deadline_s` counts from the request's arrival. `private` and `own_field` name the fields
    by which nothing may be kept by strangers, and by which own machines are wanted.
    """

    models: tuple[ModelWish, ...]
    preferences: Preferences = NO_PREFERENCES
    deadline_s: float | None = None
    budget_nano: int | None = None
    request_class: RequestClass = "interactive"
    service_tier: str | None = None
    session: str = ""
    private: str | None = None
    own_field: str = "provider.own"

    def of(self, model: ModelWish) -> Preferences:
        """What is wished of the Macs of one of the models."""
        if model.sort is None or model.sort == self.preferences.sort:
            return self.preferences
        return replace(self.preferences, sort=model.sort)

    def owned(self, machines: tuple[MachineId, ...]) -> Wishes:
        """The same, with the caller's own machines; InvalidRequest when they must be and are not.

        To prefer one's own without having any is no wish at all.
        """
        wished = self.preferences
        if wished.own is None:
            return self
        if wished.own == "self" and not machines:
            raise InvalidRequest(
                f"{self.own_field} is self, and no machine is linked to this account; have one "
                "linked, or leave it out.",
                self.own_field,
                "no_own_machine",
            )
        return replace(self, preferences=replace(wished, own_machines=machines))


def read_wishes(
    found: Mapping[str, Any], session: str, route: str | None
) -> tuple[Wishes, tuple[str, ...]]:
    """The wishes among a body's checked fields, and the names of what was ignored in them.

    `route` is the header that means the same as `provider.own`. Raises InvalidRequest naming
    both sides of a contradiction.
    """
    told: ProviderWish = found.get("provider", NO_WISH)
    preferences, own_field = _with_route(told.preferences, route)
    models = _models(found.get("model"), found.get("models", ()), preferences.sort)
    if told.private is not None and preferences.own != "self":
        raise InvalidRequest(
            f"{told.private}: the Macs of this market belong to many owners, and what they keep of "
            'a prompt cannot be promised. Set provider.own to "self" to be served by machines of '
            "your own, or leave it out.",
            told.private,
            "unsupported_parameter",
        )
    tier, budget = found.get("service_tier"), found.get("max_cost_usd")
    wishes = Wishes(
        models=models,
        preferences=preferences,
        deadline_s=found.get("deadline_s"),
        budget_nano=None if budget is None else int(budget * Decimal(10**9)),
        request_class="interactive" if tier is None else CLASSES[tier],
        service_tier=tier,
        session=session,
        private=told.private,
        own_field=own_field,
    )
    return wishes, told.ignored


def check_parameters(found: Mapping[str, Any], ignored: Sequence[str], shown: str) -> None:
    """Refuse a request that wants every parameter used, if one is not; `shown` are their names."""
    told: ProviderWish = found.get("provider", NO_WISH)
    if told.require_parameters and ignored:
        raise InvalidRequest(
            f"provider.require_parameters is true and these would be ignored: {shown}. Leave them "
            "out, or leave it out.",
            "provider.require_parameters",
            "unsupported_parameter",
        )


def _with_route(preferences: Preferences, route: str | None) -> tuple[Preferences, str]:
    if route is None:
        return preferences, "provider.own"
    own = _ROUTES.get(route)
    if own is None:
        raise InvalidRequest(
            f"The header {ROUTE_HEADER} must be one of {', '.join(_ROUTES)}.",
            ROUTE_HEADER,
            "invalid_value",
        )
    if preferences.own not in (None, route):
        raise contradiction("provider.own", ROUTE_HEADER, f"one is not {route}, the other is")
    return replace(preferences, own=own), ROUTE_HEADER


def _models(first: str | None, others: Sequence[str], sort: Sort | None) -> tuple[ModelWish, ...]:
    """The models in order, each once; a suffix that the sort contradicts is refused."""
    found: dict[str, ModelWish] = {}
    for at, name in enumerate((*(() if first is None else (first,)), *others)):
        field = "model" if at == 0 and first is not None else "models"
        wish = _named(name)
        if wish.sort is not None and sort not in (None, wish.sort):
            raise contradiction(
                field, "provider.sort", f"the ending of a name says {wish.sort}, the other {sort}"
            )
        found.setdefault(wish.id, wish)
    return tuple(found.values())


def _named(name: str) -> ModelWish:
    for suffix, sort in SUFFIXES.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return ModelWish(name.removesuffix(suffix), sort)
    return ModelWish(name)
