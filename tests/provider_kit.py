"""A Mac with several models whose engines take as long as the test says."""

from __future__ import annotations

from dataclasses import dataclass, field

from market.provider_places import LEAVING_GRACE_S, RETRY_DELAYS_S, Load, Offer, Unload
from market.provider_state import Deliver, Effect, ExitProcess, ProviderState
from market.types import Event, FinishReason, GatewayId, Job, ModelFacts, ModelId, RequestId

A, B, C, D = (ModelId(name) for name in "ABCD")
SIZES = {A: 4, B: 4, C: 3, D: 20}
OFFER = Offer((A, B, C, D), tuple(SIZES.values()), 10)
GATEWAY = GatewayId("gw")


def facts(model: ModelId) -> ModelFacts:
    return ModelFacts(model, "d", 100, 100, SIZES[model], 1, "4bit")


def job(name: str, model: ModelId) -> Job:
    return Job(RequestId(name), model, (1, 2), 5)


def end(name: str, finish: FinishReason = "stop") -> Event:
    return Event(RequestId(name), 0, (), "", 1, finish)


@dataclass
class Mac:
    """A Mac whose engines take as long as the test says. Checks the laws at every effect."""

    offer: Offer = OFFER
    now_s: float = 0.0
    loading: list[ModelId] = field(default_factory=list)
    engines: set[ModelId] = field(default_factory=set)
    closing: list[ModelId] = field(default_factory=list)
    broken: set[ModelId] = field(default_factory=set)
    jobs: dict[str, ModelId] = field(default_factory=dict)
    heard: list[Event] = field(default_factory=list)
    exited: bool = False
    room: float = OFFER.memory_bytes

    def __post_init__(self) -> None:
        self.state = ProviderState(self.offer)

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Carry out what was decided."""
        for effect in effects:
            if isinstance(effect, Load):
                assert not self.loading, "one load at a time"
                assert effect.model not in {*self.engines, *self.closing}
                self.loading.append(effect.model)
            elif isinstance(effect, Unload):
                running = [name for name, model in self.jobs.items() if model == effect.model]
                assert effect.model in self.broken or not running, "nothing under a running job"
                self.engines.remove(effect.model)
                self.closing.append(effect.model)
            elif isinstance(effect, Deliver):
                self.heard += effect.events
                for event in effect.events:
                    self.jobs.pop(event.request_id, None)
            elif isinstance(effect, ExitProcess):
                self.exited = True
        held = [*self.loading, *self.engines, *self.closing]
        assert sum(SIZES[model] for model in held) <= self.room, "memory is promised once"
        return effects

    def order(self, *models: ModelId) -> list[Effect]:
        return self.done(self.state.orders(drain=False, models=models, now_s=self.now_s))

    def tick(self, seconds: float = LEAVING_GRACE_S) -> list[Effect]:
        self.now_s += seconds
        return self.done(self.state.tick(self.now_s))

    def load(self) -> None:
        """What is being loaded is loaded."""
        for model in list(self.loading):
            self.loading.remove(model)
            self.engines.add(model)
            self.broken.discard(model)
            self.done(self.state.loaded(facts(model), self.now_s))

    def fail_load(self, *, permanent: bool = False) -> None:
        for model in list(self.loading):
            self.loading.remove(model)
            self.done(self.state.load_failed(model, "no", self.now_s, permanent=permanent))

    def close(self) -> None:
        """What is being closed is closed."""
        for model in list(self.closing):
            self.closing.remove(model)
            self.done(self.state.unloaded(model, self.now_s))

    def submit(self, name: str, model: ModelId) -> None:
        self.state.submit(job(name, model), GATEWAY, self.now_s)
        self.jobs[name] = model

    def finish(self, name: str) -> None:
        if name in self.jobs:
            self.done(self.state.events([end(name)], self.now_s))

    def break_engine(self, model: ModelId) -> None:
        if model in self.engines:
            self.broken.add(model)
            self.done(self.state.engine_unhealthy(model, "stuck", self.now_s))

    def settle(self) -> None:
        """Let everything that was begun come to its end."""
        for name in list(self.jobs):
            self.finish(name)
        for _ in range(12):
            self.load()
            self.close()
            self.tick(max(RETRY_DELAYS_S))

    def places(self) -> dict[ModelId, str]:
        return {place.model: place.state for place in self.state.snapshot(self.now_s).places}


def mac_with(*models: ModelId) -> Mac:
    mac = Mac()
    mac.order(*models)
    for _ in models:
        mac.load()
    assert mac.engines == set(models)
    return mac
