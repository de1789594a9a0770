"""Everything the fake knows: objects by id, a clock that can be turned, what is to be sent.

Names that begin with `_` are the fake's own notes on an object and are never shown.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from actors.fake_stripe.faults import Json, Refusal, no_such
from actors.stripe.reading import API_VERSION

DAY_S = 86_400
SETTLE_S = 2 * DAY_S
EVENTS_KEPT_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """Who may ask, where notices go, and where the memory is kept.

    `settle_s` is how long a payment stays pending before it can be paid out; Stripe's own is
    two days. Without a `state_file` nothing survives the process; without a `webhook_url`
    nothing is delivered. `retry_first_s` is the pause after a first failed delivery.
    """

    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    webhook_url: str | None = None
    state_file: Path | None = None
    settle_s: float = SETTLE_S
    retry_first_s: float = 1.0


@dataclass
class World:
    """The state that a request changes; nothing in here waits."""

    settings: FakeSettings
    clock: Callable[[], float] = time.time
    public_url: str = ""
    objects: dict[str, Json] = field(default_factory=dict)
    answers: dict[str, Json] = field(default_factory=dict)
    outbox: list[Json] = field(default_factory=list)
    offset_s: float = 0.0
    refunds_wait: bool = False

    def now_s(self) -> int:
        """The fake's time: the wall's, turned forward by `acts`."""
        return int(self.clock() + self.offset_s)

    def new_id(self, prefix: str) -> str:
        return prefix + secrets.token_hex(12)

    def add(self, thing: Json) -> Json:
        self.objects[thing["id"]] = thing
        return thing

    def get(self, kind: str, key: object, *, param: str = "id", status: int = 404) -> Json:
        """The object of this kind. Raises Refusal when there is none."""
        found = self.objects.get(key) if isinstance(key, str) else None
        if found is None or found["object"] != kind:
            raise no_such(kind.rpartition(".")[2], param, status)
        return found

    def all(self, kind: str) -> Iterator[Json]:
        """Every object of a kind, the newest first."""
        return (thing for thing in reversed(self.objects.values()) if thing["object"] == kind)

    def show(self, thing: Json) -> Json:
        """The object as it is told to others, now."""
        shown = _public(thing)
        kind = thing["object"]
        if kind == "balance_transaction":
            shown["status"] = "available" if thing["available_on"] <= self.now_s() else "pending"
        elif kind == "checkout.session" and thing["status"] == "open":
            shown["url"] = f"{self.public_url}/pay/{thing['id']}"
        elif kind == "dispute":
            lines = [self.objects[line] for line in thing["balance_transactions"]]
            shown["balance_transactions"] = [self.show(line) for line in lines]
        return shown

    def announce(self, kind: str, thing: Json) -> None:
        """A snapshot event about an object of the v1 API."""
        event = {
            "id": self.new_id("evt_"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now_s(),
            "data": {"object": self.show(thing)},
            "livemode": False,
            "pending_webhooks": 0,
            "request": None,
            "type": kind,
        }
        self._publish(event)

    def announce_thin(self, kind: str, thing: Json) -> None:
        """A thin event about an object of the v2 API: it names the object and no more."""
        related = {
            "id": thing["id"],
            "type": thing["object"],
            "url": f"/v2/core/accounts/{thing['id']}",
        }
        event = {
            "id": self.new_id("evt_test_"),
            "object": "v2.core.event",
            "created": iso(self.now_s()),
            "livemode": False,
            "reason": None,
            "context": None,
            "related_object": related,
            "type": kind,
            "_created_s": self.now_s(),
        }
        self._publish(event)

    def _publish(self, event: Json) -> None:
        self.add(event)
        if self.settings.webhook_url is not None:
            self.outbox.append({"event": event["id"], "attempts": 0})

    def forget_old(self) -> None:
        """Events are kept for 30 days, as at Stripe."""
        before_s = self.now_s() - EVENTS_KEPT_S
        waiting = {entry["event"] for entry in self.outbox}
        for kind, field_name in (("event", "created"), ("v2.core.event", "_created_s")):
            old = [e["id"] for e in self.all(kind) if e[field_name] < before_s]
            for key in old:
                if key not in waiting:
                    del self.objects[key]

    def to_state(self) -> Json:
        return {
            "objects": list(self.objects.values()),
            "answers": self.answers,
            "outbox": [{k: e[k] for k in ("event", "attempts")} for e in self.outbox],
            "offset_s": self.offset_s,
        }

    def restore(self, state: Json) -> None:
        self.objects = {thing["id"]: thing for thing in state["objects"]}
        self.answers = dict(state["answers"])
        self.outbox = list(state["outbox"])
        self.offset_s = float(state["offset_s"])


def iso(at_s: int) -> str:
    """A moment as the v2 API writes it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _public(thing: Json) -> Json:
    return {k: copy.deepcopy(value) for k, value in thing.items() if not k.startswith("_")}


def only_modelled(params: Json, *names: str) -> None:
    """Refuse what Stripe allows and the fake would silently ignore. Raises Refusal."""
    for name in params:
        if name not in names:
            raise Refusal(
                f"The test payments do not model {name}.", param=name, code="not_modelled"
            )
