"""Lists of both APIs, newest first, in pages; and the expansion of ids into objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from actors.fake_stripe.faults import Json, Refusal
from actors.fake_stripe.world import World

PAGE_OBJECTS = 10
PAGE_OBJECTS_MAX = 100
EXPAND_DEPTH_MAX = 4
COMPARE = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def page(world: World, kind: str, params: Json, url: str, *filters: str) -> Json:
    """A v1 list: objects whose `filters` fields equal the parameters of those names."""
    wanted = {name: params[name] for name in filters if name in params}
    unknown = params.keys() - {*filters, "created", "limit", "starting_after", "ending_before"}
    if unknown - {"expand"}:
        name = min(unknown - {"expand"})
        raise Refusal(f"The test payments do not filter by {name}.", param=name)
    found = [
        thing
        for thing in world.all(kind)
        if all(thing.get(name) == value for name, value in wanted.items())
        and _within(thing["created"], params.get("created", {}))
    ]
    limit = _limit(params)
    ids = [thing["id"] for thing in found]
    if "starting_after" in params:
        rest = found[_position(ids, params["starting_after"], "starting_after") + 1 :]
        part, more = rest[:limit], len(rest) > limit
    elif "ending_before" in params:
        rest = found[: _position(ids, params["ending_before"], "ending_before")]
        part, more = rest[-limit:], len(rest) > limit
    else:
        part, more = found[:limit], len(found) > limit
    shown = [world.show(thing) for thing in part]
    return {"object": "list", "data": shown, "has_more": more, "url": url}


def events_v2(world: World, params: Json, page_token: str | None) -> Json:
    """The v2 list of thin events, with the address of the next page."""
    created = {
        name: _moment(bound, f"created.{name}") for name, bound in params.get("created", {}).items()
    }
    types, subject = params.get("types"), params.get("object_id")
    found = [
        event
        for event in world.all("v2.core.event")
        if _within(event["_created_s"], created)
        and (types is None or event["type"] in types)
        and (subject is None or event["related_object"]["id"] == subject)
    ]
    return page_v2(world, found, params, page_token, "/v2/core/events")


def page_v2(
    world: World, found: Iterable[Json], params: Json, page_token: str | None, url: str
) -> Json:
    """A v2 list starts after the object that its page token names."""
    items, limit = list(found), _limit(params)
    if page_token is not None:
        items = items[_position([item["id"] for item in items], page_token, "page") + 1 :]
    part = items[:limit]
    following = None
    if len(items) > limit:
        query = _flat({**params, "limit": limit, "page": part[-1]["id"]})
        following = f"{url}?{urlencode(query)}"
    shown = [world.show(item) for item in part]
    return {"data": shown, "next_page_url": following, "previous_page_url": None}


def expand(world: World, thing: Json, paths: list[str]) -> Json:
    """Replace ids by their objects along each path, `data.source` meaning in every row."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > EXPAND_DEPTH_MAX:
            raise Refusal("You cannot expand more than 4 levels of a property.", param="expand")
        _expand(world, thing, parts)
    return thing


def _expand(world: World, thing: Any, parts: list[str]) -> None:
    if isinstance(thing, list):
        for item in thing:
            _expand(world, item, parts)
        return
    if not parts or not isinstance(thing, dict):
        return
    head, rest = parts[0], parts[1:]
    if head not in thing:
        raise Refusal("This property cannot be expanded.", param="expand")
    value = thing[head]
    if isinstance(value, str):
        known = world.objects.get(value)
        if known is None:
            raise Refusal("This property cannot be expanded.", param="expand")
        thing[head] = value = world.show(known)
    _expand(world, value, rest)


def _within(value: float, bounds: Any) -> bool:
    if isinstance(bounds, int):
        return value == bounds
    return all(COMPARE[name](value, bound) for name, bound in bounds.items())


def _limit(params: Json) -> int:
    limit = params.get("limit", PAGE_OBJECTS)
    if not 1 <= limit <= PAGE_OBJECTS_MAX:
        raise Refusal("The limit must be from 1 to 100.", param="limit")
    return int(limit)


def _position(ids: list[str], key: str, param: str) -> int:
    try:
        return ids.index(key)
    except ValueError:
        raise Refusal(
            "No such object in this list.", param=param, code="resource_missing"
        ) from None


def _moment(text: str, param: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise Refusal("Not an RFC 3339 timestamp.", param=param) from None


def _flat(params: Json) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, dict):
            pairs += [(f"{name}[{key}]", str(below)) for key, below in value.items()]
        elif isinstance(value, list):
            pairs += [(f"{name}[{at}]", str(below)) for at, below in enumerate(value)]
        else:
            pairs.append((name, str(value)))
    return pairs
