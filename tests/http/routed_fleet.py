"""The scripted Macs behind the router's own mind: wishes are met or refused as they would be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from market.errors import MarketError
from market.routing.log import DecisionRecord, OutcomeRecord, explain
from market.routing.messages import Busy, Grant, Outcome, Quote, Refused, RouteRequest
from market.routing.notes import Noted
from market.routing.state import RouterState
from market.types import GatewayId, ModelId, RequestId
from serve_app.limits import Limits
from serve_app.ports import GatewayPorts
from serve_app.served_model import ServedModel
from tests.http.memory_accountant import MAC_OWNER
from tests.http.memory_fleet import Fleet, Mac
from tests.http.memory_market import TEMPLATE, Market
from tests.router_kit import FACTS, gateway_beat, provider_beat

GATEWAY = GatewayId("gw_test")
SMALL, LARGE = ModelId("qwen3.5-7b"), ModelId("llama-3.3-70b")


class RoutedFleet(Fleet):
    """Macs that differ: `traits` are fields of a beat or of a model's facts, by Mac."""

    def __init__(self, *macs: Mac, **traits: dict[str, object]) -> None:
        super().__init__(*macs)
        self.traits = traits
        self.state = RouterState(started_s=time.monotonic() - 100.0)
        self.letters: dict[RequestId, Grant | Refused] = {}
        self.journal: list[DecisionRecord | OutcomeRecord] = []

    def beat(self) -> None:
        for mac in self.macs:
            told = dict(self.traits.get(mac.name, {}))
            models = told.pop("models", (FACTS.model,))
            facts = replace(FACTS, quantization=str(told.pop("quantization", "4bit")))
            beat = provider_beat(
                mac.name,
                slots=mac.slots,
                bandwidth_gbs=float(told.pop("bandwidth_gbs", 200.0)),  # type: ignore[arg-type]
                models=tuple(replace(facts, model=model) for model in models),  # type: ignore[attr-defined]
            )
            beat = replace(beat, owner=MAC_OWNER, ask_pct=mac.ask_pct, **told)  # type: ignore[arg-type]
            self.state.beat_provider(beat, time.monotonic())

    async def route(self, request: RouteRequest) -> Grant | Busy:
        self.requests.append(request)
        await asyncio.sleep(0)
        self.beat()
        (reply,) = self.state.route([request], time.monotonic())
        if isinstance(reply, MarketError):
            raise reply
        if isinstance(reply, Busy) and request.funding is not None:
            reply = await self._queued(request)
        if isinstance(reply, Grant):
            self.grants += 1
            self._mac(reply.machine).running += request.n
        return reply

    async def _queued(self, request: RouteRequest) -> Grant:
        while request.request_id not in self.letters:
            await asyncio.sleep(0.005)
            queued = tuple(r.request_id for r in self.requests if r.funding is not None)
            self.state.beat_gateway(gateway_beat(queued=queued, gateway=GATEWAY), time.monotonic())
            self.beat()
            self.state.tick(time.monotonic())
            for letter in self.state.take_mail(GATEWAY):
                self.letters[letter.request_id] = letter
        letter = self.letters.pop(request.request_id)
        if isinstance(letter, Refused):
            raise letter.error
        return letter

    def report(self, outcome: Outcome) -> None:
        super().report(outcome)
        self.state.report([outcome], time.monotonic())

    async def quote(self, request: RouteRequest) -> Quote:
        self.quoted.append(request)
        self.beat()
        (quote,) = self.state.quote([request], time.monotonic())
        return quote

    async def told(self, request_id: RequestId) -> Mapping[str, Any] | None:
        await super().told(request_id)
        for noted in self.state.take_journal():
            self.journal.append(noted.record() if isinstance(noted, Noted) else noted)
        return explain(request_id, [r for r in self.journal if r.request_id == request_id])

    def calibration(self) -> dict[ModelId, dict[str, object]]:
        return {ModelId(m): told for m, told in self.state.calibration().items()}


def routed_market(
    folder: Path, *macs: Mac, limits: Limits | None = None, **traits: dict[str, object]
) -> Market:
    """A market over such a fleet; its gateway has the text side of three models."""
    market = Market(folder, limits)
    fleet = RoutedFleet(*macs, **traits)
    market.fleet = fleet
    market.ports = replace(market.ports, router=fleet, providers=fleet)
    serve_more(market.ports, folder)
    market.rebuild(limits)
    return market


def serve_more(ports: GatewayPorts, folder: Path) -> None:
    """Let the gateway speak two more models of the catalogue; nobody need have them."""
    for model in (SMALL, LARGE):
        ports.models.add(  # type: ignore[attr-defined]
            ServedModel(
                model, folder / "tokenizer.json", chat_template=TEMPLATE, context_tokens=1024
            )
        )
