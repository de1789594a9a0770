"""Which models one Mac has, gets and lets go: a pure state machine under `provider_state`.

The router says which models a Mac should have, most urgent first; this decides what to load and
to unload next, and the actor does it. One model is loaded at a time, nothing is unloaded while
its jobs run, and memory is never promised twice.

    (wanted) ──► loading ──loaded──► ready ──not wanted──► leaving ──idle──► gone
                    │  ▲               │ ▲                    │
                    ▼  └─after a wait─┐│ └───wanted again─────┘
                  failed ◄─────────────┴── its engine stopped
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from market.hardware import GIB
from market.routing.messages import Place, PlaceState
from market.types import ModelFacts, ModelId

RETRY_DELAYS_S: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before each new try of a model in a row; after the last one it is given up."""

LEAVING_GRACE_S = 1.0
"""How long a model that leaves still takes jobs: those that were granted before the router
heard of it are under way, and none of them is to be turned back.
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a Mac may load: the market's models that it may have, in the market's order.

    `weight_bytes` goes with `models`; 0 is not known. `memory_bytes` is what all that is loaded
    may take together; 0 is no known limit.
    """

    models: tuple[ModelId, ...] = ()
    weight_bytes: tuple[int, ...] = ()
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Make this model's engine and load it; then report `loaded` or `load_failed`."""

    model: ModelId


@dataclass(frozen=True, slots=True)
class Unload:
    """Close this model's engine and free what it holds; then report `unloaded`."""

    model: ModelId


Standing = Literal["starting", "ready", "failing"]


@dataclass(slots=True)
class _Held:
    """One place. While `closing`, the engine is being closed and its memory is not free yet."""

    state: PlaceState
    since_s: float
    reason: str = ""
    facts: ModelFacts | None = None
    jobs: int = 0
    closing: bool = False
    no_room: bool = False
    unwanted: bool = False  # given up, and not asked for any more
    retry_at_s: float = inf
    failures: int = 0

    def enter(self, state: PlaceState, now_s: float, reason: str = "") -> None:
        self.state, self.since_s, self.reason = state, now_s, reason

    @property
    def declared(self) -> PlaceState:
        """What the router hears. A model that is about to be tried again is still being loaded:
        one that is told as failed is placed elsewhere, and barred here for minutes.
        """
        trying = self.state == "failed" and self.retry_at_s < inf
        return "loading" if trying else self.state


