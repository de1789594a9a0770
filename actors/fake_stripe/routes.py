"""What can be asked of the fake: a small table from method and path to a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from actors.fake_stripe import accounts, checkout, ledger, lists, refunds, transfers
from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.validation import check
from actors.fake_stripe.world import World


class Ask(NamedTuple):
    """A question whose parameters have been checked."""

    ids: tuple[str, ...]
    params: Json
    page: str | None = None


Answer = Callable[[World, Ask], Json]


@dataclass(frozen=True, slots=True)
class Route:
    """`name` is the question as `validation` and the knobs know it."""

    name: str
    ids: tuple[str, ...]
    answer: Answer


def _create(make: Callable[[World, Json], Json], world: World, ask: Ask) -> Json:
    return world.show(make(world, ask.params))


def _one(kind: str, world: World, ask: Ask) -> Json:
    return world.show(world.get(kind, ask.ids[0]))


def _page(kind: str, url: str, filters: tuple[str, ...], world: World, ask: Ask) -> Json:
    return lists.page(world, kind, ask.params, url, *filters)


def _expire(world: World, ask: Ask) -> Json:
    return world.show(checkout.expire(world, world.get("checkout.session", ask.ids[0])))


def _reverse(world: World, ask: Ask) -> Json:
    transfer = world.get("transfer", ask.ids[0])
    return world.show(transfers.reverse(world, transfer, ask.params))


def _balance(world: World, _: Ask) -> Json:
    return ledger.balance(world)


def _account(world: World, ask: Ask) -> Json:
    account = world.get("v2.core.account", ask.ids[0])
    return accounts.show(world, account, ask.params.get("include", []))


def _new_account(world: World, ask: Ask) -> Json:
    account = accounts.create(world, ask.params)
    return accounts.show(world, account, ask.params.get("include", []))


def _accounts(world: World, ask: Ask) -> Json:
    found = world.all("v2.core.account")
    answer = lists.page_v2(world, found, ask.params, ask.page, "/v2/core/accounts")
    answer["data"] = [accounts.show(world, world.objects[a["id"]], []) for a in answer["data"]]
    return answer


def _events_v2(world: World, ask: Ask) -> Json:
    return lists.events_v2(world, ask.params, ask.page)


V1_LISTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "/v1/checkout/sessions": ("checkout.session", ("payment_intent", "status")),
    "/v1/payment_intents": ("payment_intent", ()),
    "/v1/charges": ("charge", ("payment_intent", "transfer_group")),
    "/v1/refunds": ("refund", ("payment_intent", "charge")),
    "/v1/disputes": ("dispute", ("payment_intent", "charge")),
    "/v1/transfers": ("transfer", ("transfer_group", "destination")),
    "/v1/balance_transactions": ("balance_transaction", ("currency", "source", "type")),
    "/v1/events": ("event", ("type",)),
}

ANSWERS: dict[str, Answer] = {
    "POST /v1/checkout/sessions": partial(_create, checkout.create),
    "POST /v1/checkout/sessions/{id}/expire": _expire,
    "POST /v1/refunds": partial(_create, refunds.create),
    "POST /v1/transfers": partial(_create, transfers.create),
    "POST /v1/transfers/{id}/reversals": _reverse,
    "GET /v1/balance": _balance,
    "POST /v2/core/accounts": _new_account,
    "GET /v2/core/accounts": _accounts,
    "GET /v2/core/accounts/{id}": _account,
    "POST /v2/core/account_links": partial(_create, accounts.create_link),
    "GET /v2/core/events": _events_v2,
    "GET /v2/core/events/{id}": partial(_one, "v2.core.event"),
    **{
        f"GET {url}": partial(_page, kind, url, filters)
        for url, (kind, filters) in V1_LISTS.items()
    },
    **{f"GET {url}/{{id}}": partial(_one, kind) for url, (kind, _) in V1_LISTS.items()},
}
_SEGMENTS = {name: tuple(name.replace(" ", "", 1).split("/")) for name in ANSWERS}


def find(method: str, path: str) -> Route:
    """The route of a request. Raises Refusal when there is none."""
    asked = (method + path).split("/")
    for name, segments in _SEGMENTS.items():
        if len(segments) == len(asked) and all(
            want in ("{id}", got) for want, got in zip(segments, asked, strict=True)
        ):
            ids = tuple(g for w, g in zip(segments, asked, strict=True) if w == "{id}")
            return Route(name, ids, ANSWERS[name])
    raise Refusal("Unrecognized request URL; the test payments know no such route.", status=404)


def read(route: Route, params: Json) -> Ask:
    """The parameters, checked by Stripe's own types. Raises Refusal."""
    page = params.pop("page", None) if route.name.startswith("GET /v2/") else None
    return Ask(route.ids, check(route.name, params), page if isinstance(page, str) else None)


def perform(world: World, route: Route, ask: Ask) -> Json:
    """Do what was asked, whole or not at all. Raises Refusal before anything has changed."""
    paths = ask.params.get("expand", [])
    if paths and route.name.startswith("POST"):
        raise Refusal("The test payments expand what is read, not what is made.", param="expand")
    answer = route.answer(world, ask)
    return lists.expand(world, answer, paths) if paths else answer