class Places:
    """The places of one Mac. `advance` says what to do next; the rest says what happened."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._bytes = dict(zip(offer.models, offer.weight_bytes, strict=False))
        self._held: dict[ModelId, _Held] = {}
        self._wanted: tuple[ModelId, ...] | None = None
        self._asked = False
        self.tries = 0  # after failures, in all

    # ── reading ───────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[tuple[ModelId, _Held]]:
        return iter(self._held.items())

    def facts_of(self, model: ModelId, now_s: float) -> ModelFacts | None:
        """The facts of a model that takes jobs now."""
        held = self._held.get(model)
        if held is None or held.closing or held.state not in ("ready", "leaving"):
            return None
        if held.state == "leaving" and now_s - held.since_s >= LEAVING_GRACE_S:
            return None
        return held.facts

    def ready(self) -> tuple[ModelFacts, ...]:
        """The facts of the models that serve."""
        return tuple(
            held.facts for held in self._held.values() if held.state == "ready" and held.facts
        )

    def readings(self, now_s: float) -> tuple[Place, ...]:
        """All places as the router hears of them."""
        return tuple(
            Place(model, held.declared, held.reason, max(0.0, now_s - held.since_s), held.facts)
            for model, held in self._held.items()
        )

    def signature(self) -> object:
        """Equal as long as nothing changed that is worth telling at once."""
        return tuple((model, held.declared, held.reason) for model, held in self._held.items())

    def is_closing(self, model: ModelId) -> bool:
        """Whether the model's engine is on its way out, or gone."""
        held = self._held.get(model)
        return held is None or held.closing or held.state not in ("ready", "leaving")

    def standing(self) -> tuple[Standing, str]:
        """How the Mac stands by its places alone: ready, starting or failing, and why."""
        states = {held.state for held in self._held.values()}
        if "ready" in states:
            return "ready", ""
        for model, held in self._held.items():
            if held.state == "loading":
                again = " again" if held.failures else ""
                return "starting", f"loading {model}{again}"
        if not self._asked:
            return "starting", "waiting for the router's first orders"
        for model in self._fitting(self._wanted_now()):
            held_or_none = self._held.get(model)
            if held_or_none is None or held_or_none.state == "leaving":
                return "starting", f"{model} waits until there is room for it"
        for held in self._held.values():
            if held.state == "failed":
                return "failing", held.reason
        return "ready", "no model is asked of it"

    def hopeless(self) -> bool:
        """Whether nothing serves, and nothing that could will be tried again."""
        return all(
            held.state == "failed" and held.retry_at_s == inf for held in self._held.values()
        )

    # ── what happens ──────────────────────────────────────────────────────────────────

    def want(self, models: Sequence[ModelId] | None) -> None:
        """The router's orders; None leaves it as it is, or to the Mac when nothing was said."""
        self._asked = True
        if models is not None:
            self._wanted = tuple(dict.fromkeys(models))

    def loaded(self, facts: ModelFacts, now_s: float) -> None:
        held = self._held[facts.model]
        held.facts = facts
        self._bytes[facts.model] = facts.weight_bytes  # as it is, whatever was expected
        held.enter("ready", now_s)

    def failed(self, model: ModelId, reason: str, now_s: float, *, for_good: bool) -> None:
        """A load came to nothing, or a loaded model's engine stopped and is to be closed."""
        held = self._held[model]
        held.closing = held.state in ("ready", "leaving")
        held.jobs = 0
        held.failures += 1
        tried = held.failures > len(RETRY_DELAYS_S)
        if tried:
            reason = f"{reason}; {len(RETRY_DELAYS_S)} more tries did not help"
        held.enter("failed", now_s, reason)
        give_up = for_good or tried
        held.retry_at_s = inf if give_up else now_s + RETRY_DELAYS_S[held.failures - 1]

    def unloaded(self, model: ModelId) -> None:
        """The engine is closed, and its memory free."""
        held = self._held[model]
        held.closing = False
        held.facts = None
        if held.state == "leaving":
            del self._held[model]

    def began(self, model: ModelId) -> None:
        """A job of this model runs."""
        self._held[model].jobs += 1

    def ended(self, model: ModelId, *, well: bool) -> bool:
        """A job is over; True when that may let the model go. One that went well shows that the
        model works: earlier tries helped.
        """
        held = self._held.get(model)
        if held is None or held.jobs == 0:
            return False
        held.jobs -= 1
        if well:
            held.failures = 0
        return held.state == "leaving" and held.jobs == 0

    def clear(self) -> None:
        """The Mac has stopped: everything goes with it."""
        self._held.clear()

    # ── what next ─────────────────────────────────────────────────────────────────────

    def advance(self, now_s: float) -> list[Load | Unload]:
        """Whatever is to be done now. Call it after every change, and now and then."""
        wanted = self._wanted_now()
        targets = self._fitting(wanted)
        self._settle(wanted, targets, now_s)
        effects: list[Load | Unload] = []
        for model, held in self._held.items():
            idle = held.jobs == 0 and now_s - held.since_s >= LEAVING_GRACE_S
            if held.state == "leaving" and not held.closing and idle:
                held.closing = True
                effects.append(Unload(model))
        following = self._next_load(targets, now_s)
        if following is not None:
            held = self._held.setdefault(following, _Held("loading", now_s))
            if held.failures:
                self.tries += 1
            held.enter("loading", now_s)
            effects.append(Load(following))
        return effects

    def _wanted_now(self) -> tuple[ModelId, ...]:
        """What was ordered; without orders, the first model that this Mac can have."""
        if self._wanted is not None or not self._asked:
            return self._wanted or ()
        models = self._offer.models
        for count, model in enumerate(models, start=1):
            held = self._held.get(model)
            if self._size(model) > self._memory() or (
                held is not None and held.state == "failed" and held.retry_at_s == inf
            ):
                continue
            return models[:count]
        return models

    def _memory(self) -> float:
        return self._offer.memory_bytes or inf

    def _size(self, model: ModelId) -> int:
        return self._bytes.get(model, 0)

    def _fitting(self, wanted: Sequence[ModelId]) -> list[ModelId]:
        """Those that fit together, the more urgent ones first."""
        room = self._memory()
        fitting = []
        for model in wanted:
            if model in self._bytes and self._size(model) <= room:
                fitting.append(model)
                room -= self._size(model)
        return fitting

    def _settle(self, wanted: Sequence[ModelId], targets: Sequence[ModelId], now_s: float) -> None:
        """Let the places follow what is wanted, as far as that takes no work."""
        for model, held in list(self._held.items()):
            if held.closing:
                continue
            if held.state == "ready" and model not in targets:
                held.enter("leaving", now_s)
            elif held.state == "leaving" and model in targets:
                held.enter("ready", now_s)
            elif held.state == "failed":
                self._follow_failed(model, held, wanted=model in wanted, fits=model in targets)
        for model in wanted:
            if model not in targets and model not in self._held:
                reason = self._why_not(model, wanted)
                self._held[model] = _Held("failed", now_s, reason, no_room=True)

    def _follow_failed(self, model: ModelId, held: _Held, *, wanted: bool, fits: bool) -> None:
        """What could not be loaded is told of until it is asked for anew, or its owner would see
        a Mac that is ready for nothing and no reason.
        """
        given_up = held.retry_at_s == inf and not held.no_room
        if wanted and (held.unwanted or (held.no_room and fits)):
            del self._held[model]
        elif not wanted and given_up:
            held.unwanted = True
        elif not wanted:
            del self._held[model]

    def _why_not(self, model: ModelId, wanted: Sequence[ModelId]) -> str:
        if model not in self._bytes:
            return "this Mac may not load it"
        urgent = self._fitting(wanted[: wanted.index(model)])
        left = self._memory() - sum(self._size(other) for other in urgent)
        beside = f" beside {', '.join(urgent)}" if urgent else ""
        return f"it needs {self._size(model) / GIB:.1f} GiB of {left / GIB:.1f} GiB left{beside}"

    def _next_load(self, targets: Sequence[ModelId], now_s: float) -> ModelId | None:
        """The most urgent model that can be loaded now, unless one is being loaded."""
        if any(held.state == "loading" for held in self._held.values()):
            return None
        taken = sum(
            self._size(model)
            for model, held in self._held.items()
            if held.closing or held.state in ("ready", "leaving")
        )
        for model in targets:
            held = self._held.get(model)
            due = held is None or (held.state == "failed" and held.retry_at_s <= now_s)
            closing = held is not None and held.closing
            if due and not closing and taken + self._size(model) <= self._memory():
                return model
        return None
